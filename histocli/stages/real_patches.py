"""Patches of reference images, cut so that they can be held beside synthetic ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from histocli.annotations.sources import LabelSource
from histocli.base.errors import HistosynthError, InvalidInput
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.instances.components import renumber
from histocli.metrics.counts import count
from histocli.model.normalisation import glass_to_white
from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.reference.rough import find_rough_nuclei
from histocli.slides.resampling import resample, resample_labels
from histocli.stages.shared.references import Source


@dataclass(frozen=True)
class CutPatches:
    """Patches of one reference."""

    images: npt.NDArray[np.uint8]
    """(n, side, side, 3), glass made white."""
    nuclei: npt.NDArray[np.bool_]
    """(n, side, side), rough."""
    pixels: npt.NDArray[np.uint8]
    """(H, W, 3), the whole reference at the pixel size of the patches, its glass as it was."""
    labels: npt.NDArray[np.int32] | None = None
    """(n, side, side), 1..k in each patch, where labels were given."""


def label_agreement(
    labels: npt.NDArray[np.int32], image: npt.NDArray[np.uint8], mpp: float
) -> float:
    """Tell how well labels fit a picture: the AJI of the labels with the rough nuclei that are
    found in it.

    Parameters
    ----------
    labels : ndarray of int32, shape (H, W)
        -1 is ignored.
    image : ndarray of uint8, shape (H, W, 3)
        Glass made white.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    float
        0..1. Rough nuclei are rough: only differences between two pictures with the same labels say
        something.
    """
    return count(labels, find_rough_nuclei(rgb_to_optical_density(image), mpp).labels).aji


def cut_real_patches(
    source: Source, mpp: float, side: int, most: int, seed: int, labels: LabelSource | None = None
) -> CutPatches:
    """Cut patches with nuclei from a reference; they do not overlap.

    Parameters
    ----------
    source : Source
    mpp : float
        Pixel size of the patches, micrometres.
    side : int
        Of a patch; a smaller reference is mirrored.
    most : int
        More are drawn from at random.
    seed : int
    labels : LabelSource, optional
        Nuclei of the reference that somebody or something outlined; cut at the same places.

    Returns
    -------
    CutPatches

    Raises
    ------
    InputNotFound, InvalidInput
        The reference or its labels cannot be read, or they are of another size.
    """
    original = source.read()
    pixels = resample(original, source.mpp, mpp)
    outlined = (
        None
        if labels is None
        else _read_labels(labels, original.shape[:2], source, mpp, pixels.shape[:2])
    )
    level = white_level(pixels)
    rough = find_rough_nuclei(rgb_to_optical_density(pixels, level), mpp)
    white = glass_to_white(pixels, level)
    nuclei = rough.labels > 0
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    if any(missing):
        white = np.pad(white, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
        nuclei = np.pad(nuclei, [(0, missing[0]), (0, missing[1])], mode="symmetric")
        if outlined is not None:
            outlined = np.pad(outlined, [(0, missing[0]), (0, missing[1])], mode="symmetric")
    height, width = nuclei.shape
    cells = [
        (top, left)
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
    ]
    cells = [
        (top, left) for top, left in cells if nuclei[top : top + side, left : left + side].any()
    ]
    if len(cells) > most:
        chosen = rng_for(seed, f"cells of {source.sha256}").choice(len(cells), most, replace=False)
        cells = [cells[i] for i in np.sort(chosen)]
    images = np.zeros((len(cells), side, side, 3), np.uint8)
    masks = np.zeros((len(cells), side, side), bool)
    for index, (top, left) in enumerate(cells):
        images[index] = white[top : top + side, left : left + side]
        masks[index] = nuclei[top : top + side, left : left + side]
    if outlined is None:
        return CutPatches(images, masks, pixels)
    parts = [
        renumber(np.ascontiguousarray(outlined[top : top + side, left : left + side]))
        for top, left in cells
    ]
    return CutPatches(
        images, masks, pixels, np.stack(parts) if parts else np.zeros((0, side, side), np.int32)
    )


def _read_labels(
    labels: LabelSource, shape: tuple[int, int], source: Source, mpp: float, wanted: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Read the labels of a reference, and bring them to the pixel size of the patches."""
    opened = labels.open()
    if opened.shape is not None and opened.shape != shape:
        raise InvalidInput(
            f"{labels.source}: is {opened.shape[0]} x {opened.shape[1]} px but {source.path} is {shape[0]} x {shape[1]}; "
            "labels must be of the reference's own size"
        )
    values = np.asarray(opened.on(shape).whole())
    return np.asarray(
        resample_labels(np.maximum(values, 0).astype(np.int32), source.mpp, mpp, wanted), np.int32
    )


@dataclass(frozen=True)
class _CutJob:
    source: Source
    mpp: float
    side: int
    most: int
    seed: int
    labels: LabelSource | None


def cut_each(
    sources: Sequence[Source],
    mpp: float,
    side: int,
    most: int,
    seed: int,
    *,
    workers: int,
    track: Track,
    stopped: str,
) -> list[npt.NDArray[np.uint8] | HistosynthError]:
    """Cut patches from several references as ``cut_all`` does; of each, patches (n, side, side, 3)
    or why it cannot be read.
    """
    found = cut_all(sources, mpp, side, most, seed, workers=workers, track=track, stopped=stopped)
    return [each.images if isinstance(each, CutPatches) else each for each in found]


def cut_all(
    sources: Sequence[Source],
    mpp: float,
    side: int,
    most: int,
    seed: int,
    *,
    workers: int,
    track: Track,
    stopped: str,
    labels: Sequence[LabelSource] | None = None,
) -> list[CutPatches | HistosynthError]:
    """Cut patches from several references beside each other.

    Parameters
    ----------
    sources, mpp, side, most, seed
        As for ``cut_real_patches``; ``most`` is of each reference.
    workers : int
        Processes; 0 takes as many as there are processors.
    track : Track
    stopped : str
        Message of an interruption.
    labels : sequence of LabelSource, optional
        Of each reference.

    Returns
    -------
    list
        In the order of the sources: patches, or why a reference cannot be read.
    """
    given: Sequence[LabelSource | None] = labels or [None] * len(sources)
    jobs = [
        _CutJob(source, mpp, side, most, seed, each)
        for source, each in zip(sources, given, strict=True)
    ]
    number = {id(job): index for index, job in enumerate(jobs)}
    found: dict[int, CutPatches | HistosynthError] = {}
    # a process takes seconds to start
    processes = min(resolve_workers(workers), max(1, len(jobs) // 4))
    with track("reading references", len(jobs)) as bar:
        for job, cut in map_unordered(_cut, jobs, processes, stopped):
            found[number[id(job)]] = cut
            bar.advance()
    return [found[index] for index in range(len(jobs))]


def _cut(job: _CutJob) -> CutPatches | HistosynthError:
    try:
        cut = cut_real_patches(job.source, job.mpp, job.side, job.most, job.seed, job.labels)
        # the whole reference need not travel between processes
        return replace(cut, pixels=cut.pixels[:0])
    except HistosynthError as error:
        return error
