"""How a source of nuclei errs, measured where the truth is known, and priors corrected by it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from histocli.base.types import InstanceLabels
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import overlaps
from histocli.reference.morphology import Morphology

TRUSTED = (0.5, 1.5)
"""Corrections beyond these say that model and references do not belong together."""
FEWEST_MATCHES = 30
"""Fewer matched nuclei than this calibrate nothing."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a source of nuclei errs."""

    area_factor: float = 1.0
    """Predicted over true area, median over matched nuclei."""
    recall: float = 1.0
    """Predicted over true number of nuclei."""

    def correct(self, morphology: Morphology) -> Morphology:
        """Return priors as they would be without the error."""
        area, number = 1 / self.area_factor, 1 / self.recall
        median, weighted = morphology.typical_area_um2
        return replace(
            morphology,
            n_nuclei=round(morphology.n_nuclei * number),
            density_per_mm2=morphology.density_per_mm2 * number,
            nuclear_fraction=min(morphology.nuclear_fraction * area * number, 1.0),
            area_um2=tuple(value * area for value in morphology.area_um2),
            typical_area_um2=(median * area, weighted * area),
        )


UNCALIBRATED = Calibration()


class AreaComparison(NamedTuple):
    """Nuclei of a prediction beside those that were drawn."""

    ratios: list[float]
    """Predicted over true area of each pair with IoU > 0.5."""
    found: int
    """Predicted nuclei that do not lie mostly on ignored pixels."""
    drawn: int
    """True nuclei."""


def compare_areas(truth: InstanceLabels, prediction: InstanceLabels) -> AreaComparison:
    """Compare a prediction with the labels of a synthetic patch.

    Parameters
    ----------
    truth : ndarray of int32, shape (H, W)
        0 = background, 1..n, -1 ignored.
    prediction : ndarray of int32, shape (H, W)
    """
    known = truth >= 0
    total = np.bincount(prediction.ravel())
    on_known = np.bincount(prediction[known], minlength=len(total))
    counted = (on_known > 0.5 * total) & (total > 0)
    counted[0] = False
    table = overlaps(np.where(known, truth, 0), np.where(known, prediction, 0))
    pairs = matched_pairs(table)
    ratios = table.prediction.areas[table.columns[pairs]] / table.truth.areas[table.rows[pairs]]
    return AreaComparison(
        [float(ratio) for ratio in ratios], int(counted.sum()), len(table.truth.ids)
    )


def calibration_of(ratios: Sequence[float], found: int, drawn: int) -> Calibration:
    """Sum up comparisons; too few matches calibrate nothing."""
    if len(ratios) < FEWEST_MATCHES or drawn == 0:
        return UNCALIBRATED
    return Calibration(
        area_factor=float(np.clip(np.median(ratios), *TRUSTED)),
        recall=float(np.clip(found / drawn, *TRUSTED)),
    )
