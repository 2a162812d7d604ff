"""``histosynth pack``: images and their labels become a patch store.

An image and its labels have the same name, apart from the suffix. A window is the place of a
patch in its image; :mod:`histocli.instances.cutting` chooses windows and cuts patches.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.types import RGBImage
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.pack import PackConfig
from histocli.instances.cutting import Window, cut_patch, looks_like_a_mask, windows_of
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.labelled import LabelledImage, find_labelled_images
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance

logger = logging.getLogger(__name__)

SAME_MPP = 0.02  # relative difference up to which two pixel sizes count as equal


@dataclass(frozen=True, kw_only=True)
class PackResult(StageResult):
    """Counts and pixel size of the patch store that packing made."""

    schema: ClassVar[str] = "histosynth.pack/1"

    images: int
    patches: int
    nuclei: int | None
    """Nuclei in all patches; one that a border cuts counts in each patch. None before patches are
    written."""
    mpp: float
    mpp_source: str


@dataclass(frozen=True)
class _Checked:
    """Result of reading all labelled images once."""

    records: list[ReferenceRecord]
    patches: list[tuple[int, Window]]
    """For each patch the index of its image, and its window."""


def pack(
    images: str | Sequence[str],
    labels: str | Sequence[str],
    out: Path,
    config: PackConfig,
    execution: Execution,
    *,
    track: Track = silent,
) -> PackResult:
    """Make a patch store of origin ``labelled`` from images and label images with the same names.

    Parameters
    ----------
    images, labels : str or sequence of str
        Words as in :mod:`histocli.base.inputs`. A manifest of images may give pixel sizes.
    out : Path
        Patch store to make.

    Raises
    ------
    InputNotFound, InvalidInput
        An invalid pair ends the command before anything is written, whatever ``on_error`` says.
    StoreExists, OutOfResources, Stopped
        As in all commands.
    """
    watch = Stopwatch.of_command()
    pairs = find_labelled_images(images, labels)
    identities = [
        [pair.labels.name, pair.image_sha256, pair.labels_sha256, pair.mpp] for pair in pairs
    ]
    fingerprint = config_hash(config, pairs=identities)
    checked = cache(lambda: _check(pairs, config, track))

    def make(work: Work[PackResult]) -> PackResult:
        provenance = Provenance(
            contract=CONTRACT, command="pack", config=as_dict(config), config_hash=fingerprint
        )
        with PatchStoreWriter(
            out,
            n=work.planned.patches,
            patch_px=config.patch_px,
            mpp=work.planned.mpp,
            origin="labelled",
            references=checked().records,
            provenance=provenance,
            shippable=config.shippable,
        ) as writer:
            _write_patches(writer, pairs, checked().patches, track)
            writer.finish()
        return replace(work.planned, nuclei=_count_nuclei(PatchStore.open(out)))

    plan = Plan(
        out=out,
        contract=CONTRACT,
        fingerprint=fingerprint,
        planned=lambda: _result(out, checked().records, len(checked().patches)),
        found=lambda: _result(out, (store := PatchStore.open(out)).references, len(store)),
        watch=watch,
    )
    return carry_out(plan, execution, make)


def _result(out: Path, records: Sequence[ReferenceRecord], patches: int) -> PackResult:
    """Return the result for a store of ``patches`` patches, without a count of nuclei."""
    return PackResult(
        output=str(out),
        images=len(records),
        patches=patches,
        nuclei=None,
        mpp=records[0].mpp,
        mpp_source=records[0].mpp_source,
    )


def _check(pairs: Sequence[LabelledImage], config: PackConfig, track: Track) -> _Checked:
    """Read every pair once, so that an invalid pair is refused before anything is written."""
    records: list[ReferenceRecord] = []
    patches: list[tuple[int, Window]] = []
    n_masks = 0
    with track("checking images and labels", len(pairs)) as bar:
        for index, pair in enumerate(pairs):
            raise_if_stopped("pack was stopped before it wrote anything; run it again")
            slide = pair.read(config.mpp if config.mpp is not None else pair.mpp)
            shape = (slide.pixels.shape[0], slide.pixels.shape[1])
            labels = pair.read_labels(shape)
            _check_labels(pair, shape, labels)
            n_masks += looks_like_a_mask(labels)
            records.append(
                ReferenceRecord(
                    name=pair.name,
                    sha256=pair.image_sha256,
                    mpp=slide.mpp,
                    mpp_source=slide.mpp_source,
                )
            )
            if abs(slide.mpp / records[0].mpp - 1) > SAME_MPP:
                raise InvalidInput(
                    f"{pair.image}: has {slide.mpp:g} micrometres per pixel and {pairs[0].image} "
                    f"has {records[0].mpp:g}; a patch store has one pixel size, so pack them into "
                    "two stores or give --mpp"
                )
            patches += [(index, window) for window in windows_of(shape, config.patch_px)]
            bar.advance()
    if n_masks:
        logger.warning(
            "%d of %d label images hold one id for several separate objects; if they are masks, "
            "label each nucleus first",
            n_masks,
            len(pairs),
        )
    if records[0].mpp_source == "assumed":
        logger.warning(
            "the images do not record their pixel size; %g micrometres per pixel are assumed, "
            "--mpp sets it",
            records[0].mpp,
        )
    return _Checked(records, patches)


def _check_labels(
    pair: LabelledImage, shape: tuple[int, ...], labels: npt.NDArray[np.integer]
) -> None:
    if labels.shape != shape:
        raise InvalidInput(
            f"{pair.image} with {pair.labels.source}: the image has {shape[0]} x {shape[1]} pixels "
            f"and the labels {' x '.join(map(str, labels.shape))}; both must be of the same size"
        )
    if labels.min() < -1:
        raise InvalidInput(
            f"{pair.labels.source}: holds {labels.min()}; labels are 0 (background), ids from 1, "
            "and -1 (ignored)"
        )


def _write_patches(
    writer: PatchStoreWriter,
    pairs: Sequence[LabelledImage],
    patches: Sequence[tuple[int, Window]],
    track: Track,
) -> None:
    """Cut the patches that the store does not hold yet, and write them."""

    @lru_cache(maxsize=1)  # patches of one image follow each other
    def read(index: int) -> tuple[RGBImage, npt.NDArray[np.integer]]:
        # the given pixel size has no effect: only the pixels are used
        pixels = pairs[index].read(1.0).pixels
        return pixels, pairs[index].read_labels((pixels.shape[0], pixels.shape[1]))

    pending = writer.pending()
    with track("packing patches", sum(map(len, pending))) as bar:
        for batch in pending:
            raise_if_stopped(f"{writer.target}: pack was stopped; run it again to go on")
            chosen = patches[batch.start : batch.stop]
            cut = [cut_patch(*read(index), window, writer.patch_px) for index, window in chosen]
            pixels, labels = map(np.stack, zip(*cut, strict=True))
            writer.write(
                batch,
                pixels,
                labels,
                np.ones(len(batch), np.float32),
                np.array([index for index, _ in chosen], np.int32),
            )
            bar.advance(len(batch))


def _count_nuclei(store: PatchStore) -> int:
    highest = (store.read(batch)[1].max(axis=(1, 2)) for batch in store.batches())
    return sum(int(np.maximum(numbers, 0).sum()) for numbers in highest)
