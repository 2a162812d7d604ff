"""Choosing without real labels: which segmenter suits a tissue, and which objects to keep.

Networks that learnt from differently made patches make different mistakes, so where they agree they
are probably right: ``agreement`` is the score to choose by. Over 23 models the Spearman correlation
of agreement with the true panoptic quality was 0.63 to 0.85 on three of five development sets, and
0.27 and 0.42 on the other two (``docs/research/selection.md``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.targets import mean_within
from histocli.metrics.counts import Counts, count


def agreement(one: InstanceLabels, others: Sequence[InstanceLabels]) -> float:
    """Return the mean panoptic quality of a segmentation against one or more of other models.

    The score is in 0..1, and 1 if no model found a nucleus. Two models score each other the same.
    """
    return float(np.mean([count(other, one).panoptic_quality for other in others]))


CONFIDENCES = (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Candidates for the least mean nucleus probability of a kept object."""
SMALLEST_UM2 = (4.0, 7.0, 10.0, 14.0)
"""Candidates for the least area of a kept object, in square micrometres."""


@dataclass(frozen=True)
class ObjectThresholds:
    """Objects with less mean nucleus probability or area are dropped."""

    confidence: float
    smallest_um2: float
    score: float
    """The score, 0..2, of :func:`choose_thresholds` for these thresholds."""


def choose_thresholds(
    truths: Sequence[InstanceLabels],
    found: Sequence[InstanceLabels],
    probabilities: Sequence[FloatArray],
    mpp: float,
) -> ObjectThresholds:
    """Choose which objects are dropped, on synthetic patches, whose truth is known.

    First the confidence with the best score is chosen from ``CONFIDENCES``, then the smallest area
    from ``SMALLEST_UM2``; on a tie the lower. The score is AJI + PQ, because PQ alone would drop
    every doubtful nucleus and AJI alone none. It is half the mean over patches, which counts sparse
    tissue as much as dense, and half that of all nuclei pooled, where sparse patches weigh little.

    Parameters
    ----------
    truths, found : sequence of ndarray of int, shape (H, W)
        True labels of held-out synthetic patches, -1 is ignored, and the labels that the segmenter
        finds without thresholds.
    probabilities : sequence of ndarray of float32, shape (H, W)
        Probability of each pixel to be nucleus.
    mpp : float
        Micrometres per pixel.
    """
    means = [mean_within(*each) for each in zip(found, probabilities, strict=True)]
    areas = [np.bincount(labels.ravel(), minlength=1) * mpp**2 for labels in found]

    def score(confidence: float, smallest: float) -> float:
        counts = []
        for truth, labels, mean, area in zip(truths, found, means, areas, strict=True):
            kept = (mean >= confidence) & (area >= smallest)
            counts.append(count(truth, np.where(kept[labels], labels, 0).astype(np.int32)))
        each = np.mean([one.aji + one.panoptic_quality for one in counts]) if counts else 0.0
        together = sum(counts, Counts())
        return float(each + together.aji + together.panoptic_quality) / 2

    first = [score(confidence, SMALLEST_UM2[0]) for confidence in CONFIDENCES]
    confidence = CONFIDENCES[int(np.argmax(first))]
    second = [max(first), *(score(confidence, smallest) for smallest in SMALLEST_UM2[1:])]
    return ObjectThresholds(confidence, SMALLEST_UM2[int(np.argmax(second))], max(second))
