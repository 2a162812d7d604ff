"""Errors of a nucleus detector on synthetic patches, and priors corrected for these errors.

The detector is the rough nucleus map or a model; the truth is the labels of the patches. Priors are
the measured number, size and shape of nuclei that the synthesis starts from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from histocli.base.types import InstanceLabels
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import overlaps
from histocli.reference.morphology import Morphology

TRUSTED = (0.5, 1.5)
"""Factors are clipped to this range: beyond it, model and references do not fit."""
FEWEST_MATCHES = 30  # matched nuclei


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Errors of a detector of nuclei."""

    area_factor: float = 1.0  # predicted over true area, median over matched nuclei
    recall: float = 1.0  # predicted over true number of nuclei

    def correct(self, morphology: Morphology) -> Morphology:
        """Return priors with the errors divided out; histograms and spreads stay as measured."""
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
    """Predicted nuclei compared with the nuclei drawn in a synthetic patch."""

    ratios: list[float]  # predicted over true area of each matched pair (IoU > 0.5)
    found: int  # predicted nuclei with more than half of their area outside ignored pixels
    drawn: int  # true nuclei


def compare_areas(truth: InstanceLabels, prediction: InstanceLabels) -> AreaComparison:
    """Compare predicted labels (H, W) with the labels (H, W) of a synthetic patch.

    Both are int32, 0 for background and 1..n for nuclei; -1 in ``truth`` is ignored.
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
    """Return the errors from the pooled comparisons of several patches.

    Fewer than ``FEWEST_MATCHES`` ratios give ``UNCALIBRATED``.
    """
    if len(ratios) < FEWEST_MATCHES or drawn == 0:
        return UNCALIBRATED
    return Calibration(
        area_factor=float(np.clip(np.median(ratios), *TRUSTED)),
        recall=float(np.clip(found / drawn, *TRUSTED)),
    )
