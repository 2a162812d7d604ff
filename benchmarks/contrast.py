"""Recall by contrast: a mean score hides that a method finds dark nuclei and misses pale ones."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.contrast import nuclear_contrast

Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""Contrast of each true nucleus, and whether it was found."""


def contrast_and_found(image: RGBImage, truth: LabelImage, prediction: LabelImage) -> Found:
    """Return for each true nucleus its contrast and whether a prediction has an IoU > 0.5."""
    table = overlaps(truth, prediction)
    found = np.zeros(len(table.truth.ids), bool)
    found[table.rows[matched_pairs(table)]] = True
    return nuclear_contrast(image, truth), found


def recall_by_contrast(parts: Iterable[Found]) -> tuple[float, float, float]:
    """Return the recall in the lowest, middle and highest third of contrast of all nuclei."""
    contrast, found = (np.concatenate(side) for side in zip(*parts, strict=True))
    thirds = np.array_split(np.argsort(contrast, kind="stable"), 3)
    low, middle, high = (float(found[third].mean()) if len(third) else 1.0 for third in thirds)
    return low, middle, high
