"""Which nuclei of two label images lie over each other, and by how many pixels.

All scores follow from one sparse table: for each pair of nuclei that overlap, the number of pixels
they share. Building the table takes one pass over the pixels; its size is the number of such pairs.
A slide need not be in memory: it is divided into windows, whose tables add up to that of the slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput
from histocli.base.types import IntArray

LabelImage = npt.NDArray[np.integer[Any]]
"""(H, W) of any integer type: 0 = background, k = nucleus k, negative = ignored (truth) or
background (prediction)."""
FloatVector = npt.NDArray[np.float64]
"""(n,)."""
BoolVector = npt.NDArray[np.bool_]
"""(n,)."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """The nuclei of one of the two label images, one row each, without ignored pixels."""

    ids: IntArray
    """(n,) label of each nucleus, ascending."""
    areas: IntArray
    """(n,) pixels of each nucleus, > 0."""
    sum_y: FloatVector
    """(n,) sum of the rows of all pixels of each nucleus."""
    sum_x: FloatVector  # (n,) sum of their columns
    box: IntArray
    """(n, 4) first row, first column, row after the last, column after the last."""

    @property
    def centroids(self) -> npt.NDArray[np.float64]:
        """(n, 2) mean row and column of the pixels; pixel (0, 0) has its centre at (0, 0)."""
        return np.stack([self.sum_y, self.sum_x], axis=1) / self.areas[:, None]

    def numbered(self, labels: LabelImage) -> npt.NDArray[np.int32]:
        """Replace labels, shape (H, W), by their rows in this side from 1; others become 0."""
        if not len(self.ids):
            return np.zeros(labels.shape, np.int32)
        at = np.minimum(np.searchsorted(self.ids, labels), len(self.ids) - 1)
        return np.where(self.ids[at] == labels, at + 1, 0).astype(np.int32)

    def touching_border(self, shape: tuple[int, int]) -> BoolVector:
        """Tell which nuclei touch the border of an image of this height and width."""
        low, high = self.box[:, :2], self.box[:, 2:]
        return np.asarray((low == 0).any(axis=1) | (high == np.array(shape)).any(axis=1))


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """Sparse contingency table of two label images; pairs are sorted by row, then column."""

    rows: IntArray
    """(n_pairs,) row of the true nucleus in ``truth``, from 0."""
    columns: IntArray
    """(n_pairs,) row of the predicted nucleus in ``prediction``, from 0."""
    intersection: IntArray
    """(n_pairs,) pixels that both cover, > 0."""
    truth: Side
    prediction: Side

    @property
    def union(self) -> IntArray:
        """(n_pairs,) pixels that at least one of the pair covers."""
        areas = self.truth.areas[self.rows] + self.prediction.areas[self.columns]
        return areas - self.intersection

    @property
    def iou(self) -> FloatVector:
        """(n_pairs,) intersection over union, in (0, 1]."""
        return self.intersection / self.union


def overlaps(
    truth: LabelImage, prediction: LabelImage, *, origin: tuple[int, int] = (0, 0)
) -> Overlaps:
    """Count the pixels that each true nucleus shares with each predicted one.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels are ignored: they count on neither
        side. Labels need not be consecutive, nor nuclei connected.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels count as background.
    origin : (int, int)
        Row and column of the first pixel in a larger image, if the two are windows of one.

    Raises
    ------
    InvalidInput
        The two shapes differ, or one of them holds no integers.
    """
    _check(truth, prediction)
    # Join equal pixels along rows to runs, about a tenth as many as pixels.
    flat_truth, flat_prediction = truth.ravel(), prediction.ravel()
    width = max(truth.shape[1], 1)
    change = np.ones(flat_truth.size, bool)
    np.not_equal(flat_truth[1:], flat_truth[:-1], out=change[1:])
    change[1:] |= flat_prediction[1:] != flat_prediction[:-1]
    change[::width] = True
    start = np.flatnonzero(change)
    length = np.diff(start, append=flat_truth.size)
    run_truth = flat_truth[start].astype(np.int64)
    run_prediction = flat_prediction[start].astype(np.int64)
    kept = (run_truth >= 0) & ((run_truth > 0) | (run_prediction > 0))
    length, run_truth, run_prediction = length[kept], run_truth[kept], run_prediction[kept]
    y, x = np.divmod(start[kept], width)
    y, x = y + origin[0], x + origin[1]
    row, true = _side(run_truth, y, x, length)
    column, predicted = _side(np.maximum(run_prediction, 0), y, x, length)
    both = np.flatnonzero((row > 0) & (column > 0))
    return _table(row[both] - 1, column[both] - 1, length[both], true, predicted)


def _check(truth: LabelImage, prediction: LabelImage) -> None:
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise InvalidInput(
            f"truth has shape {truth.shape} but prediction has {prediction.shape}; labels are "
            "compared pixel by pixel, so both must have the same height and width"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise InvalidInput(
                f"{name} has type {labels.dtype}; instance labels must be integers, "
                "0 for background"
            )


def _consecutive(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Return the labels in use except 0, and the index of each label among them, from 1.

    ``labels`` has shape (n,) and values >= 0; label 0 has index 0.
    """
    top = int(labels.max(initial=0))
    if top <= 16 * labels.size + 1024:  # dense ids: marking is several times faster than sorting
        used = np.zeros(top + 1, bool)
        used[labels] = True
        used[0] = False
        return np.flatnonzero(used), np.cumsum(used)[labels]
    ids, inverse = np.unique(labels, return_inverse=True)
    has_zero = int(ids[0] == 0)
    return ids[has_zero:], inverse + 1 - has_zero


def _side(labels: IntArray, y: IntArray, x: IntArray, length: IntArray) -> tuple[IntArray, Side]:
    """Return the row of each run's nucleus in the side, from 1 (0: no nucleus), and the side."""
    ids, index = _consecutive(labels)
    inside = np.flatnonzero(index)
    y, x, length = y[inside], x[inside], length[inside]
    parts = Side(
        ids=ids,
        areas=length,
        sum_y=(y * length).astype(np.float64),
        sum_x=x * length + length * (length - 1) / 2,
        box=np.stack([y, x, y + 1, x + length], axis=1),
    )
    return index, _joined(parts, index[inside] - 1)


def _joined(parts: Side, nucleus: IntArray) -> Side:
    """Join parts of nuclei; ``nucleus`` is the index of each part's nucleus in ``parts.ids``."""
    n = len(parts.ids)
    box = np.empty((n, 4), np.int64)
    box[:, :2], box[:, 2:] = np.iinfo(np.int64).max, 0
    for corner, widen in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        widen.at(box[:, corner], nucleus, parts.box[:, corner])
    sums = (parts.areas, parts.sum_y, parts.sum_x)
    # float64 sums of integers are exact below 2**53
    areas, sum_y, sum_x = (np.bincount(nucleus, each, n).astype(np.float64) for each in sums)
    return Side(ids=parts.ids, areas=areas.astype(np.int64), sum_y=sum_y, sum_x=sum_x, box=box)


def _table(
    rows: IntArray, columns: IntArray, counts: IntArray, truth: Side, prediction: Side
) -> Overlaps:
    """Make a table of pairs (places from 0 in the two sides); counts of equal pairs are added."""
    n_columns = max(len(prediction.ids), 1)
    key, inverse = np.unique(rows * n_columns + columns, return_inverse=True)
    row, column = np.divmod(key, n_columns)
    return Overlaps(
        rows=row,
        columns=column,
        intersection=np.bincount(inverse.ravel(), counts, len(key)).astype(np.int64),
        truth=truth,
        prediction=prediction,
    )


def merge_overlaps(tables: Sequence[Overlaps]) -> Overlaps:
    """Add tables (at least one) of windows that tile an image, each made with its ``origin``.

    A label that occurs in several windows is one nucleus. The order of tables does not matter.
    """
    if len(tables) == 1:
        return tables[0]
    row_of, truth = _merge_sides([each.truth for each in tables])
    column_of, prediction = _merge_sides([each.prediction for each in tables])
    return _table(
        np.concatenate([row[each.rows] for row, each in zip(row_of, tables, strict=True)]),
        np.concatenate([col[each.columns] for col, each in zip(column_of, tables, strict=True)]),
        np.concatenate([each.intersection for each in tables]),
        truth,
        prediction,
    )


def _merge_sides(parts: Sequence[Side]) -> tuple[list[IntArray], Side]:
    """Return the rows of each part's nuclei in the merged side, and the merged side."""
    columns = (each.name for each in fields(Side))
    together = Side(**{key: np.concatenate([getattr(p, key) for p in parts]) for key in columns})
    ids, inverse = np.unique(together.ids, return_inverse=True)
    merged = _joined(replace(together, ids=ids), inverse)
    return np.split(inverse, np.cumsum([len(part.ids) for part in parts])[:-1]), merged


def without(table: Overlaps, truth: BoolVector, prediction: BoolVector) -> Overlaps:
    """Return the table as if some true nuclei were ignored pixels and some predicted ones absent.

    Parameters
    ----------
    truth : ndarray of bool, shape (n_truth,)
        Nuclei whose pixels are ignored: they count on neither side. Centroids and boxes of
        predictions do not change.
    prediction : ndarray of bool, shape (n_prediction,)
        Nuclei that are dropped. Nuclei with no pixel left outside ignored ones are dropped too.
    """
    gone = truth[table.rows]
    before = table.prediction
    lost = np.bincount(table.columns[gone], table.intersection[gone], len(prediction))
    areas = before.areas - lost.astype(np.int64)
    # sums shrink with the area, so that centroids stay
    scale = areas / before.areas
    shrunk = replace(before, areas=areas, sum_y=before.sum_y * scale, sum_x=before.sum_x * scale)
    keep_truth, keep_prediction = ~truth, ~prediction & (areas > 0)
    pairs = keep_truth[table.rows] & keep_prediction[table.columns]
    row_of, column_of = np.cumsum(keep_truth) - 1, np.cumsum(keep_prediction) - 1
    return Overlaps(
        rows=row_of[table.rows[pairs]],
        columns=column_of[table.columns[pairs]],
        intersection=table.intersection[pairs],
        truth=_chosen(table.truth, keep_truth),
        prediction=_chosen(shrunk, keep_prediction),
    )


def _chosen(side: Side, kept: BoolVector) -> Side:
    return Side(**{each.name: getattr(side, each.name)[kept] for each in fields(side)})
