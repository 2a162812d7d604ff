"""Everything that is measured of one image: a predicted label image beside the true one, in memory
or window by window.

>>> import numpy as np
>>> from histocli.metrics.comparison import Rules, compare
>>> truth = np.zeros((40, 40), np.int32)
>>> truth[5:15, 5:15] = 1
>>> truth[25:35, 20:30] = 2
>>> found = compare(truth, np.roll(truth, 1, axis=0), Rules(mpp=0.25))
>>> round(found.counts.panoptic_quality, 3), round(found.counts.hd95_um, 3)
(0.818, 0.25)
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput
from histocli.base.types import BoolMask, IntArray
from histocli.instances.matching import (
    BoolVector,
    LabelImage,
    Overlaps,
    matched_pairs,
    merge_overlaps,
    overlaps,
    without,
)
from histocli.metrics.boundaries import boundary_hits, boundary_mask, hausdorff95
from histocli.metrics.counts import Counts, count_table
from histocli.metrics.detection import match_centroids
from histocli.metrics.verdicts import Verdicts, judge_nuclei

# side of a window; two shards of our label stores, so that few chunks are decoded twice
CORE_PX = 4096
OVERHANG_PX = 160  # nuclei that reach farther beyond their window are read by themselves

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""``map``, or that of a pool, in the order of the jobs."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How two label images are compared."""

    mpp: float = 0.25
    """Micrometres per pixel."""
    radius_um: float = 3.0
    """A predicted centroid this near to a true one detects it."""
    tolerance_um: float = 0.5
    """A boundary pixel this near to one of the other side is right."""
    boundaries: bool = True
    """Whether boundaries are compared."""
    border: str = "count"
    """``count``: nuclei that touch the border of the image are nuclei like others. ``ignore``: see
    :func:`leave_out_border`."""

    @property
    def tolerance_px(self) -> float:
        """The tolerance in pixels."""
        return self.tolerance_um / self.mpp


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found in one image."""

    counts: Counts
    """From which every score derives."""
    table: Overlaps
    """Who overlaps whom; without what the border rule left out."""
    verdicts: Verdicts
    """What became of each nucleus, in the order of the table."""


class Windowed(Protocol):
    """A label image that is read in parts."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window that lies inside; safe from several threads."""
        ...


class InMemory:
    """A label image in memory, in the shape of :class:`Windowed`."""

    def __init__(self, labels: LabelImage) -> None:
        self._labels = labels

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._labels.shape
        return height, width

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window."""
        return self._labels[rows, columns]


def compare(truth: LabelImage, prediction: LabelImage, rules: Rules | None = None) -> Comparison:
    """Compare a predicted label image with the truth.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored. Labels need not be consecutive,
        nor nuclei connected.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k; negative counts as background.
    rules : Rules, optional
        Pixel size, radius, tolerance, border.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are no integers.
    """
    rules = rules or Rules()
    table = overlaps(truth, prediction)
    height, width = truth.shape
    whole = _Window(0, height, 0, width)
    return _finish(table, InMemory(truth), InMemory(prediction), rules, [whole], map)


def compare_windows(
    truth: Windowed, prediction: Windowed, rules: Rules | None = None, mapper: Mapper = map
) -> Comparison:
    """Compare two label images window by window; the result is exactly that of :func:`compare`.

    Parameters
    ----------
    truth, prediction : Windowed
        Labels go on across windows: the same label anywhere is the same nucleus.
    rules : Rules, optional
    mapper : callable
        ``map``, or the method of a thread pool.

    Raises
    ------
    InvalidInput
        The shapes differ.
    """
    rules = rules or Rules()
    if truth.shape != prediction.shape:
        raise InvalidInput(
            f"truth has shape {truth.shape} but prediction has {prediction.shape}; both must agree"
        )
    windows = _windows(truth.shape, 0)

    def look(window: _Window) -> Overlaps | None:
        where = window.rows, window.columns
        true, found = truth.read(*where), prediction.read(*where)
        if not true.any() and not found.any():
            return None
        return overlaps(true, found, origin=(window.top, window.left))

    tables = list(mapper(look, windows))
    filled = [window for window, each in zip(windows, tables, strict=True) if each is not None]
    nothing = overlaps(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int32))
    table = merge_overlaps([nothing, *(each for each in tables if each is not None)])
    del tables
    return _finish(table, truth, prediction, rules, filled, mapper)


@dataclass(frozen=True)
class _Window:
    """Part of an image: rows top..bottom, columns left..right, half open."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def meets(self, other: "_Window") -> bool:
        """Tell whether the two share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )

    def grown(self, before: int, after: int, shape: tuple[int, int]) -> "_Window":
        """Return the window with a margin, cut at the border of the image."""
        return _Window(
            max(self.top - before, 0),
            min(self.bottom + after, shape[0]),
            max(self.left - before, 0),
            min(self.right + after, shape[1]),
        )


def _windows(shape: tuple[int, int], shift: int) -> list[_Window]:
    """Tile an image; all windows but the first of each axis begin ``shift`` pixels later.

    So what is read with a margin of that many pixels before a window begins where chunks begin.
    """
    rows, columns = (
        [
            (start + shift * (start > 0), min(start + CORE_PX + shift, side))
            for start in range(0, max(side - shift, 1), CORE_PX)
        ]
        for side in shape
    )
    return [_Window(top, bottom, left, right) for top, bottom in rows for left, right in columns]


def _finish(
    table: Overlaps,
    truth: Windowed,
    prediction: Windowed,
    rules: Rules,
    filled: list[_Window],
    mapper: Mapper,
) -> Comparison:
    """Apply the border rule and count; the pixels are read again for boundaries only."""
    everything = table
    no_truth, no_prediction = (
        np.zeros(len(table.ids_truth), bool),
        np.zeros(len(table.ids_prediction), bool),
    )
    if rules.border == "ignore":
        no_truth, no_prediction = leave_out_border(table, truth.shape)
        table = without(table, no_truth, no_prediction)
    verdicts = judge_nuclei(table)
    found, _ = match_centroids(
        table.centroids_truth, table.centroids_prediction, rules.radius_um / rules.mpp
    )
    counts = replace(
        count_table(table),
        detections=len(found),
        detection_images=1,
        splits=verdicts.splits,
        merges=verdicts.merges,
    )
    if rules.boundaries:
        left_out = everything.ids_truth[no_truth], everything.ids_prediction[no_prediction]
        counts = _with_boundaries(
            counts, table, _Masked(truth, prediction, *left_out), rules, filled, mapper
        )
    return Comparison(counts=counts, table=table, verdicts=verdicts)


def leave_out_border(table: Overlaps, shape: tuple[int, int]) -> tuple[BoolVector, BoolVector]:
    """Say which nuclei do not count where those at the border of the image are ignored.

    The pixels of every true nucleus that touches the border are ignored. A predicted nucleus is
    dropped with them when more than half of it lies on such pixels, or when it touches the border
    itself and matches none of the true nuclei that are left.

    Returns
    -------
    truth : ndarray of bool, shape (n_truth,)
    prediction : ndarray of bool, shape (n_prediction,)
    """
    truth = table.places_truth.touching_border(shape)
    gone = truth[table.rows]
    covered = np.bincount(
        table.columns[gone], table.intersection[gone], len(table.areas_prediction)
    )
    prediction = 2 * covered > table.areas_prediction
    rest = without(table, truth, prediction)
    matched = np.isin(table.ids_prediction, rest.ids_prediction[rest.columns[matched_pairs(rest)]])
    prediction |= table.places_prediction.touching_border(shape) & ~matched
    return truth, prediction


class _Masked:
    """Both label images with what is left out painted over: ignored on the true side, background on
    the predicted one.
    """

    def __init__(
        self, truth: Windowed, prediction: Windowed, no_truth: IntArray, no_prediction: IntArray
    ) -> None:
        self._truth, self._prediction = truth, prediction
        self._no_truth, self._no_prediction = no_truth, no_prediction
        self.shape = truth.shape

    def read(self, window: _Window) -> tuple[LabelImage, LabelImage, BoolMask | None]:
        truth = self._truth.read(window.rows, window.columns)
        prediction = self._prediction.read(window.rows, window.columns)
        ignored: BoolMask | None = truth < 0 if truth.dtype.kind == "i" else None
        if len(self._no_truth):
            left_out = np.isin(truth, self._no_truth)
            ignored = left_out if ignored is None else ignored | left_out
        if ignored is not None and not ignored.any():
            ignored = None
        drop = prediction < 0 if prediction.dtype.kind == "i" else np.zeros(prediction.shape, bool)
        if len(self._no_prediction):
            drop |= np.isin(prediction, self._no_prediction)
        if ignored is not None:
            truth, drop = np.where(ignored, 0, truth), drop | ignored
        if drop.any():
            prediction = np.where(drop, 0, prediction)
        return truth, prediction, ignored


def _with_boundaries(
    counts: Counts,
    table: Overlaps,
    labels: _Masked,
    rules: Rules,
    filled: list[_Window],
    mapper: Mapper,
) -> Counts:
    """Add what boundaries say; each window counts its own pixels, and the pairs of nuclei that
    begin in it.
    """
    matched = matched_pairs(table)
    rows, columns = table.rows[matched], table.columns[matched]
    pairs = np.stack([table.ids_truth[rows], table.ids_prediction[columns]], axis=1)
    boxes = np.stack([table.places_truth.box[rows], table.places_prediction.box[columns]])
    box = np.concatenate([boxes[..., :2].min(axis=0), boxes[..., 2:].max(axis=0)], axis=1)
    by_row = np.argsort(box[:, 0], kind="stable")
    tops = box[by_row, 0]
    reach = math.floor(rules.tolerance_px) + 2

    def look(window: _Window) -> tuple[tuple[int, int, int, int], npt.NDArray[np.float64]]:
        mine = by_row[np.searchsorted(tops, window.top) : np.searchsorted(tops, window.bottom)]
        mine = mine[(box[mine, 1] >= window.left) & (box[mine, 1] < window.right)]
        # the corner of a box may lie beside its nuclei
        if not len(mine) and not any(window.meets(other) for other in filled):
            return (0, 0, 0, 0), np.zeros(0)
        area = window.grown(reach, max(reach, OVERHANG_PX), labels.shape)
        truth, prediction, ignored = labels.read(area)
        core = (
            slice(window.top - area.top, window.bottom - area.top),
            slice(window.left - area.left, window.right - area.left),
        )
        masks = boundary_mask(truth, ignored), boundary_mask(prediction, ignored)
        hits = boundary_hits(*masks, rules.tolerance_px, core)
        # one pixel more than the box is needed to see its boundary, unless the image ends there
        inside = (np.minimum(box[mine, 2] + 1, labels.shape[0]) <= area.bottom) & (
            np.minimum(box[mine, 3] + 1, labels.shape[1]) <= area.right
        )
        distances = np.empty(len(mine))
        distances[inside] = hausdorff95(truth, prediction, ignored, pairs[mine[inside]], masks)
        for index in np.flatnonzero(~inside):
            top, left, bottom, right = (int(edge) for edge in box[mine[index]])
            alone = labels.read(_Window(top, bottom, left, right).grown(1, 1, labels.shape))
            distances[index] = hausdorff95(*alone, pairs[mine[index : index + 1]])[0]
        return hits, distances

    hits_of, distances_of = [], []
    for hits, distances in mapper(
        look, _windows(labels.shape, reach) if len(filled) != 1 else filled
    ):
        hits_of.append(hits)
        distances_of.append(distances)
    truth_px, truth_hits, prediction_px, prediction_hits = (
        sum(column) for column in zip((0, 0, 0, 0), *hits_of, strict=True)
    )
    distance = np.concatenate([np.zeros(0), *distances_of])
    known = distance[np.isfinite(distance)]
    return replace(
        counts,
        boundary_images=1,
        boundary_truth_px=truth_px,
        boundary_truth_hits=truth_hits,
        boundary_prediction_px=prediction_px,
        boundary_prediction_hits=prediction_hits,
        # exact, so that windows add up to the same bytes in any order
        hd95_sum_um=math.fsum(known) * rules.mpp,
        hd95_pairs=len(known),
    )
