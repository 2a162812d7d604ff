"""Priors of number, size and shape of nuclei."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES, shares
from histocli.instances.measurements import Measurements, local_direction

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class Morphology:
    """Priors of number, size and shape, measured from any label image."""

    n_nuclei: int
    density_per_mm2: float
    """Nuclei in a square millimetre of tissue."""
    nuclear_fraction: float
    """Share of the tissue that is nucleus."""
    area_um2: tuple[float, ...]
    """Quantiles (0.1, 0.25, 0.5, 0.75, 0.9) of the area, square micrometres."""
    typical_area_um2: tuple[float, float]
    """Median and area-weighted median of the areas of compact nuclei, square micrometres. Fragments
    pull the first down and fused nuclei the second up; the truth mostly lies between."""
    log_area_sd: float
    """Spread of the natural log of the area, from its inner quartiles."""
    elongation: tuple[float, ...]
    """Quantiles of major over minor axis."""
    direction_sharing: float
    """0: neighbours point anywhere; 1: they are parallel."""
    touching_share: float
    """Share of nuclei that touch another."""
    area_shares: tuple[float, ...] = ()
    """Histogram of the area over ``instances.histograms.AREA_EDGES_UM2``, as found: not corrected
    by a calibration."""
    elongation_shares: tuple[float, ...] = ()
    """Histogram of the elongation over ``ELONGATION_EDGES``."""


def quantiles(values: npt.NDArray[np.floating], fallback: float) -> tuple[float, ...]:
    """Return the ``QUANTILES`` of values, or the fallback for each where there are none."""
    return (
        tuple(float(q) for q in np.quantile(values, QUANTILES))
        if len(values)
        else (fallback,) * len(QUANTILES)
    )


def morphology_of(nuclei: Measurements, tissue: BoolMask, mpp: float) -> Morphology:
    """Summarise nuclei.

    Parameters
    ----------
    nuclei : Measurements
        Rough nuclei or a model's.
    tissue : ndarray of bool, shape (H, W)
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    Morphology
        With typical values for sizes and shapes, and zero counts, where there are no nuclei.
    """
    tissue_um2 = max(float(tissue.sum()) * mpp * mpp, 1.0)
    whole = ~nuclei.touches_border
    area = quantiles(nuclei.area_um2[whole], 40.0)
    ellipse_um2 = np.pi / 4 * nuclei.major_um * nuclei.minor_um
    # a fused pair or a crescent has less area than the ellipse with its moments
    compact = whole & (nuclei.area_um2 > 0.92 * ellipse_um2)
    return Morphology(
        n_nuclei=len(nuclei),
        density_per_mm2=len(nuclei) / tissue_um2 * 1e6,
        nuclear_fraction=float(min(nuclei.area_um2.sum() / tissue_um2, 1.0)),
        area_um2=area,
        typical_area_um2=_medians(nuclei.area_um2[compact if compact.any() else whole]),
        log_area_sd=float(np.log(area[3] / area[1]) / 1.349) if whole.any() else 0.35,
        elongation=quantiles(nuclei.elongation[whole], 1.4),
        direction_sharing=local_direction(nuclei),
        touching_share=float(nuclei.touches_other.mean()) if len(nuclei) else 0.0,
        area_shares=shares(nuclei.area_um2[whole], AREA_EDGES_UM2),
        elongation_shares=shares(nuclei.elongation[whole], ELONGATION_EDGES),
    )


def _medians(areas: npt.NDArray[np.float64]) -> tuple[float, float]:
    if not len(areas):
        return 40.0, 40.0
    ordered = np.sort(areas)
    heaviest = np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)
    return float(np.median(areas)), float(ordered[heaviest])
