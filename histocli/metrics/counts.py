"""Counts of what a prediction got right and wrong, and the scores that follow from them.

Counts of several images add up, so that pooled scores are the same formulas over sums. The main
rules (``docs/metrics.md`` has all):

- Pixels where the truth is negative are ignored: they belong to no true or predicted nucleus.
- A true and a predicted nucleus match when their IoU exceeds one half, or the stated threshold;
  equality is no match.
- Without true and predicted nuclei every score is 1; with only true or only predicted ones it is 0.
- A value that does not exist is NaN: detection and boundary scores that were not measured, relative
  errors without true nuclei, and errors of matched nuclei where none match. Means leave NaN out.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from histocli.instances.matching import best_prediction, matched_pairs, one_to_one
from histocli.instances.overlaps import LabelImage, Overlaps, overlaps

THRESHOLDS_PERCENT = tuple(range(50, 100, 5))
"""IoU thresholds, in percent, of F1 and of the precision of the 2018 Data Science Bowl."""


class _Summable:
    """A dataclass whose fields are added one by one."""

    def __add__(self, other: Self) -> Self:
        """Pool two sets of images."""
        values: dict[str, Any] = {}
        for each in fields(self):  # type: ignore[arg-type]
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, tuple):
                values[each.name] = tuple(one + two for one, two in zip(mine, theirs, strict=True))
            else:
                values[each.name] = mine + theirs
        return type(self)(**values)


@dataclass(frozen=True, kw_only=True)
class BoundaryCounts(_Summable):
    """Boundary pixels of one image or of several, and how far matched outlines lie apart."""

    images: int = 0
    """Images whose boundaries were compared."""
    truth_px: int = 0
    truth_hits: int = 0
    """True boundary pixels with a predicted one within the tolerance."""
    prediction_px: int = 0
    prediction_hits: int = 0
    hd95_sum_um: float = 0.0
    """Sum over ``hd95_pairs`` of the 95th-percentile Hausdorff distance."""
    hd95_pairs: int = 0
    """Matched pairs whose two nuclei both have boundary pixels."""

    @property
    def f1(self) -> float:
        """F1 of true and predicted boundary pixels within the tolerance (Csurka et al. 2013)."""
        if not self.truth_px or not self.prediction_px:
            return float(self.truth_px == self.prediction_px)
        recall = self.truth_hits / self.truth_px
        precision = self.prediction_hits / self.prediction_px
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True, kw_only=True)
class Counts(_Summable):
    """Counts of one image, or of several after addition. Areas are in pixels."""

    n_truth: int = 0
    n_prediction: int = 0
    true_positives: int = 0
    """Matched pairs."""
    matched_iou_sum: float = 0.0
    """Sum of the IoU of the matched pairs."""
    truth_px: int = 0
    prediction_px: int = 0
    shared_px: int = 0
    """Pixels that belong to a true and to a predicted nucleus."""
    aji_intersection_px: int = 0
    aji_union_px: int = 0
    aji_plus_intersection_px: int = 0
    aji_plus_union_px: int = 0
    touching_px: int = 0
    """Denominator of DICE2: the areas of both nuclei of every pair that shares a pixel."""
    matched_at: tuple[int, ...] = (0,) * len(THRESHOLDS_PERCENT)
    """Pairs whose IoU exceeds each of ``THRESHOLDS_PERCENT``."""
    dsb_ap_sum: float = 0.0
    """Sum over images of the precision in ``data_science_bowl_precision``."""
    images: int = 0
    matched_area_error_sum: float = 0.0
    """Sum over matched pairs of the absolute difference of areas, divided by the true area."""
    splits: int = 0
    """True nuclei that are split into pieces; see :mod:`histocli.metrics.fates`."""
    merges: int = 0
    """Predictions that merge several true nuclei."""
    detections: int = 0
    """One-to-one pairs of true and predicted centroids within the radius."""
    detection_images: int = 0
    """Images whose centroids were compared; detection scores are NaN if some were not."""
    boundaries: BoundaryCounts = field(default_factory=BoundaryCounts)
    """Counts of boundaries; their scores are NaN if some images were not compared."""

    @property
    def false_positives(self) -> int:
        """Predicted nuclei without a match."""
        return self.n_prediction - self.true_positives

    @property
    def false_negatives(self) -> int:
        """True nuclei without a match."""
        return self.n_truth - self.true_positives

    @property
    def dice(self) -> float:
        """Dice of nuclear pixels, ``2 |T and P| / (|T| + |P|)``; DICE1 of Vu et al. 2019."""
        return _ratio(2 * self.shared_px, self.truth_px + self.prediction_px)

    @property
    def dice2(self) -> float:
        """DICE2 of Vu et al. 2019: Dice of the pairs that share a pixel, summed over the pairs.

        A nucleus counts once in each of its pairs, so not at all without one. The value is 0 where
        there are nuclei but no pairs.
        """
        return self._share(2 * self.shared_px, self.touching_px)

    @property
    def ensemble_dice(self) -> float:
        """Mean of DICE1 and DICE2, by which the segmentation challenge of MICCAI 2018 ranked."""
        return (self.dice + self.dice2) / 2

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index of Kumar et al. 2017.

        Each true nucleus takes the prediction of highest IoU; several may take the same one.
        Predictions that none took and true nuclei that touch no prediction add their area to the
        union.
        """
        return _ratio(self.aji_intersection_px, self.aji_union_px)

    @property
    def aji_plus(self) -> float:
        """AJI with the one-to-one assignment of largest total IoU (Graham et al. 2019)."""
        return _ratio(self.aji_plus_intersection_px, self.aji_plus_union_px)

    @property
    def detection_quality(self) -> float:
        """DQ of Kirillov et al. 2019: F1 of nuclei that match with IoU > 0.5."""
        return _ratio(2 * self.true_positives, self.n_truth + self.n_prediction)

    @property
    def segmentation_quality(self) -> float:
        """SQ of Kirillov et al. 2019: mean IoU of matched pairs; 0 if no nucleus matches."""
        return self._share(self.matched_iou_sum, self.true_positives)

    @property
    def panoptic_quality(self) -> float:
        """PQ of Kirillov et al. 2019: DQ times SQ."""
        return self.detection_quality * self.segmentation_quality

    @property
    def precision(self) -> float:
        """Share of predicted nuclei that match."""
        return self._share(self.true_positives, self.n_prediction)

    @property
    def recall(self) -> float:
        """Share of true nuclei that match."""
        return self._share(self.true_positives, self.n_truth)

    def f1_above(self, percent: int) -> float:
        """F1 of nuclei whose IoU exceeds one of ``THRESHOLDS_PERCENT``."""
        matched = self.matched_at[THRESHOLDS_PERCENT.index(percent)]
        return _ratio(2 * matched, self.n_truth + self.n_prediction)

    @property
    def f1_mean(self) -> float:
        """Mean of F1 over ``THRESHOLDS_PERCENT``."""
        return sum(map(self.f1_above, THRESHOLDS_PERCENT)) / len(THRESHOLDS_PERCENT)

    @property
    def data_science_bowl_precision(self) -> float:
        """Mean over images of the 2018 Data Science Bowl's precision (Caicedo et al. 2019).

        The precision of an image is the mean over the thresholds of TP / (TP + FP + FN). Added
        counts give the mean over images too, never a pooled value.
        """
        return _ratio(self.dsb_ap_sum, self.images)

    @property
    def detection_f1(self) -> float:
        """F1 of centroids, paired one to one within the radius."""
        return self._share(2 * self._known_detections, self.n_truth + self.n_prediction)

    @property
    def detection_precision(self) -> float:
        """Share of predicted centroids that are paired with a true one."""
        return self._share(self._known_detections, self.n_prediction)

    @property
    def detection_recall(self) -> float:
        """Share of true centroids that are paired with a predicted one."""
        return self._share(self._known_detections, self.n_truth)

    @property
    def _known_detections(self) -> float:
        return self.detections if self.detection_images >= self.images else math.nan

    @property
    def boundary_f1(self) -> float:
        """F1 of boundary pixels within the tolerance; NaN unless all images were compared."""
        return self.boundaries.f1 if self.boundaries.images >= self.images else math.nan

    @property
    def hd95_um(self) -> float:
        """Mean 95th-percentile Hausdorff distance of matched pairs, in micrometres."""
        if self.boundaries.images < self.images:
            return math.nan
        return _ratio(self.boundaries.hd95_sum_um, self.boundaries.hd95_pairs, math.nan)

    @property
    def matched_area_error(self) -> float:
        """Mean over matched pairs of the absolute difference of areas, divided by the true area."""
        return _ratio(self.matched_area_error_sum, self.true_positives, math.nan)

    @property
    def count_error(self) -> int:
        """Predicted minus true nuclei."""
        return self.n_prediction - self.n_truth

    @property
    def count_error_relative(self) -> float:
        """Predicted minus true nuclei, divided by the true nuclei."""
        return _ratio(self.count_error, self.n_truth, math.nan)

    @property
    def area_error_relative(self) -> float:
        """Predicted minus true nuclear area, divided by the true area."""
        return _ratio(self.prediction_px - self.truth_px, self.truth_px, math.nan)

    def _share(self, part: float, whole: int) -> float:
        """Return part / whole; where whole is 0, return 1 if there are no nuclei at all, else 0."""
        if whole or math.isnan(part):
            return part / max(whole, 1)
        return float(not self.n_truth and not self.n_prediction)


def _ratio(part: float, whole: float, of_nothing: float = 1.0) -> float:
    """Return ``part / whole``, or ``of_nothing`` where ``whole`` is 0."""
    return part / whole if whole else of_nothing


def count(truth: LabelImage, prediction: LabelImage) -> Counts:
    """Count what follows from the pixels that true and predicted nuclei share.

    :func:`histocli.metrics.comparison.compare` compares centroids and boundaries too.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k; negative counts as background.

    Returns
    -------
    Counts

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are not integers.
    """
    return count_table(overlaps(truth, prediction))


def count_table(table: Overlaps) -> Counts:
    """Count as :func:`count` does, from the table of overlaps of one image."""
    true, predicted, union = table.truth.areas, table.prediction.areas, table.union
    truth_px, prediction_px = int(true.sum()), int(predicted.sum())
    matched, best = matched_pairs(table), best_prediction(table)
    never_taken = np.delete(predicted, table.columns[best])
    missed = np.delete(true, table.rows[best])
    aji_plus_intersection = int(table.intersection[one_to_one(table)].sum())
    matched_at = tuple(
        int((100 * table.intersection[matched] > percent * union[matched]).sum())
        for percent in THRESHOLDS_PERCENT
    )
    precisions = [_ratio(n, len(true) + len(predicted) - n) for n in matched_at]
    matched_true, matched_predicted = true[table.rows[matched]], predicted[table.columns[matched]]
    return Counts(
        n_truth=len(true),
        n_prediction=len(predicted),
        true_positives=len(matched),
        matched_iou_sum=float(table.iou[matched].sum()),
        truth_px=truth_px,
        prediction_px=prediction_px,
        shared_px=int(table.intersection.sum()),
        aji_intersection_px=int(table.intersection[best].sum()),
        aji_union_px=int(union[best].sum() + never_taken.sum() + missed.sum()),
        aji_plus_intersection_px=aji_plus_intersection,
        aji_plus_union_px=truth_px + prediction_px - aji_plus_intersection,
        touching_px=int(true[table.rows].sum() + predicted[table.columns].sum()),
        matched_at=matched_at,
        dsb_ap_sum=sum(precisions) / len(precisions),
        images=1,
        matched_area_error_sum=float(
            (np.abs(matched_predicted - matched_true) / matched_true).sum()
        ),
    )
