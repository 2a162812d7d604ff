"""Which nuclei of two label images lie over each other, and which belong together.

Everything follows from one sparse table: for each pair of nuclei that touch, the pixels they share. Building it costs a
pass over the pixels; its size is the number of touching pairs, never the product of the two counts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from histocli.base.errors import InvalidInput
from histocli.base.types import IntArray

MATCH_IOU = 0.5  # above one half, a nucleus can overlap at most one partner
DENSE_PAIRS = 1_000_000  # a group of touching nuclei with more possible pairs than this is assigned on the sparse graph

LabelImage = npt.NDArray[np.integer[Any]]
"""(H, W) of any integer type: 0 = background, k = nucleus k, negative = ignored (truth) or background (prediction)."""
FloatVector = npt.NDArray[np.float64]
"""(n,)."""


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

    @property
    def union(self) -> IntArray:
        """(n_pairs,) pixels that at least one of the pair covers."""
        return self.areas_truth[self.rows] + self.areas_prediction[self.columns] - self.intersection

    @property
    def iou(self) -> FloatVector:
        """(n_pairs,) intersection over union, in (0, 1]."""
        return self.intersection / self.union


def _consecutive(labels: npt.NDArray[np.int64]) -> tuple[IntArray, IntArray, IntArray]:
    """Return labels renumbered 0, 1, 2... with 0 kept as background, the ids, and the areas; ``labels`` is (n,) and >= 0."""
    top = int(labels.max(initial=0))
    if top <= 4 * labels.size + 1024:  # dense ids: counting is several times faster than sorting
        counts = np.bincount(labels, minlength=1)
        ids = np.flatnonzero(counts)
        ids = ids[ids > 0]
        index = np.zeros(top + 1, np.int64)
        index[ids] = np.arange(1, len(ids) + 1)
        return index[labels], ids, counts[ids]
    ids, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(labels.shape)
    if ids[0] == 0:
        return inverse, ids[1:], counts[1:]
    return inverse + 1, ids, counts


def overlaps(truth: LabelImage, prediction: LabelImage) -> Overlaps:
    """Count the pixels that each true nucleus shares with each predicted one.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels are ignored: they count on neither side.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k. Negative pixels count as background.

    Returns
    -------
    Overlaps
        Labels need not be consecutive, nor nuclei connected.

    Raises
    ------
    InvalidInput
        The two shapes differ, or one of them holds no integers.
    """
    if truth.shape != prediction.shape:
        raise InvalidInput(
            f"truth has shape {truth.shape} but prediction has {prediction.shape}; labels are compared pixel by pixel, "
            "so both must have the same height and width"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise InvalidInput(f"{name} has type {labels.dtype}; instance labels must be integers, 0 for background")
    flat_truth, flat_prediction = truth.ravel().astype(np.int64), prediction.ravel().astype(np.int64)
    ignored = flat_truth < 0
    if ignored.any():
        flat_truth, flat_prediction = flat_truth[~ignored], flat_prediction[~ignored]
    rows, ids_truth, areas_truth = _consecutive(flat_truth)
    columns, ids_prediction, areas_prediction = _consecutive(np.maximum(flat_prediction, 0))
    both = np.flatnonzero((rows > 0) & (columns > 0))
    table = coo_array(
        (np.ones(len(both), np.int64), (rows[both] - 1, columns[both] - 1)), shape=(len(ids_truth), len(ids_prediction))
    ).tocsr()
    table.sum_duplicates()
    pairs = table.tocoo()
    return Overlaps(
        rows=pairs.row.astype(np.int64),
        columns=pairs.col.astype(np.int64),
        intersection=pairs.data,
        areas_truth=areas_truth,
        areas_prediction=areas_prediction,
        ids_truth=ids_truth,
        ids_prediction=ids_prediction,
    )


def matched_pairs(table: Overlaps) -> IntArray:
    """Return the indices of the pairs with IoU > 0.5; no nucleus is in two of them."""
    return np.flatnonzero(table.iou > MATCH_IOU)


def best_prediction(table: Overlaps) -> IntArray:
    """Return, for each true nucleus that touches a prediction, the index of its pair of highest IoU.

    A prediction may be taken by several true nuclei. Ties go to the prediction of the smaller label.
    """
    order = np.lexsort((-table.iou, table.rows))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(table.rows[order]) > 0
    return order[first]


def one_to_one(table: Overlaps) -> IntArray:
    """Return the indices of the pairs of the one-to-one assignment with the largest total IoU.

    The table is split into groups of nuclei that touch each other directly or through others. Most groups are one pair;
    the rest are solved one by one, so that the cost follows the number of touching pairs.
    """
    n_truth, n_prediction, n_pairs = len(table.areas_truth), len(table.areas_prediction), len(table.rows)
    if not n_pairs:
        return np.zeros(0, np.int64)
    n_nodes = n_truth + n_prediction
    graph = coo_array((np.ones(n_pairs, np.int8), (table.rows, n_truth + table.columns)), shape=(n_nodes, n_nodes))
    _, group_of_node = connected_components(graph, directed=False)
    group = group_of_node[table.rows]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    sizes = np.diff(np.r_[starts, n_pairs])
    chosen = [order[starts[sizes == 1]]]
    iou = table.iou
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        members = order[start : start + size]
        chosen.append(members[_assign(table.rows[members], table.columns[members], iou[members])])
    return np.sort(np.concatenate(chosen))


def _assign(rows: IntArray, columns: IntArray, weight: FloatVector) -> IntArray:
    """Return the indices of the pairs of the assignment of largest total weight within one group; weights are > 0."""
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
    # A full matching exists once each row may also take a column of its own that means "none". Adding 1 to every weight
    # changes each full matching by the same amount, and keeps the weight of "none" from reading as a missing edge.
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
