"""The references (real images) of a refinement, and the choice of a reference for each patch.

A patch gets the *style* of its chosen reference: its stains and the texture of its nuclei. By
default this is the patch's own reference, the image that ``generate`` imitated.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput
from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.model.normalisation import glass_to_white, white_to_glass
from histocli.optics.density import white_level
from histocli.optics.stains import stain_angle
from histocli.reference.restaining import restain_like
from histocli.stages.refine.plan import Refinement
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import Source, patch_glass_levels
from histocli.stores.patches import PatchStore, ReferenceRecord
from histocli.training.adversarial.sampling import InitialPatches, RealPatches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Styles:
    """The patches of the references, and the reference whose style each initial patch gets."""

    initial: PatchStore
    records: list[ReferenceRecord]  # the initial store's, then one for each new reference
    record_of: npt.NDArray[np.int32]  # (n,), index in ``records`` of each patch's reference
    real: RealPatches
    style_of: npt.NDArray[np.int64]  # (n,), number of that reference in ``real.image_of``
    own: npt.NDArray[np.bool_]  # (n,), whether that reference is the patch's own
    seed: int

    @property
    def n_references(self) -> int:
        """Number of references that real patches were cut from."""
        return int(self.real.image_of.max()) + 1

    def crops(self, patches: Sequence[int]) -> RealPatches:
        """Return for each patch a real patch of its style's reference, the same at every call."""
        chosen = []
        for patch in patches:
            shown = np.flatnonzero(self.real.image_of == self.style_of[patch])
            chosen.append(rng_for(self.seed, "reference patch", patch).choice(shown))
        return self.real.part(np.array(chosen))

    def read_white(self, patches: npt.NDArray[np.integer]) -> InitialPatches:
        """Read the given initial patches, glass made white, in the stains of their references."""
        side = self.initial.patch_px
        images = np.empty((len(patches), side, side, 3), np.uint8)
        labels = np.empty((len(patches), side, side), np.int32)
        place = {int(patch): index for index, patch in enumerate(patches)}
        for batch in self.initial.batches():
            if not any(patch in place for patch in batch):
                continue
            read, read_labels = self.initial.read(batch)
            white = self.whiten(batch, read)
            for patch, image, label in zip(batch, white, read_labels, strict=True):
                if patch in place:
                    images[place[patch]], labels[place[patch]] = image, label
        return InitialPatches(images, labels, self.style_of[patches])

    def whiten(self, batch: range, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Make glass white; restain patches whose style is not that of their own reference."""
        white = []
        levels = patch_glass_levels(self.initial, batch, images)
        for patch, image, level in zip(batch, images, levels, strict=True):
            white.append(glass_to_white(image, level))
            if not self.own[patch]:
                before = _appearance(self.initial.references[self.initial.reference[patch]])
                white[-1] = restain_like(white[-1], before, self._appearance_of(patch))
        return np.stack(white)

    def darken(
        self,
        batch: range,
        refined: npt.NDArray[np.uint8],
        closed: npt.NDArray[np.bool_],
        read: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint8]:
        """Darken the white glass of refined patches to the level of their references.

        Pixels where ``closed`` is True were not repainted: there the pixels ``read`` from the
        initial store are returned bit for bit, unless the patch was restained.
        """
        images = np.empty_like(refined)
        for index, patch in enumerate(batch):
            level = self.glass_level(patch, read[index])
            images[index] = white_to_glass(refined[index], level)
            if self.own[patch]:
                images[index] = np.where(closed[index][..., None], read[index], images[index])
        return images

    def glass_level(self, patch: int, image: RGBImage) -> float:
        """Return the brightness of glass: recorded for a patch's reference, else of ``image``."""
        recorded = self._appearance_of(patch).get("white_level")
        return white_level(image) if recorded is None else float(recorded)

    def _appearance_of(self, patch: int) -> Json:
        return _appearance(self.records[self.record_of[patch]])


def read_styles(job: Refinement) -> Styles:
    """Cut patches from the references, and choose a reference for each initial patch.

    Raises InvalidInput if a reference cannot be read, or none shows nuclei.
    """
    initial = job.initial
    sources, cut = _cut_references(job)
    records = [replace(record) for record in initial.references]
    number = {record.sha256: index for index, record in reversed(list(enumerate(records)))}
    record_of_source = []
    for source, part in zip(sources, cut, strict=True):
        if source.sha256 in number:
            record_of_source.append(number[source.sha256])
            continue
        record_of_source.append(len(records))
        records.append(
            ReferenceRecord(
                name=source.path.name,
                sha256=source.sha256,
                mpp=source.mpp,
                mpp_source=source.mpp_source,
                statistics=part.statistics or {},
                path=str(source.path.absolute()),
            )
        )
    style_of, own = _choose(job, sources)
    _warn_of_other_stains(
        [records[index] for index in np.unique(initial.reference)],
        [records[index] for index in record_of_source],
    )
    return Styles(
        initial,
        records,
        np.where(own, initial.reference, np.array(record_of_source)[style_of]).astype(np.int32),
        RealPatches.joined([part.images for part in cut], [part.nuclei for part in cut]),
        style_of,
        own,
        job.config.seed,
    )


def _cut_references(job: Refinement) -> tuple[list[Source], list[CutPatches]]:
    """Cut patches from references; returns the references that show nuclei, and their patches."""
    initial, sources, seed = job.initial, job.sources, job.config.seed
    most_references, most_patches = 512, 1536  # patches of 256 px, all held in memory
    if len(sources) > most_references:
        rng = rng_for(seed, "sources")
        chosen = np.sort(rng.choice(len(sources), most_references, replace=False))
        logger.warning("%d of %d references are used", most_references, len(sources))
        sources = [sources[int(i)] for i in chosen]
    side = initial.patch_px
    most = max(2, most_patches * 256**2 // side**2 // len(sources))
    known = {record.sha256 for record in initial.references}
    found = cut_all(
        sources,
        Cutting(initial.mpp, side, most, seed),
        workers=job.execution.workers,
        track=job.track,
        stopped=f"{job.out}: stopped before the first step; run it again",
        measured=[source for source in sources if source.sha256 not in known],
    )
    used, cut = [], []
    for source, part in zip(sources, found, strict=True):
        if isinstance(part, CutPatches):
            if len(part.images):
                used.append(source)
                cut.append(part)
        elif job.execution.on_error == "stop":
            raise InvalidInput(str(part))
        else:
            logger.warning("%s", part)
    if not cut:
        raise InvalidInput(
            f"{sources[0].path}: none of the {len(sources)} references shows nuclei; "
            "give images of stained tissue"
        )
    if len(cut) < len(sources):
        logger.warning(
            "%d of %d references show no nuclei and are left out",
            len(sources) - len(cut),
            len(sources),
        )
    if len(cut) == 1:
        logger.warning(
            "there is one reference: style cannot be learnt, and critics are judged on patches of "
            "the same image"
        )
    return used, cut


def _choose(
    job: Refinement, sources: list[Source]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the number of each patch's reference, and whether it is the patch's own.

    A random reference is taken with ``--restyle``, or if a patch's own is not among the sources.
    """
    number = {source.sha256: index for index, source in enumerate(sources)}
    records = job.initial.references
    made_from = np.array([number.get(record.sha256, -1) for record in records])
    made_from = made_from[job.initial.reference]
    foreign = made_from < 0
    if foreign.any() and not job.config.restyle:
        logger.warning(
            "%d of %d patches were made from images that are not among the references; "
            "they get the stains of others",
            int(foreign.sum()),
            len(made_from),
        )
    seed, n = job.config.seed, len(made_from)
    picks = [rng_for(seed, "style", patch).integers(len(sources)) for patch in range(n)]
    drawn = np.array(picks, np.int64)
    style_of = drawn if job.config.restyle else np.where(foreign, drawn, made_from)
    return style_of, style_of == made_from


def _warn_of_other_stains(
    before: Sequence[ReferenceRecord], after: Sequence[ReferenceRecord]
) -> None:
    """Warn if the stains of the patches and of the references differ by more than 25 degrees."""

    def matrices(records: Sequence[ReferenceRecord]) -> list[npt.NDArray[np.float64]]:
        recorded = [
            np.array(_appearance(each).get("stain_matrix") or (), float) for each in records
        ]
        return [matrix for matrix in recorded if matrix.shape == (2, 3)]

    stains, others = matrices(before), matrices(after)
    if not stains or not others:
        return
    angle = stain_angle(stains, others)
    if angle > 25.0:
        logger.warning(
            "the references are stained otherwise than the patches (%.0f degrees apart); "
            "is that meant?",
            angle,
        )


def _appearance(record: ReferenceRecord) -> Json:
    appearance: Json = record.statistics.get("appearance", {})
    return appearance
