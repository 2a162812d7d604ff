"""Detection: which true nuclei have a prediction at their place, whatever its outline."""

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from histocli.base.types import IntArray
from histocli.instances.matching import assign

Points = npt.NDArray[np.float64]
"""(n, 2) rows and columns."""


def match_centroids(truth: Points, prediction: Points, radius: float) -> tuple[IntArray, IntArray]:
    """Pair true and predicted centroids that lie within a radius, one to one.

    Of all pairings the one with most pairs counts, and among those the one with the smallest total
    distance. A distance equal to the radius is within it. (Sirinukunwattana et al. 2016 used 6 px
    at 20x, which is 3 um.)

    Parameters
    ----------
    truth : ndarray of float, shape (n, 2)
    prediction : ndarray of float, shape (m, 2)
    radius : float
        > 0, in the unit of the points.

    Returns
    -------
    rows, columns : ndarray of int, shape (pairs,)
        Indices into ``truth`` and ``prediction``.
    """
    if not len(truth) or not len(prediction):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(truth).sparse_distance_matrix(
        cKDTree(prediction), radius, output_type="coo_matrix"
    )
    rows, columns, distance = near.row.astype(np.int64), near.col.astype(np.int64), near.data
    if not len(rows):
        return rows, columns
    # Each pair counts 1 and a bonus for nearness; all bonuses together stay below 1, so one pair
    # more outweighs them.
    most = min(len(np.unique(rows)), len(np.unique(columns)))
    weight = 1 + (1 - distance / radius) / (most + 1)
    chosen = assign(rows, columns, weight)
    return rows[chosen], columns[chosen]
