"""References, the real images that patches imitate: named by the user or recorded in a store."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histocli.base.errors import HistosynthError, InputNotFound
from histocli.base.files import content_hash
from histocli.base.inputs import InputImage, expand_with_mpp
from histocli.base.interrupts import raise_if_stopped
from histocli.base.types import RGBImage
from histocli.slides.open import SLIDE_SUFFIXES, read_image, read_pixel_size
from histocli.stores.patches import PatchStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One reference: any slide or image that ``segment`` takes."""

    path: Path
    sha256: str
    mpp: float  # micrometres per pixel
    mpp_source: str  # where the pixel size comes from, such as "assumed"

    def read(self) -> RGBImage:
        """Return all pixels, not resampled."""
        return read_image(self.path, mpp=self.mpp).pixels


def named_references(
    words: Sequence[str], *, keep_missing: bool = False, what: str = "reference image"
) -> list[InputImage]:
    """Return the references that the user names; :mod:`histocli.base.inputs` explains the words.

    With ``keep_missing``, a missing file is returned too, so that only this file fails later.
    """
    return expand_with_mpp(
        words, suffixes=SLIDE_SUFFIXES, stdin=sys.stdin, what=what, keep_missing=keep_missing
    )


def recorded_references(store: PatchStore) -> list[InputImage]:
    """Return the references that a store records; ``InputNotFound`` if one is gone or changed."""
    paths = {record.path: record for record in store.references if record.path}
    if not paths:
        hint = "name them with --refs"
        raise InputNotFound(f"{store.path}: does not record where its references lay; {hint}")
    for path, record in paths.items():
        if not Path(path).exists() or content_hash(Path(path)) != record.sha256:
            raise InputNotFound(
                f"{path}: the reference that {store.path.name} records is gone or has changed; "
                "name the references with --refs"
            )
    return [InputImage(Path(path), record.mpp) for path, record in paths.items()]


def reference_images(
    store: PatchStore, words: Sequence[str], *, keep_missing: bool
) -> list[InputImage]:
    """Return the references that the user names; without words, the store's recorded ones."""
    if not words:
        return recorded_references(store)
    return named_references(words, keep_missing=keep_missing)


def identify_references(
    images: Sequence[InputImage],
    *,
    mpp: float,
    reference_mpp: float | None,
    tolerant: bool,
    command: str,
) -> tuple[list[Source], list[str]]:
    """Hash references and find their pixel sizes, before any work is done.

    Parameters
    ----------
    mpp : float
        Pixel size of the patches, micrometres. References more than 30 % coarser cause a warning.
    reference_mpp : float, optional
        Replaces the pixel sizes that the references record, but not those of ``images``.
    tolerant : bool
        Leave out references that cannot be read.
    command : str
        Name of the command, for messages.

    Returns
    -------
    sources : list of Source
    failed : list of str
        Paths of the references that were left out.

    Raises
    ------
    InputNotFound, InvalidInput
        A reference cannot be read, or, if ``tolerant``, none can.
    """
    sources, failed = [], []
    for image in images:
        raise_if_stopped(f"{command}: stopped before anything was made; run it again")
        try:
            size = read_pixel_size(image.path, mpp=image.mpp or reference_mpp)
            source = Source(image.path, content_hash(image.path), size.mpp, size.source)
        except HistosynthError as error:
            if not tolerant:
                raise
            logger.warning("%s", error)
            failed.append(str(image.path))
            continue
        sources.append(source)
        if source.mpp > 1.3 * mpp:
            text = "%s: has %.3g um/px, coarser than the patches' %.3g; they will be blurred. "
            logger.warning(text + "Set --mpp %.3g", source.path, source.mpp, mpp, source.mpp)
    if not sources:
        n = len(images)
        raise InputNotFound(f"none of the {n} references can be read; see the messages above")
    if assumed := [source.mpp for source in sources if source.mpp_source == "assumed"]:
        text = (
            "%d of %d references record no pixel size; %.3g um/px is assumed. "
            "Give --reference-mpp where that is wrong"
        )
        logger.warning(text, len(assumed), len(sources), assumed[0])
    return sources, failed


def patch_glass_levels(
    store: PatchStore, patches: range, images: npt.NDArray[np.uint8]
) -> list[float]:
    """Return the brightness of empty glass for each patch of a range.

    A patch has the recorded level of its reference, which was measured on far more pixels. If the
    store records none, the patch itself is measured: ``images``, shape (len(patches), H, W, 3).
    """
    # imported here because it loads torch, which evaluate and info do not need
    from histocli.optics.density import white_level

    looks = [record.statistics.get("appearance", {}) for record in store.references]
    levels = [looks[store.reference[patch]].get("white_level") for patch in patches]
    return [
        white_level(image) if level is None else float(level)
        for level, image in zip(levels, images, strict=True)
    ]
