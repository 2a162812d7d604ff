"""Histograms of the nuclei of an image for charts, and the square with most mistakes.

Histograms are small and add up, so that the table of overlaps of a large slide is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histocli.base.types import IntArray
from histocli.instances.histograms import AREA_EDGES_UM2
from histocli.instances.overlaps import FloatVector
from histocli.metrics.comparison import Comparison
from histocli.metrics.fates import Fate

IOU_BINS = 20
PROBABILITY_BINS = 20


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Numbers of nuclei of one image, or of several after addition."""

    ious: IntArray
    """(IOU_BINS,) true nuclei by their highest IoU with a prediction; equal bins of 0..1."""
    areas: IntArray
    """(2, n) true and predicted nuclei by area; bins between ``AREA_EDGES_UM2``."""
    reliability: Reliability | None
    """None if no predicted nucleus has a known probability."""

    def __add__(self, other: Distributions) -> Distributions:
        """Pool two sets of images; a reliability of None adds nothing."""
        one, two = self.reliability, other.reliability
        return Distributions(
            ious=self.ious + other.ious,
            areas=self.areas + other.areas,
            reliability=Reliability(one.table + two.table) if one and two else one or two,
        )


@dataclass(frozen=True)
class Reliability:
    """Predicted nuclei by probability, to see whether the probability is the chance to match."""

    table: FloatVector
    """(PROBABILITY_BINS, 3) for each bin of probability the number of predicted nuclei, the sum of
    their probabilities, and the number that match."""

    @property
    def points(self) -> list[tuple[float, float]]:
        """Mean probability and share of matches of the nuclei in each bin that is not empty."""
        filled = self.table[self.table[:, 0] > 0]
        return [(float(total / n), float(hits / n)) for n, total, hits in filled]

    @property
    def calibration_error(self) -> float:
        """Mean over nuclei of the gap between the two values of ``points`` of their bin."""
        n, total, hits = self.table.T
        return float(np.abs(total - hits).sum() / max(n.sum(), 1))


def distributions_of(
    found: Comparison, mpp: float, probabilities: tuple[IntArray, FloatVector] | None
) -> Distributions:
    """Return the distributions of one image.

    ``mpp`` is in micrometres per pixel; ``probabilities`` are the ascending ids of predicted nuclei
    and the probability of each.
    """
    table = found.table
    best = np.zeros(len(table.truth.areas))
    np.maximum.at(best, table.rows, table.iou)
    edges = np.array(AREA_EDGES_UM2)
    areas = [
        np.histogram(np.clip(side.areas * (mpp * mpp), edges[0], edges[-1]), edges)[0]
        for side in (table.truth, table.prediction)
    ]
    return Distributions(
        ious=np.histogram(best, IOU_BINS, (0, 1))[0].astype(np.int64),
        areas=np.stack(areas).astype(np.int64),
        reliability=_reliability(found, *probabilities)
        if probabilities is not None and len(probabilities[0])
        else None,
    )


def _reliability(found: Comparison, known_ids: IntArray, values: FloatVector) -> Reliability:
    """Count the predicted nuclei whose probability is known and finite, by probability."""
    ids = found.table.prediction.ids
    at = np.minimum(np.searchsorted(known_ids, ids), len(known_ids) - 1)
    usable = (known_ids[at] == ids) & np.isfinite(values[at])
    value = np.clip(values[at][usable], 0, 1)
    part = np.minimum((value * PROBABILITY_BINS).astype(np.int64), PROBABILITY_BINS - 1)
    columns = np.ones(len(part)), value, found.fates.prediction[usable] == Fate.MATCHED
    return Reliability(
        np.stack([np.bincount(part, column, PROBABILITY_BINS) for column in columns], axis=1)
    )


def worst_square(found: Comparison, side_px: int) -> tuple[int, int]:
    """Return the first row and column of the square with most unmatched nuclei.

    The squares form a grid from pixel (0, 0). On a tie the first in reading order is returned, and
    (0, 0) where all nuclei match.
    """
    table, fates = found.table, found.fates
    sides = (table.truth, fates.truth), (table.prediction, fates.prediction)
    wrong = np.concatenate([side.centroids[kinds != Fate.MATCHED] for side, kinds in sides])
    if not len(wrong):
        return 0, 0
    squares, counts = np.unique((wrong // side_px).astype(np.int64), axis=0, return_counts=True)
    top, left = (int(number) * side_px for number in squares[counts.argmax()])
    return top, left
