"""Choosing without labels: which of several segmenters suits a tissue, and which objects to keep.

Networks that learnt from differently made patches make different mistakes, so where they agree they
are probably right: ``agreement`` is the score to choose by. Over 23 models it ranked the panoptic
quality with a Spearman correlation of 0.63 to 0.85 on three of five development sets, and of 0.27
and 0.42 on the other two (``docs/research/selection.md``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.targets import mean_within
from histocli.metrics.counts import Counts, count


def agreement(one: InstanceLabels, others: Sequence[InstanceLabels]) -> float:
    """Return the mean panoptic quality of a segmentation against those of other models.

    It lies in 0..1, is symmetric in each pair, and 1 where no model found anything.
    """
    return float(np.mean([count(other, one).panoptic_quality for other in others]))


CONFIDENCES = (0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Candidates for the least mean probability of an object."""
SMALLEST_UM2 = (4.0, 7.0, 10.0, 14.0)
"""Candidates for the least area of an object."""


@dataclass(frozen=True)
class ObjectThresholds:
    """Objects of less mean probability or area are dropped."""

    confidence: float
    smallest_um2: float
    score: float
    """AJI + PQ on the patches that the thresholds were chosen on."""


def choose_thresholds(
    truths: Sequence[InstanceLabels],
    found: Sequence[InstanceLabels],
    probabilities: Sequence[FloatArray],
    mpp: float,
) -> ObjectThresholds:
    """Choose which objects are dropped, by patches whose truth is known because they were drawn.

    First the one of ``CONFIDENCES`` with the largest AJI + PQ is chosen, then that of
    ``SMALLEST_UM2``; of equal ones the lower. PQ alone would drop every doubtful nucleus, AJI none.
    Half of the score is the mean over patches, where sparse tissue counts as much as dense but two
    or three nuclei decide over a patch; the other half is that of all nuclei together.

    Parameters
    ----------
    truths, found : sequence of ndarray of int, shape (H, W)
        Held-out synthetic patches, -1 is ignored, and what the segmenter finds without thresholds.
    probabilities : sequence of ndarray of float32, shape (H, W)
        Of nucleus.
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
