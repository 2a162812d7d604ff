"""Patches cut from reference images at the size and pixel size of synthetic patches.

*Rough* nuclei are those that a simple method without a model finds (``reference.rough``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from histocli.annotations.sources import LabelSource
from histocli.base.errors import HistosynthError, InvalidInput
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.instances.components import renumber
from histocli.metrics.counts import count
from histocli.model.normalisation import glass_to_white
from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.reference.patches import corners_of_patches
from histocli.reference.rough import find_rough_nuclei
from histocli.reference.statistics import analyse_reference
from histocli.slides.resampling import resample, resample_labels
from histocli.stages.shared.references import Source

Values = TypeVar("Values", bound=np.generic)


@dataclass(frozen=True)
class Cutting:
    """Settings of cutting patches from references."""

    mpp: float  # micrometres per pixel of the patches
    side: int  # side of a patch, in pixels; a smaller reference is enlarged by mirroring
    most: int  # most patches of one reference, drawn at random if there are more
    seed: int


@dataclass(frozen=True)
class CutPatches:
    """Patches of one reference."""

    images: npt.NDArray[np.uint8]  # (n, side, side, 3), sRGB; glass, the background, is made white
    nuclei: npt.NDArray[np.bool_]  # (n, side, side), rough nuclei
    labels: npt.NDArray[np.int32] | None = None  # (n, side, side), nuclei 1..k; None if none given
    statistics: Json | None = None  # of the top left 1024 x 1024 pixels; None unless measured


def label_agreement(
    labels: npt.NDArray[np.int32], image: npt.NDArray[np.uint8], mpp: float
) -> float:
    """Return the AJI, 0..1, of labels (H, W) with the rough nuclei found in a picture (H, W, 3).

    Pixels whose label is -1 are ignored; the glass of the picture is white; ``mpp`` is micrometres
    per pixel. Rough nuclei are inexact, so only compare values of two pictures with equal labels.
    """
    return count(labels, find_rough_nuclei(rgb_to_optical_density(image), mpp).labels).aji


def cut_real_patches(
    source: Source, cutting: Cutting, labels: LabelSource | None = None, *, measure: bool = False
) -> CutPatches:
    """Cut patches that show rough nuclei from a reference, without overlap.

    ``labels`` are outlined nuclei of the reference, cut at the same places; with ``measure``, the
    statistics of the reference are measured too. Raises ``InputNotFound`` or ``InvalidInput`` if
    the reference or its labels cannot be read, or if their sizes differ.
    """
    mpp, side = cutting.mpp, cutting.side
    original = source.read()
    pixels = resample(original, source.mpp, mpp)
    level = white_level(pixels)
    rough = find_rough_nuclei(rgb_to_optical_density(pixels, level), mpp)
    white = _mirrored(glass_to_white(pixels, level), side)
    nuclei = _mirrored(rough.labels > 0, side)
    outlined = None
    if labels is not None:
        outlined = _mirrored(_read_labels(labels, original, source, mpp, pixels), side)
    rng = rng_for(cutting.seed, f"cells of {source.sha256}")
    windows = [
        (slice(top, top + side), slice(left, left + side))
        for top, left in corners_of_patches(nuclei, side, cutting.most, rng)
    ]
    statistics = None
    if measure:
        part = np.ascontiguousarray(pixels[:1024, :1024])
        rng = rng_for(cutting.seed, source.sha256)
        statistics = analyse_reference(part, mpp, source.path.name, rng).statistics.to_json()
    if outlined is not None:
        parts = [renumber(np.ascontiguousarray(outlined[window])) for window in windows]
        outlined = np.array(parts, np.int32).reshape(-1, side, side)
    return CutPatches(
        np.array([white[window] for window in windows], np.uint8).reshape(-1, side, side, 3),
        np.array([nuclei[window] for window in windows], bool).reshape(-1, side, side),
        outlined,
        statistics,
    )


def _mirrored(plane: npt.NDArray[Values], side: int) -> npt.NDArray[Values]:
    """Mirror an image at its lower and right border until each side has ``side`` pixels."""
    missing = [(0, max(0, side - length)) for length in plane.shape[:2]]
    return np.pad(plane, [*missing, (0, 0)][: plane.ndim], mode="symmetric")


def _read_labels(
    labels: LabelSource,
    original: npt.NDArray[np.uint8],
    source: Source,
    mpp: float,
    resampled: npt.NDArray[np.uint8],
) -> npt.NDArray[np.int32]:
    """Read the labels of a reference and resample them to the pixel size of the patches."""
    opened, shape = labels.open(), original.shape[:2]
    if opened.shape is not None and opened.shape != shape:
        raise InvalidInput(
            f"{labels.source}: is {opened.shape[0]} x {opened.shape[1]} px but {source.path} is "
            f"{shape[0]} x {shape[1]}; labels must be of the reference's own size"
        )
    values = np.maximum(np.asarray(opened.on(shape).whole()), 0).astype(np.int32)
    return np.asarray(resample_labels(values, source.mpp, mpp, resampled.shape[:2]), np.int32)


@dataclass(frozen=True)
class _CutJob:
    source: Source
    cutting: Cutting
    labels: LabelSource | None
    measure: bool


def cut_all(
    sources: Sequence[Source],
    cutting: Cutting,
    *,
    workers: int,
    track: Track,
    stopped: str,
    labels: Sequence[LabelSource] | None = None,
    measured: Collection[Source] = (),
) -> list[CutPatches | HistosynthError]:
    """Cut patches from several references in parallel.

    Parameters
    ----------
    workers : int
        Number of processes; 0 for as many as there are processors.
    stopped : str
        Message of the error after an interruption.
    labels : sequence of LabelSource, optional
        Labels of each reference.
    measured : collection of Source
        References whose statistics are measured too.

    Returns
    -------
    list of CutPatches or HistosynthError
        Patches, or the error, of each reference.
    """
    given: Sequence[LabelSource | None] = labels or [None] * len(sources)
    pairs = zip(sources, given, strict=True)
    jobs = [_CutJob(source, cutting, each, source in measured) for source, each in pairs]
    number = {id(job): index for index, job in enumerate(jobs)}
    found: dict[int, CutPatches | HistosynthError] = {}
    # a process takes seconds to start, so each gets at least four jobs
    processes = min(resolve_workers(workers), max(1, len(jobs) // 4))
    with track("reading references", len(jobs)) as bar:
        for job, cut in map_unordered(_cut, jobs, processes, stopped):
            found[number[id(job)]] = cut
            bar.advance()
    return [found[index] for index in range(len(jobs))]


def _cut(job: _CutJob) -> CutPatches | HistosynthError:
    try:
        return cut_real_patches(job.source, job.cutting, job.labels, measure=job.measure)
    except HistosynthError as error:
        return error
