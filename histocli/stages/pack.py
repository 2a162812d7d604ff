"""``histosynth pack``: a person's own labelled images become a patch store.

An image and its label image have the same name, apart from the suffix. Larger images are cut:
windows start at the origin, the last one of a row or column ends with the image, and pixels that an
earlier window holds are ignored (-1) in a later one, so that every labelled pixel counts exactly
once. Smaller images are filled up with mirrored pixels, which are ignored. Nuclei that a patch
border cuts stay, and the ids of every patch are renumbered 1..n in the order of the old ones.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from histocli.annotations.images import LABEL_SUFFIXES, read_label_image
from histocli.base.errors import InvalidInput
from histocli.base.files import content_hash
from histocli.base.inputs import InputImage, expand_inputs, expand_with_mpp
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.types import InstanceLabels, RGBImage
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.pack import PackConfig
from histocli.slides.open import SLIDE_SUFFIXES, read_image
from histocli.slides.slide import slide_stem
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import prepare_output

logger = logging.getLogger(__name__)

SAME_MPP = 0.02  # relative; headers round, and 0.2500 and 0.2519 are one scanner


@dataclass(frozen=True, kw_only=True)
class PackResult(StageResult):
    """What packing made."""

    schema: ClassVar[str] = "histosynth.pack/1"

    images: int
    """Labelled images that went in."""
    patches: int
    """Patches that they gave."""
    nuclei: int | None
    """Nuclei in all patches, those cut by a border counted on each side; None where nothing was
    read."""
    mpp: float
    """Micrometres per pixel of the patches."""
    mpp_source: str
    """Where that comes from."""


@dataclass(frozen=True)
class _Pair:
    """An image, its labels, and what the files are."""

    image: InputImage
    labels: Path
    image_sha256: str
    labels_sha256: str

    def __str__(self) -> str:
        return f"{self.image.path} with {self.labels}"


@dataclass(frozen=True)
class _Window:
    """One patch to be: where it lies in which pair, and where its own pixels begin."""

    pair: int
    y: int
    x: int
    own_y: int
    own_x: int


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
        Words as in :mod:`histocli.base.inputs`: folders, files, patterns, lists; a manifest may
        give pixel sizes.
    out : Path
        Patch store to create.
    config : PackConfig
    execution : Execution
        One bad pair ends the command before anything is written, whatever ``on_error`` says.
    track : Track
        Shows progress.

    Returns
    -------
    PackResult

    Raises
    ------
    InputNotFound
        No images, or no labels.
    InvalidInput
        Images without labels or the reverse, a pair whose shapes differ, pixel sizes that differ,
        or a file that cannot be read.
    StoreExists, OutOfResources, Stopped
        As in all commands.
    """
    watch = Stopwatch()
    pairs = _find_pairs(
        [images] if isinstance(images, str) else images,
        [labels] if isinstance(labels, str) else labels,
    )
    fingerprint = config_hash(
        config,
        pairs=[
            [slide_stem(pair.image.path), pair.image_sha256, pair.labels_sha256, pair.image.mpp]
            for pair in pairs
        ],
    )
    action = prepare_output(
        out,
        contract=CONTRACT,
        config_hash=fingerprint,
        resume=execution.resume,
        overwrite=execution.overwrite,
        dry_run=execution.dry_run,
    )
    if action == "skip":
        store = PatchStore.open(out)
        return PackResult(
            output=str(out),
            status="skipped",
            seconds=watch.seconds,
            images=len(store.references),
            patches=len(store),
            nuclei=None,
            mpp=store.mpp,
            mpp_source=store.references[0].mpp_source,
        )
    records, windows = _check_pairs(pairs, config, track)
    mpp, mpp_source = records[0].mpp, records[0].mpp_source
    if mpp_source == "assumed":
        logger.warning(
            "the images do not record their pixel size; %g micrometres per pixel are assumed, --mpp sets it",
            mpp,
        )
    n_nuclei = 0
    if not execution.dry_run:
        provenance = Provenance(
            contract=CONTRACT, command="pack", config=as_dict(config), config_hash=fingerprint
        )
        with PatchStoreWriter(
            out,
            n=len(windows),
            patch_px=config.patch_px,
            mpp=mpp,
            origin="labelled",
            references=records,
            provenance=provenance,
            shippable=config.shippable,
        ) as writer:
            _write_patches(writer, pairs, windows, track)
            writer.finish()
        n_nuclei = _count_nuclei(PatchStore.open(out))
    return PackResult(
        output=str(out),
        status="planned" if execution.dry_run else "done",
        seconds=watch.seconds,
        images=len(pairs),
        patches=len(windows),
        nuclei=None if execution.dry_run else n_nuclei,
        mpp=mpp,
        mpp_source=mpp_source,
    )


def window_starts(length: int, patch_px: int) -> list[int]:
    """Return where windows begin along one axis: side by side from 0, and the last one ends with
    the image.

    >>> window_starts(10, 4), window_starts(8, 4), window_starts(3, 4)
    ([0, 4, 6], [0, 4], [0])
    """
    if length <= patch_px:
        return [0]
    starts = list(range(0, length - patch_px + 1, patch_px))
    return starts if starts[-1] + patch_px == length else [*starts, length - patch_px]


def cut_patch(
    image: RGBImage,
    labels: npt.NDArray[np.integer],
    window: tuple[int, int, int, int],
    patch_px: int,
) -> tuple[RGBImage, InstanceLabels]:
    """Cut one patch out of a labelled image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    labels : ndarray of integers, shape (H, W)
        0 = background, -1 = ignored, ids in any numbering.
    window : (y, x, own_y, own_x)
        The patch's corner, and the first row and column that no earlier patch holds.
    patch_px : int
        Side of the patch.

    Returns
    -------
    image : ndarray of uint8, shape (patch_px, patch_px, 3)
        Mirrored where the image ends.
    instance_labels : ndarray of int32, shape (patch_px, patch_px)
        Ids 1..n; -1 where the patch is not the owner of the pixel or the image ends.
    """
    y, x, own_y, own_x = window
    pixels = image[y : y + patch_px, x : x + patch_px]
    kept = np.full((patch_px, patch_px), -1, np.int64)
    own = labels[own_y : y + patch_px, own_x : x + patch_px]
    kept[own_y - y : own_y - y + own.shape[0], own_x - x : own_x - x + own.shape[1]] = own
    ids, numbers = np.unique(kept, return_inverse=True)
    fresh = np.where(ids > 0, np.cumsum(ids > 0), ids)
    missing = [(0, patch_px - side) for side in pixels.shape[:2]]
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric"), fresh[numbers].reshape(
        kept.shape
    ).astype(np.int32)


def _find_pairs(image_words: Sequence[str], label_words: Sequence[str]) -> list[_Pair]:
    """Pair images and labels by name; where a name occurs twice, the folders above it decide."""
    images = expand_with_mpp(image_words, suffixes=SLIDE_SUFFIXES, stdin=sys.stdin)
    labels = expand_inputs(
        label_words, suffixes=LABEL_SUFFIXES, stdin=sys.stdin, what="label image"
    )
    by_path = {image.path: image for image in images}
    image_keys, label_keys = (_keys(paths, with_folders=False) for paths in (list(by_path), labels))
    if len(image_keys) < len(images) or len(label_keys) < len(labels):
        image_keys, label_keys = (
            _keys(paths, with_folders=True) for paths in (list(by_path), labels)
        )
    for ours, theirs, what, other in (
        (image_keys, label_keys, "an image", "a label image"),
        (label_keys, image_keys, "a label image", "an image"),
    ):
        alone = [str(path) for key, path in ours.items() if key not in theirs]
        if alone:
            more = f" ({len(alone)} of {len(ours)} are alone)" if len(alone) > 1 else ""
            raise InvalidInput(
                f"{alone[0]}: is {what} without {other} of the same name{more}; every image needs its labels under its own "
                "name, the suffix aside"
            )
    return [
        _Pair(by_path[path], label_keys[key], content_hash(path), content_hash(label_keys[key]))
        for key, path in image_keys.items()
    ]


def _keys(paths: Sequence[Path], *, with_folders: bool) -> dict[tuple[str, ...], Path]:
    """Name every path by its stem, and by its folders below what all paths have in common if the
    stems do not tell all apart.

    Raises
    ------
    InvalidInput
        Two files of one folder have the same stem.
    """
    root = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    keys: dict[tuple[str, ...], Path] = {}
    for path in paths:
        folders = (
            Path(os.path.relpath(os.path.abspath(path.parent), root)).parts if with_folders else ()
        )
        other = keys.setdefault((*folders, slide_stem(path)), path)
        if other != path and (with_folders or other.parent == path.parent):
            raise InvalidInput(
                f"{path}: has the same name as {other}, the suffix aside; names in one folder must differ"
            )
    return keys


def _check_pairs(
    pairs: Sequence[_Pair], config: PackConfig, track: Track
) -> tuple[list[ReferenceRecord], list[_Window]]:
    """Read every pair once, so that a bad one ends the command before anything is written."""
    records: list[ReferenceRecord] = []
    windows: list[_Window] = []
    n_masks = 0
    with track("checking images and labels", len(pairs)) as bar:
        for index, pair in enumerate(pairs):
            raise_if_stopped("pack was stopped before it wrote anything; run it again")
            slide = read_image(
                pair.image.path, mpp=config.mpp if config.mpp is not None else pair.image.mpp
            )
            label_image = read_label_image(pair.labels)
            _check_labels(pair, slide.pixels.shape[:2], label_image)
            n_masks += _looks_like_a_mask(label_image)
            records.append(
                ReferenceRecord(
                    name=pair.image.path.name,
                    sha256=pair.image_sha256,
                    mpp=slide.mpp,
                    mpp_source=slide.mpp_source,
                )
            )
            if abs(slide.mpp / records[0].mpp - 1) > SAME_MPP:
                raise InvalidInput(
                    f"{pair.image.path}: has {slide.mpp:g} micrometres per pixel and {pairs[0].image.path} has "
                    f"{records[0].mpp:g}; a patch store has one pixel size, so pack them into two stores or give --mpp"
                )
            windows.extend(_windows(index, slide.pixels.shape[:2], config.patch_px))
            bar.advance()
    if n_masks:
        logger.warning(
            "%d of %d label images hold one id for several separate objects; if they are masks, label each nucleus first",
            n_masks,
            len(pairs),
        )
    return records, windows


def _check_labels(pair: _Pair, shape: tuple[int, ...], labels: npt.NDArray[np.integer]) -> None:
    if labels.shape != shape:
        raise InvalidInput(
            f"{pair}: the image has {shape[0]} x {shape[1]} pixels and the labels {' x '.join(map(str, labels.shape))}; "
            "both must be of the same size"
        )
    if labels.min() < -1:
        raise InvalidInput(
            f"{pair.labels}: holds {labels.min()}; labels are 0 (background), ids from 1, and -1 (ignored)"
        )


def _looks_like_a_mask(labels: npt.NDArray[np.integer]) -> bool:
    """Tell whether one id covers several separate objects, as when nuclei were painted and never
    numbered.
    """
    inside = labels > 0
    if not inside.any() or labels[inside].min() != labels.max():
        return False
    return int(cv2.connectedComponents(inside.astype(np.uint8))[0]) > 2  # the background counts


def _windows(pair: int, shape: tuple[int, ...], patch_px: int) -> Iterator[_Window]:
    rows, columns = (_starts_and_owned(length, patch_px) for length in shape)
    for y, own_y in rows:
        for x, own_x in columns:
            yield _Window(pair, y, x, own_y, own_x)


def _starts_and_owned(length: int, patch_px: int) -> list[tuple[int, int]]:
    """Return windows' starts, each with the first pixel that no earlier window holds."""
    starts = window_starts(length, patch_px)
    return [(0, 0), *((start, before + patch_px) for before, start in pairwise(starts))]


def _write_patches(
    writer: PatchStoreWriter, pairs: Sequence[_Pair], windows: Sequence[_Window], track: Track
) -> None:
    side = writer.patch_px
    pending = writer.pending()
    held = -1  # windows of one image follow each other, so it is read once
    image: RGBImage = np.zeros((1, 1, 3), np.uint8)
    labels: npt.NDArray[np.integer] = np.zeros((1, 1), np.int32)
    with track("packing patches", sum(map(len, pending))) as bar:
        for batch in pending:
            raise_if_stopped(f"{writer.target}: pack was stopped; run it again with --resume")
            patches = np.empty((len(batch), side, side, 3), np.uint8)
            patch_labels = np.empty((len(batch), side, side), np.int32)
            for row, window in enumerate(windows[batch.start : batch.stop]):
                if window.pair != held:
                    held = window.pair
                    # the pixel size is known, and not wanted here
                    image = read_image(pairs[held].image.path, mpp=1.0).pixels
                    labels = read_label_image(pairs[held].labels)
                patches[row], patch_labels[row] = cut_patch(
                    image, labels, (window.y, window.x, window.own_y, window.own_x), side
                )
            reference = np.array(
                [window.pair for window in windows[batch.start : batch.stop]], np.int32
            )
            writer.write(batch, patches, patch_labels, np.ones(len(batch), np.float32), reference)
            bar.advance(len(batch))


def _count_nuclei(store: PatchStore) -> int:
    return sum(
        int(np.maximum(store.read(batch)[1].max(axis=(1, 2)), 0).sum()) for batch in store.batches()
    )
