"""Match nuclei of two label images; a pair is a true and a predicted one that share pixels."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from histocli.base.types import IntArray
from histocli.instances.overlaps import FloatVector, Overlaps

DENSE_PAIRS = 1_000_000  # a larger matrix of rows x columns is kept sparse, to save memory


def matched_pairs(table: Overlaps) -> IntArray:
    """Return the indices of the pairs whose IoU exceeds one half; no nucleus is in two of them."""
    return np.flatnonzero(2 * table.intersection > table.union)


def best_prediction(table: Overlaps) -> IntArray:
    """Return the index of the pair of highest IoU of each true nucleus that overlaps a prediction.

    A prediction may belong to several true nuclei. Ties go to the prediction of the smaller
    label.
    """
    order = np.lexsort((-table.iou, table.rows))
    return order[np.diff(table.rows[order], prepend=-1) > 0]


def one_to_one(table: Overlaps) -> IntArray:
    """Return the indices of the pairs of the one-to-one assignment with the largest total IoU."""
    return assign(table.rows, table.columns, table.iou)


def assign(rows: IntArray, columns: IntArray, weight: FloatVector) -> IntArray:
    """Return the one-to-one assignment with the largest total weight.

    A pair is in every such assignment, and is taken at once, if it weighs more than the best other
    pair of its row and the best other pair of its column together. The remaining pairs fall into
    connected groups, which are solved one by one, so that the cost grows with the number of pairs.

    Parameters
    ----------
    rows, columns : ndarray of int64, shape (n_pairs,)
        The two items of each pair. No pair occurs twice.
    weight : ndarray of float64, shape (n_pairs,)
        Above 0.

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Indices of the chosen pairs, ascending.
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
        edges = np.ones(len(left), np.int8), (row, n_rows + column)
        graph = coo_array(edges, shape=(n_nodes, n_nodes))
        group = connected_components(graph, directed=False)[1][row]
        order = left[np.argsort(group, kind="stable")]
        groups = np.split(order, np.flatnonzero(np.diff(np.sort(group))) + 1)
        chosen.extend(
            members[_assign_group(rows[members], columns[members], weight[members])]
            for members in groups
        )
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def _dense(values: IntArray) -> IntArray:
    """Replace values by their ranks 0, 1, 2...; equal values have equal ranks."""
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _best_other(index: IntArray, weight: FloatVector) -> FloatVector:
    """Return for each pair the largest weight of other pairs with the same index, or 0."""
    order = np.lexsort((-weight, index))
    first = np.diff(index[order], prepend=-1) > 0
    best, second = np.zeros(index.max() + 1), np.zeros(index.max() + 1)
    best[index[order[first]]] = weight[order[first]]
    after = np.flatnonzero(first) + 1
    after = after[(after < len(order)) & ~np.append(first, True)[after]]
    second[index[order[after]]] = weight[order[after]]
    is_first = np.zeros(len(order), bool)
    is_first[order[first]] = True
    return np.where(is_first, second[index], best[index])


def _assign_group(rows: IntArray, columns: IntArray, weight: FloatVector) -> IntArray:
    """Return the indices of the assignment of largest total weight within one group."""
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
    # SciPy matches every row, so each row gets a column of its own that means "none", of weight 0.
    # Adding 1 to every weight changes each full matching by the same amount, and keeps weight 0
    # from being read as a missing edge.
    own = np.arange(n_rows)
    places = np.r_[row, own], np.r_[column, n_columns + own]
    content = np.r_[weight + 1, np.ones(n_rows)], places
    everything = csr_array(content, shape=(n_rows, n_columns + n_rows))
    taken_row, taken_column = min_weight_full_bipartite_matching(everything, maximize=True)
    real = taken_column < n_columns
    place_of = csr_array((np.arange(1, len(weight) + 1), (row, column)), shape=(n_rows, n_columns))
    return np.asarray(place_of[taken_row[real], taken_column[real]]).ravel() - 1
