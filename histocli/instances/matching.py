"""Which nuclei of two label images lie over each other, and which belong together.

Everything follows from one sparse table: for each pair of nuclei that touch, the pixels they share.
Building it costs a pass over the pixels; its size is the number of touching pairs, never the
product of the two counts. Tables of windows that tile an image add up to the table of the image, so
a slide never needs to be in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from histocli.base.errors import InvalidInput
from histocli.base.types import IntArray

MATCH_PERCENT = 50  # above one half, a nucleus can overlap at most one partner
# a group of touching nuclei with more possible pairs than this is assigned on the sparse graph
DENSE_PAIRS = 1_000_000

LabelImage = npt.NDArray[np.integer[Any]]
"""(H, W) of any integer type: 0 = background, k = nucleus k, negative = ignored (truth) or
background (prediction)."""
FloatVector = npt.NDArray[np.float64]
"""(n,)."""
BoolVector = npt.NDArray[np.bool_]
"""(n,)."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the nuclei of one side lie, one row each; pixels that the truth ignores are left
    out.
    """

    sum_y: FloatVector
    """(n,) sum of the rows of all pixels."""
    sum_x: FloatVector
    """(n,) sum of the columns."""
    box: IntArray
    """(n, 4) first row, first column, row after the last, column after the last."""

    def touching_border(self, shape: tuple[int, int]) -> BoolVector:
        """Tell which nuclei have a pixel in the first or last row or column of an image of this
        height and width.
        """
        low, high = self.box[:, :2], self.box[:, 2:]
        return np.asarray((low == 0).any(axis=1) | (high == np.array(shape)).any(axis=1))


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """Sparse contingency table of two label images; pairs are sorted by row, then column."""

    rows: IntArray
    """(n_pairs,) index of the true nucleus in ``ids_truth``."""
    columns: IntArray
    """(n_pairs,) index of the predicted nucleus in ``ids_prediction``."""
    intersection: IntArray
    """(n_pairs,) pixels that both cover, > 0."""
    areas_truth: IntArray
    """(n_truth,) pixels of each true nucleus outside ignored pixels, > 0."""
    areas_prediction: IntArray
    """(n_prediction,) pixels of each predicted nucleus outside ignored pixels, > 0."""
    ids_truth: IntArray
    """(n_truth,) label of each true nucleus, ascending."""
    ids_prediction: IntArray
    """(n_prediction,) label of each predicted nucleus, ascending."""
    places_truth: Places
    places_prediction: Places

    @property
    def union(self) -> IntArray:
        """(n_pairs,) pixels that at least one of the pair covers."""
        return self.areas_truth[self.rows] + self.areas_prediction[self.columns] - self.intersection

    @property
    def iou(self) -> FloatVector:
        """(n_pairs,) intersection over union, in (0, 1]."""
        return self.intersection / self.union

    @property
    def centroids_truth(self) -> npt.NDArray[np.float64]:
        """(n_truth, 2) mean row and column of the pixels of each true nucleus; pixel (0, 0) has its
        centre at (0, 0).
        """
        return (
            np.stack([self.places_truth.sum_y, self.places_truth.sum_x], axis=1)
            / self.areas_truth[:, None]
        )

    @property
    def centroids_prediction(self) -> npt.NDArray[np.float64]:
        """(n_prediction, 2), as ``centroids_truth``."""
        return (
            np.stack([self.places_prediction.sum_y, self.places_prediction.sum_x], axis=1)
            / self.areas_prediction[:, None]
        )


def _consecutive(labels: IntArray) -> tuple[IntArray, IntArray]:
    """Return the ids in use, without 0, and for each label its index in them, from 1; 0 stays 0.
    Labels are (n,) and >= 0.
    """
    top = int(labels.max(initial=0))
    if top <= 16 * labels.size + 1024:  # dense ids: marking is several times faster than sorting
        used = np.zeros(top + 1, bool)
        used[labels] = True
        used[0] = False
        index = np.cumsum(used)
        index[0] = 0
        return np.flatnonzero(used), index[labels]
    ids, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    if ids[0] == 0:
        return ids[1:], inverse
    return ids, inverse + 1


def overlaps(
    truth: LabelImage, prediction: LabelImage, *, origin: tuple[int, int] = (0, 0)
) -> Overlaps:
    """Count the pixels that each true nucleus shares with each predicted one.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels are ignored: they count on neither
        side.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels count as background.
    origin : (int, int)
        Row and column of the first pixel where the two are a window of a larger image.

    Returns
    -------
    Overlaps
        Labels need not be consecutive, nor nuclei connected.

    Raises
    ------
    InvalidInput
        The two shapes differ, or one of them holds no integers.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise InvalidInput(
            f"truth has shape {truth.shape} but prediction has {prediction.shape}; labels are compared pixel by pixel, "
            "so both must have the same height and width"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise InvalidInput(
                f"{name} has type {labels.dtype}; instance labels must be integers, 0 for background"
            )
    # Runs of equal pixels along the rows: everything after this works on a tenth of the numbers.
    flat_truth, flat_prediction = truth.ravel(), prediction.ravel()
    width = max(truth.shape[1], 1)
    change = np.ones(flat_truth.size, bool)
    np.not_equal(flat_truth[1:], flat_truth[:-1], out=change[1:])
    change[1:] |= flat_prediction[1:] != flat_prediction[:-1]
    change[::width] = True
    start = np.flatnonzero(change)
    length = np.diff(start, append=flat_truth.size)
    run_truth, run_prediction = (
        flat_truth[start].astype(np.int64),
        flat_prediction[start].astype(np.int64),
    )
    kept = (run_truth >= 0) & ((run_truth > 0) | (run_prediction > 0))
    start, length, run_truth, run_prediction = (
        start[kept],
        length[kept],
        run_truth[kept],
        run_prediction[kept],
    )
    y, x = np.divmod(start, width)
    y, x = y + origin[0], x + origin[1]
    ids_truth, row, areas_truth, places_truth = _side(run_truth, y, x, length)
    ids_prediction, column, areas_prediction, places_prediction = _side(
        np.maximum(run_prediction, 0), y, x, length
    )
    both = np.flatnonzero((row > 0) & (column > 0))
    rows, columns, intersection = _pairs(
        row[both] - 1, column[both] - 1, length[both], len(ids_prediction)
    )
    return Overlaps(
        rows=rows,
        columns=columns,
        intersection=intersection,
        areas_truth=areas_truth,
        areas_prediction=areas_prediction,
        ids_truth=ids_truth,
        ids_prediction=ids_prediction,
        places_truth=places_truth,
        places_prediction=places_prediction,
    )


def _side(
    labels: IntArray, y: IntArray, x: IntArray, length: IntArray
) -> tuple[IntArray, IntArray, IntArray, Places]:
    """Return the ids of one side, the index of each run in them (from 1, 0 for none), the areas and
    the places.
    """
    ids, index = _consecutive(labels)
    inside = np.flatnonzero(index)
    who, n = index[inside] - 1, len(ids)
    y, x, length = y[inside], x[inside], length[inside]
    box = np.empty((n, 4), np.int64)
    box[:, :2], box[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(box[:, 0], who, y)
    np.minimum.at(box[:, 1], who, x)
    np.maximum.at(box[:, 2], who, y + 1)
    np.maximum.at(box[:, 3], who, x + length)
    return (
        ids,
        index,
        np.bincount(who, length, n).astype(np.int64),  # float64 counts exactly up to 2**53
        Places(
            sum_y=_sum_by(who, y * length, n),
            sum_x=_sum_by(who, x * length + length * (length - 1) / 2, n),
            box=box,
        ),
    )


def _sum_by(index: IntArray, values: npt.NDArray[Any], n: int) -> FloatVector:
    """Return the sum of the values of each index, shape (n,)."""
    return np.asarray(np.bincount(index, values, n), np.float64)


def _pairs(
    rows: IntArray, columns: IntArray, counts: IntArray, n_columns: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Sum the counts of equal pairs; returns rows, columns and sums, sorted by row, then column."""
    key, inverse = np.unique(rows * max(n_columns, 1) + columns, return_inverse=True)
    row, column = np.divmod(key, max(n_columns, 1))
    return row, column, np.bincount(inverse.ravel(), counts, len(key)).astype(np.int64)


def merge_overlaps(tables: Sequence[Overlaps]) -> Overlaps:
    """Add the tables of windows that tile an image, each made with its ``origin``; nuclei go on
    across windows by their label.

    Parameters
    ----------
    tables : sequence of Overlaps
        At least one. The order changes nothing.
    """
    if len(tables) == 1:
        return tables[0]
    ids_truth, truth_of, areas_truth, places_truth = _merge_side(
        [(each.ids_truth, each.areas_truth, each.places_truth) for each in tables]
    )
    ids_prediction, prediction_of, areas_prediction, places_prediction = _merge_side(
        [(each.ids_prediction, each.areas_prediction, each.places_prediction) for each in tables]
    )
    rows = np.concatenate([index[each.rows] for index, each in zip(truth_of, tables, strict=True)])
    columns = np.concatenate(
        [index[each.columns] for index, each in zip(prediction_of, tables, strict=True)]
    )
    counts = np.concatenate([each.intersection for each in tables])
    rows, columns, intersection = _pairs(rows, columns, counts, len(ids_prediction))
    return Overlaps(
        rows=rows,
        columns=columns,
        intersection=intersection,
        areas_truth=areas_truth,
        areas_prediction=areas_prediction,
        ids_truth=ids_truth,
        ids_prediction=ids_prediction,
        places_truth=places_truth,
        places_prediction=places_prediction,
    )


def _merge_side(
    parts: Sequence[tuple[IntArray, IntArray, Places]],
) -> tuple[IntArray, list[IntArray], IntArray, Places]:
    ids, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    inverse, n = inverse.ravel(), len(ids)
    box = np.empty((n, 4), np.int64)
    box[:, :2], box[:, 2:] = np.iinfo(np.int64).max, 0
    boxes = np.concatenate([part[2].box for part in parts])
    np.minimum.at(box[:, :2], inverse, boxes[:, :2])
    np.maximum.at(box[:, 2:], inverse, boxes[:, 2:])
    places = Places(
        sum_y=_sum_by(inverse, np.concatenate([part[2].sum_y for part in parts]), n),
        sum_x=_sum_by(inverse, np.concatenate([part[2].sum_x for part in parts]), n),
        box=box,
    )
    areas = np.bincount(inverse, np.concatenate([part[1] for part in parts]), n).astype(np.int64)
    return ids, np.split(inverse, np.cumsum([len(part[0]) for part in parts])[:-1]), areas, places


def without(table: Overlaps, truth: BoolVector, prediction: BoolVector) -> Overlaps:
    """Return the table as if some true nuclei were ignored pixels and some predicted ones
    background.

    Parameters
    ----------
    table : Overlaps
    truth : ndarray of bool, shape (n_truth,)
        Nuclei whose pixels are ignored: they count on neither side. Centroids and boxes of
        predictions stay what they were.
    prediction : ndarray of bool, shape (n_prediction,)
        Nuclei that are dropped. So are those that lie on ignored pixels only.
    """
    gone = truth[table.rows]
    lost = np.bincount(
        table.columns[gone], table.intersection[gone], len(table.areas_prediction)
    ).astype(np.int64)
    areas_prediction = table.areas_prediction - lost
    # the mean place of a nucleus is kept while its area shrinks
    scale = areas_prediction / table.areas_prediction
    keep_truth, keep_prediction = ~truth, ~prediction & (areas_prediction > 0)
    pairs = keep_truth[table.rows] & keep_prediction[table.columns]
    row_of, column_of = np.cumsum(keep_truth) - 1, np.cumsum(keep_prediction) - 1
    places = table.places_prediction
    return Overlaps(
        rows=row_of[table.rows[pairs]],
        columns=column_of[table.columns[pairs]],
        intersection=table.intersection[pairs],
        areas_truth=table.areas_truth[keep_truth],
        areas_prediction=areas_prediction[keep_prediction],
        ids_truth=table.ids_truth[keep_truth],
        ids_prediction=table.ids_prediction[keep_prediction],
        places_truth=Places(
            sum_y=table.places_truth.sum_y[keep_truth],
            sum_x=table.places_truth.sum_x[keep_truth],
            box=table.places_truth.box[keep_truth],
        ),
        places_prediction=Places(
            sum_y=(places.sum_y * scale)[keep_prediction],
            sum_x=(places.sum_x * scale)[keep_prediction],
            box=places.box[keep_prediction],
        ),
    )


def matched_pairs(table: Overlaps, percent: int = MATCH_PERCENT) -> IntArray:
    """Return the indices of the pairs whose IoU exceeds ``percent`` / 100, >= 50; no nucleus is in
    two of them.

    Whole numbers are compared, so that an IoU of exactly 3 / 5 never exceeds 60 %.
    """
    return np.flatnonzero(100 * table.intersection > percent * table.union)


def best_prediction(table: Overlaps) -> IntArray:
    """Return, for each true nucleus that touches a prediction, the index of its pair of highest
    IoU.

    A prediction may be taken by several true nuclei. Ties go to the prediction of the smaller
    label.
    """
    order = np.lexsort((-table.iou, table.rows))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(table.rows[order]) > 0
    return order[first]


def one_to_one(table: Overlaps) -> IntArray:
    """Return the indices of the pairs of the one-to-one assignment with the largest total IoU; see
    :func:`assign`.
    """
    return assign(table.rows, table.columns, table.iou)


def assign(rows: IntArray, columns: IntArray, weight: FloatVector) -> IntArray:
    """Return the indices of the pairs of the one-to-one assignment with the largest total weight,
    ascending.

    Pairs that outweigh the best alternatives of both their partners together are in every such
    assignment and are taken at once. What is left falls into groups that are solved one by one, so
    the cost follows the number of pairs.

    Parameters
    ----------
    rows, columns : ndarray of int, shape (n_pairs,)
        Which two each pair would bring together; each pair once.
    weight : ndarray of float, shape (n_pairs,)
        > 0.
    """
    left, chosen = np.arange(len(rows)), []
    while len(left):
        row, column = _dense(rows[left]), _dense(columns[left])
        clear = weight[left] > _best_other(row, weight[left]) + _best_other(column, weight[left])
        if not clear.any():
            break
        chosen.append(left[clear])
        taken_row, taken_column = np.zeros(row.max() + 1, bool), np.zeros(column.max() + 1, bool)
        taken_row[row[clear]] = taken_column[column[clear]] = True
        left = left[~(taken_row[row] | taken_column[column])]
    if len(left):
        row, column = _dense(rows[left]), _dense(columns[left])
        n_rows = int(row.max()) + 1
        n_nodes = n_rows + int(column.max()) + 1
        graph = coo_array(
            (np.ones(len(left), np.int8), (row, n_rows + column)), shape=(n_nodes, n_nodes)
        )
        _, group_of_node = connected_components(graph, directed=False)
        group = group_of_node[row]
        order = left[np.argsort(group, kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(np.sort(group))) + 1)
        chosen.extend(
            members[_assign(rows[members], columns[members], weight[members])] for members in groups
        )
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _dense(values: IntArray) -> IntArray:
    """Number values 0, 1, 2... in their order."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _best_other(index: IntArray, weight: FloatVector) -> FloatVector:
    """Return for each pair the largest weight among the other pairs of the same row (or column); 0
    where it is alone.
    """
    order = np.lexsort((-weight, index))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(index[order]) > 0
    best, second = np.zeros(index.max() + 1), np.zeros(index.max() + 1)
    best[index[order[first]]] = weight[order[first]]
    after = np.flatnonzero(first) + 1
    after = after[(after < len(order)) & ~np.append(first, True)[after]]
    second[index[order[after]]] = weight[order[after]]
    is_first = np.zeros(len(order), bool)
    is_first[order[first]] = True
    return np.where(is_first, second[index], best[index])


def _assign(rows: IntArray, columns: IntArray, weight: FloatVector) -> IntArray:
    """Return the indices of the pairs of the assignment of largest total weight within one group;
    weights are > 0.
    """
    row_ids, row = np.unique(rows, return_inverse=True)
    column_ids, column = np.unique(columns, return_inverse=True)
    n_rows, n_columns = len(row_ids), len(column_ids)
    if n_rows * n_columns <= DENSE_PAIRS:
        dense = np.zeros((n_rows, n_columns))
        dense[row, column] = weight
        place = np.full((n_rows, n_columns), -1)
        place[row, column] = np.arange(len(weight))
        pairs = place[linear_sum_assignment(dense, maximize=True)]
        return np.asarray(pairs[pairs >= 0])
    # A full matching exists once each row may also take a column of its own that means "none".
    # Adding 1 to every weight changes each full matching by the same amount, and keeps the weight
    # of "none" from reading as a missing edge.
    everything = csr_array(
        (
            np.r_[weight + 1, np.ones(n_rows)],
            (np.r_[row, np.arange(n_rows)], np.r_[column, n_columns + np.arange(n_rows)]),
        ),
        shape=(n_rows, n_columns + n_rows),
    )
    taken_row, taken_column = min_weight_full_bipartite_matching(everything, maximize=True)
    real = taken_column < n_columns
    place_of = csr_array((np.arange(1, len(weight) + 1), (row, column)), shape=(n_rows, n_columns))
    return np.asarray(place_of[taken_row[real], taken_column[real]]).ravel() - 1
