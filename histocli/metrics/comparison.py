"""Compare a predicted label image with the true one, in memory or window by window.

>>> import numpy as np
>>> from histocli.metrics.comparison import Rules, compare
>>> truth = np.zeros((40, 40), np.int32)
>>> truth[5:15, 5:15] = 1
>>> truth[25:35, 20:30] = 2
>>> found = compare(truth, np.roll(truth, 1, axis=0), Rules(mpp=0.25))
>>> round(found.counts.panoptic_quality, 3), round(found.counts.hd95_um, 3)
(0.818, 0.25)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from histocli.base.errors import InvalidInput
from histocli.base.types import IntArray
from histocli.instances.matching import assign, matched_pairs
from histocli.instances.overlaps import (
    BoolVector,
    FloatVector,
    LabelImage,
    Overlaps,
    merge_overlaps,
    overlaps,
    without,
)
from histocli.metrics.boundaries import count_boundaries
from histocli.metrics.counts import Counts, count_table
from histocli.metrics.fates import Fates, tell_fates
from histocli.metrics.windows import InMemory, Mapper, MaskedPair, Rectangle, Windowed, tile


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How two label images are compared."""

    mpp: float = 0.25
    """Micrometres per pixel."""
    radius_um: float = 3.0
    """Largest distance in micrometres at which a predicted and a true centroid may pair."""
    tolerance_um: float = 0.5
    """Largest distance in micrometres of a true and a predicted boundary pixel that agree."""
    boundaries: bool = True
    """Whether boundaries are compared."""
    border: str = "count"
    """``count``: nuclei at the border count; ``ignore``: see :func:`leave_out_border`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing the two label images of one image."""

    counts: Counts
    table: Overlaps
    """Overlapping pairs of true and predicted nuclei, without those left out by the border rule."""
    fates: Fates


def compare(truth: LabelImage, prediction: LabelImage, rules: Rules) -> Comparison:
    """Compare a predicted label image with the truth.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored. Labels need not be consecutive,
        nor nuclei connected.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k; negative counts as background.
    rules : Rules

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are not integers.
    """
    table = overlaps(truth, prediction)
    height, width = truth.shape
    whole = [Rectangle(0, height, 0, width)]
    return _finish(table, InMemory(truth), InMemory(prediction), rules, whole, map)


def compare_windows(
    truth: Windowed, prediction: Windowed, rules: Rules, mapper: Mapper = map
) -> Comparison:
    """Compare two label images window by window; the result is exactly that of :func:`compare`.

    Parameters
    ----------
    truth, prediction : Windowed
        Integers as in :func:`compare`. A label that occurs in several windows is one nucleus.
    rules : Rules
    mapper : callable
        ``map``, or a function like it that uses threads.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are not integers.
    """
    if truth.shape != prediction.shape:
        raise InvalidInput(
            f"truth has shape {truth.shape} but prediction has {prediction.shape}; both must agree"
        )

    def look(window: Rectangle) -> Overlaps | None:
        true, found = truth.read(*window.slices), prediction.read(*window.slices)
        if not true.any() and not found.any():
            return None
        return overlaps(true, found, origin=(window.top, window.left))

    windows = tile(truth.shape)
    tables = list(mapper(look, windows))
    filled = [window for window, each in zip(windows, tables, strict=True) if each is not None]
    nothing = overlaps(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int32))
    table = merge_overlaps([nothing, *(each for each in tables if each is not None)])
    del tables
    return _finish(table, truth, prediction, rules, filled, mapper)


def _finish(
    table: Overlaps,
    truth: Windowed,
    prediction: Windowed,
    rules: Rules,
    filled: Sequence[Rectangle],
    mapper: Mapper,
) -> Comparison:
    """Apply the border rule and count; only the boundaries need the pixels again."""
    left_out = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if rules.border == "ignore":
        out = leave_out_border(table, truth.shape)
        left_out = table.truth.ids[out[0]], table.prediction.ids[out[1]]
        table = without(table, *out)
    fates = tell_fates(table)
    found, _ = match_centroids(
        table.truth.centroids, table.prediction.centroids, rules.radius_um / rules.mpp
    )
    counts = replace(
        count_table(table),
        detections=len(found),
        detection_images=1,
        splits=fates.splits,
        merges=fates.merges,
    )
    if rules.boundaries:
        boundaries = count_boundaries(
            table,
            MaskedPair(truth, prediction, *left_out),
            filled,
            tolerance_px=rules.tolerance_um / rules.mpp,
            mpp=rules.mpp,
            mapper=mapper,
        )
        counts = replace(counts, boundaries=boundaries)
    return Comparison(counts=counts, table=table, fates=fates)


def match_centroids(
    truth: FloatVector, prediction: FloatVector, radius: float
) -> tuple[IntArray, IntArray]:
    """Pair true and predicted centroids that lie within a radius, one to one.

    Of all pairings with the most pairs, the one with the smallest total distance is chosen. A
    distance equal to the radius is within it. (Sirinukunwattana et al. 2016 used 6 px at 20x,
    which is 3 um.)

    Parameters
    ----------
    truth, prediction : ndarray of float, shape (n, 2) and (m, 2)
        Rows and columns, in the unit of the radius.
    radius : float
        > 0.

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
    rows, columns = near.row.astype(np.int64), near.col.astype(np.int64)
    # A pair weighs 1 plus a bonus for nearness; all bonuses together stay below 1, so that one
    # more pair outweighs them.
    most = min(len(np.unique(rows)), len(np.unique(columns)))
    chosen = assign(rows, columns, 1 + (1 - near.data / radius) / (most + 1))
    return rows[chosen], columns[chosen]


def leave_out_border(table: Overlaps, shape: tuple[int, int]) -> tuple[BoolVector, BoolVector]:
    """Return masks of the true and predicted nuclei to leave out when the border is ignored.

    A true nucleus is left out when it touches the border of the image; its pixels become ignored
    pixels. A prediction is left out when more than half of it lies on such pixels, or when it
    touches the border itself and matches none of the remaining true nuclei.
    """
    truth = table.truth.touching_border(shape)
    gone, areas = truth[table.rows], table.prediction.areas
    covered = np.bincount(table.columns[gone], table.intersection[gone], len(areas))
    prediction = 2 * covered > areas
    rest = without(table, truth, prediction)
    left = rest.prediction.ids[rest.columns[matched_pairs(rest)]]
    matched = np.isin(table.prediction.ids, left)
    prediction |= table.prediction.touching_border(shape) & ~matched
    return truth, prediction
