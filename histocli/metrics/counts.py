"""What one prediction got right and wrong: counts are kept, ratios derived.

Counts of several images add up, so that pooled scores are the same formulas over sums. The rules, exactly:

- Pixels where the truth is negative are ignored: they count on neither side.
- A true and a predicted nucleus match when their IoU exceeds one half.
- Where there is nothing to find and nothing was found every score is 1; where only one side has nuclei it is 0.
"""

from dataclasses import asdict, dataclass

import numpy as np

from histocli.instances.matching import LabelImage, best_prediction, matched_pairs, one_to_one, overlaps


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

    def __add__(self, other: "Counts") -> "Counts":
        """Pool two sets of images."""
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})

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
        """Dice coefficient of nuclear pixels, ``2 |T and P| / (|T| + |P|)``."""
        return _ratio(2 * self.shared_px, self.truth_px + self.prediction_px)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index of Kumar et al. 2017.

        Each true nucleus takes the prediction of highest IoU, which others may take too; predictions that nobody took and
        true nuclei that touch no prediction add their area to the union.
        """
        return _ratio(self.aji_intersection_px, self.aji_union_px)

    @property
    def aji_plus(self) -> float:
        """AJI with the one-to-one assignment of largest total IoU (Graham et al. 2019), so that no prediction serves twice."""
        return _ratio(self.aji_plus_intersection_px, self.aji_plus_union_px)

    @property
    def detection_quality(self) -> float:
        """DQ of Kirillov et al. 2019: F1 of nuclei that match with IoU > 0.5."""
        return _ratio(2 * self.true_positives, self.n_truth + self.n_prediction)

    @property
    def segmentation_quality(self) -> float:
        """SQ of Kirillov et al. 2019: mean IoU of the matched pairs; 0 where nuclei exist but none match."""
        if not self.n_truth and not self.n_prediction:
            return 1.0
        return self.matched_iou_sum / self.true_positives if self.true_positives else 0.0

    @property
    def panoptic_quality(self) -> float:
        """PQ of Kirillov et al. 2019: DQ times SQ."""
        return self.detection_quality * self.segmentation_quality

    def scores(self) -> dict[str, float]:
        """Return every metric by its short name: dice, aji, aji_plus, pq, dq, sq, f1 (the same number as dq)."""
        return {
            "dice": self.dice,
            "aji": self.aji,
            "aji_plus": self.aji_plus,
            "pq": self.panoptic_quality,
            "dq": self.detection_quality,
            "sq": self.segmentation_quality,
            "f1": self.detection_quality,
        }


def _ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; 1 where there is nothing to find and nothing was found."""
    return part / whole if whole else 1.0


def count(truth: LabelImage, prediction: LabelImage) -> Counts:
    """Compare a predicted label image with the truth.

    Parameters
    ----------
    truth : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored.
    prediction : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k.

    Returns
    -------
    Counts
        What dice, AJI, AJI+ and PQ derive from.

    Raises
    ------
    InvalidInput
        The shapes differ, or labels are no integers.
    """
    table = overlaps(truth, prediction)
    iou, union = table.iou, table.union
    matched = matched_pairs(table)
    truth_px, prediction_px = int(table.areas_truth.sum()), int(table.areas_prediction.sum())

    best = best_prediction(table)
    never_taken = np.ones(len(table.areas_prediction), bool)
    never_taken[table.columns[best]] = False
    missed = np.ones(len(table.areas_truth), bool)
    missed[table.rows[best]] = False
    aji_union = union[best].sum() + table.areas_prediction[never_taken].sum() + table.areas_truth[missed].sum()

    pairs = one_to_one(table)
    aji_plus_intersection = int(table.intersection[pairs].sum())
    return Counts(
        n_truth=len(table.areas_truth),
        n_prediction=len(table.areas_prediction),
        true_positives=len(matched),
        matched_iou_sum=float(iou[matched].sum()),
        truth_px=truth_px,
        prediction_px=prediction_px,
        shared_px=int(table.intersection.sum()),
        aji_intersection_px=int(table.intersection[best].sum()),
        aji_union_px=int(aji_union),
        aji_plus_intersection_px=aji_plus_intersection,
        aji_plus_union_px=truth_px + prediction_px - aji_plus_intersection,
    )
