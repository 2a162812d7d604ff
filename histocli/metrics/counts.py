"""What one prediction got right and wrong: counts are kept, ratios derived.

Counts of several images add up, so that pooled scores are the same formulas over sums. The rules,
exactly (the whole list with its ties is in ``docs/metrics.md``):

- Pixels where the truth is negative are ignored: they count on neither side.
- A true and a predicted nucleus match when their IoU exceeds one half, or the stated threshold; equality is no match.
- Where there is nothing to find and nothing was found every score is 1; where only one side has nuclei it is 0.
- What cannot be said is NaN: detection and boundaries where they were not measured, errors relative to nothing, and errors of
  matched nuclei where none match. Means leave NaN out.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from histocli.instances.matching import (
    LabelImage,
    Overlaps,
    best_prediction,
    matched_pairs,
    one_to_one,
    overlaps,
)

THRESHOLDS_PERCENT = tuple(range(50, 100, 5))
"""IoU thresholds of F1 and of the average precision of the Data Science Bowl 2018."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of one image, or of several after addition. Areas are in pixels."""

    n_truth: int = 0
    """True nuclei."""
    n_prediction: int = 0
    """Predicted nuclei."""
    true_positives: int = 0
    """Matched pairs."""
    matched_iou_sum: float = 0.0
    """Sum of the IoU of the matched pairs."""
    truth_px: int = 0
    """Pixels of true nuclei."""
    prediction_px: int = 0
    """Pixels of predicted nuclei."""
    shared_px: int = 0
    """Pixels that are in a nucleus on both sides."""
    aji_intersection_px: int = 0
    """Numerator of AJI."""
    aji_union_px: int = 0
    """Denominator of AJI."""
    aji_plus_intersection_px: int = 0
    """Numerator of AJI+."""
    aji_plus_union_px: int = 0
    """Denominator of AJI+."""
    touching_px: int = 0
    """Denominator of DICE2: the areas of both nuclei of every pair that touches."""
    matched_at: tuple[int, ...] = (0,) * len(THRESHOLDS_PERCENT)
    """Matched pairs at each of ``THRESHOLDS_PERCENT``."""
    dsb_ap_sum: float = 0.0
    """Sum over images of the average precision of each; see ``images``."""
    images: int = 0
    """How many images these counts are of."""
    matched_area_error_sum: float = 0.0
    """Sum over matched pairs of the difference of their areas relative to the true one."""
    splits: int = 0
    """True nuclei in several pieces; see :mod:`histocli.metrics.verdicts`."""
    merges: int = 0
    """Predictions over several true nuclei."""
    detections: int = 0
    """Pairs of centroids within the radius."""
    detection_images: int = 0
    """In how many of the images centroids were compared; the scores are unknown unless in all."""
    boundary_images: int = 0
    """In how many of the images boundaries were compared."""
    boundary_truth_px: int = 0
    """Boundary pixels of true nuclei."""
    boundary_truth_hits: int = 0
    """Those with a predicted boundary pixel within the tolerance."""
    boundary_prediction_px: int = 0
    boundary_prediction_hits: int = 0
    hd95_sum_um: float = 0.0
    """Sum over the matched pairs that have boundaries of their Hausdorff distances."""
    hd95_pairs: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Pool two sets of images."""
        values: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, tuple):
                values[field.name] = tuple(one + two for one, two in zip(mine, theirs, strict=True))
            else:
                values[field.name] = mine + theirs
        return Counts(**values)

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
        """Dice coefficient of nuclear pixels, ``2 |T and P| / (|T| + |P|)``; DICE1 of Vu et al.
        2019.
        """
        return _ratio(2 * self.shared_px, self.truth_px + self.prediction_px)

    @property
    def dice2(self) -> float:
        """DICE2 of Vu et al. 2019: Dice of the pairs that touch, summed over pairs; a nucleus
        counts once in each of its pairs.

        Nuclei that touch nothing count nowhere. 0 where nuclei exist on one side or both but none
        touch.
        """
        if not self.touching_px:
            return float(not self.n_truth and not self.n_prediction)
        return 2 * self.shared_px / self.touching_px

    @property
    def ensemble_dice(self) -> float:
        """Mean of DICE1 and DICE2, by which the segmentation challenge of MICCAI 2018 ranked."""
        return (self.dice + self.dice2) / 2

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index of Kumar et al. 2017.

        Each true nucleus takes the prediction of highest IoU, which others may take too;
        predictions that nobody took and true nuclei that touch no prediction add their area to the
        union.
        """
        return _ratio(self.aji_intersection_px, self.aji_union_px)

    @property
    def aji_plus(self) -> float:
        """AJI with the one-to-one assignment of largest total IoU (Graham et al. 2019), so that no
        prediction serves twice.
        """
        return _ratio(self.aji_plus_intersection_px, self.aji_plus_union_px)

    @property
    def detection_quality(self) -> float:
        """DQ of Kirillov et al. 2019: F1 of nuclei that match with IoU > 0.5."""
        return _ratio(2 * self.true_positives, self.n_truth + self.n_prediction)

    @property
    def segmentation_quality(self) -> float:
        """SQ of Kirillov et al. 2019: mean IoU of the matched pairs; 0 where nuclei exist but none
        match.
        """
        if not self.n_truth and not self.n_prediction:
            return 1.0
        return self.matched_iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def panoptic_quality(self) -> float:
        """PQ of Kirillov et al. 2019: DQ times SQ."""
        return self.detection_quality * self.segmentation_quality

    @property
    def f1_at(self) -> tuple[float, ...]:
        """F1 of nuclei that match above each of ``THRESHOLDS_PERCENT``."""
        return tuple(
            _ratio(2 * matched, self.n_truth + self.n_prediction) for matched in self.matched_at
        )

    @property
    def data_science_bowl_precision(self) -> float:
        """Average precision of the 2018 Data Science Bowl (Caicedo et al. 2019): no precision in
        any other sense.

        Mean over the thresholds of TP / (TP + FP + FN) of an image; of several images, the mean
        over them, never pooled.
        """
        return self.dsb_ap_sum / self.images if self.images else 1.0

    @property
    def boundary_f1(self) -> float:
        """Harmonic mean of the shares of boundary pixels that are near one of the other side
        (Csurka et al. 2013).
        """
        if self.boundary_images < self.images:
            return math.nan
        if not self.boundary_truth_px or not self.boundary_prediction_px:
            return float(self.boundary_truth_px == self.boundary_prediction_px)
        recall = self.boundary_truth_hits / self.boundary_truth_px
        precision = self.boundary_prediction_hits / self.boundary_prediction_px
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    @property
    def hd95_um(self) -> float:
        """Mean over matched pairs of the Hausdorff distance without the farthest 5 %, in um; NaN
        where none match.
        """
        known = self.hd95_pairs and self.boundary_images >= self.images
        return self.hd95_sum_um / self.hd95_pairs if known else math.nan

    @property
    def count_error(self) -> int:
        """Predicted minus true nuclei."""
        return self.n_prediction - self.n_truth

    def scores(self) -> dict[str, float]:
        """Return every metric by its short name, in the order of
        ``histocli.config.evaluate.METRICS``; f1 is dq is f1_50.
        """
        f1_at = self.f1_at
        found = self.detections if self.detection_images >= self.images else math.nan
        return {
            "dice": self.dice,
            "aji": self.aji,
            "aji_plus": self.aji_plus,
            "pq": self.panoptic_quality,
            "dq": self.detection_quality,
            "sq": self.segmentation_quality,
            "f1": self.detection_quality,
            "dice2": self.dice2,
            "ensemble_dice": self.ensemble_dice,
            "precision": self._share(self.true_positives, self.n_prediction),
            "recall": self._share(self.true_positives, self.n_truth),
            **{
                f"f1_{percent}": value
                for percent, value in zip(THRESHOLDS_PERCENT, f1_at, strict=True)
            },
            "f1_mean": sum(f1_at) / len(f1_at),
            "dsb_ap": self.data_science_bowl_precision,
            "detection_f1": found
            if math.isnan(found)
            else _ratio(2 * found, self.n_truth + self.n_prediction),
            "detection_precision": self._share(found, self.n_prediction),
            "detection_recall": self._share(found, self.n_truth),
            "boundary_f1": self.boundary_f1,
            "hd95_um": self.hd95_um,
            "count_error_abs": abs(self.count_error),
            "matched_area_error": self.matched_area_error_sum / self.true_positives
            if self.true_positives
            else math.nan,
            "count_error": self.count_error,
            "count_error_relative": self.count_error / self.n_truth if self.n_truth else math.nan,
            "area_error_relative": (self.prediction_px - self.truth_px) / self.truth_px
            if self.truth_px
            else math.nan,
        }

    def _share(self, part: float, whole: int) -> float:
        """Return the share of a side that was found: 1 where both sides are empty, 0 where only
        this one is.
        """
        if whole or math.isnan(part):
            return part / max(whole, 1)
        return float(not self.n_truth and not self.n_prediction)


def _ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; 1 where there is nothing to find and nothing was found."""
    return part / whole if whole else 1.0


def count(truth: LabelImage, prediction: LabelImage) -> Counts:
    """Compare a predicted label image with the truth, by the pixels that nuclei share.

    For centroids and boundaries too see :func:`histocli.metrics.comparison.compare`.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k.

    Returns
    -------
    Counts
        What dice, AJI, AJI+, PQ, F1 and the errors of counts and areas derive from.

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are no integers.
    """
    return count_table(overlaps(truth, prediction))


def count_table(table: Overlaps) -> Counts:
    """Count what a table of overlaps says about one image; see :func:`count`."""
    iou, union = table.iou, table.union
    matched = matched_pairs(table)
    truth_px, prediction_px = int(table.areas_truth.sum()), int(table.areas_prediction.sum())
    n_truth, n_prediction = len(table.areas_truth), len(table.areas_prediction)

    best = best_prediction(table)
    never_taken = np.ones(n_prediction, bool)
    never_taken[table.columns[best]] = False
    missed = np.ones(n_truth, bool)
    missed[table.rows[best]] = False
    aji_union = (
        union[best].sum()
        + table.areas_prediction[never_taken].sum()
        + table.areas_truth[missed].sum()
    )

    pairs = one_to_one(table)
    aji_plus_intersection = int(table.intersection[pairs].sum())

    matched_at = tuple(
        int((100 * table.intersection[matched] > percent * union[matched]).sum())
        for percent in THRESHOLDS_PERCENT
    )
    average_precision = sum(_ratio(n, n_truth + n_prediction - n) for n in matched_at) / len(
        THRESHOLDS_PERCENT
    )
    areas = table.areas_truth[table.rows[matched]], table.areas_prediction[table.columns[matched]]
    return Counts(
        n_truth=n_truth,
        n_prediction=n_prediction,
        true_positives=len(matched),
        matched_iou_sum=float(iou[matched].sum()),
        truth_px=truth_px,
        prediction_px=prediction_px,
        shared_px=int(table.intersection.sum()),
        aji_intersection_px=int(table.intersection[best].sum()),
        aji_union_px=int(aji_union),
        aji_plus_intersection_px=aji_plus_intersection,
        aji_plus_union_px=truth_px + prediction_px - aji_plus_intersection,
        touching_px=int(
            table.areas_truth[table.rows].sum() + table.areas_prediction[table.columns].sum()
        ),
        matched_at=matched_at,
        dsb_ap_sum=average_precision,
        images=1,
        matched_area_error_sum=float((np.abs(areas[1] - areas[0]) / areas[0]).sum()),
    )
