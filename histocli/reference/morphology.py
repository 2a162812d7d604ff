"""Priors of the synthesis: number, size and shape of the nuclei in a reference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES, shares
from histocli.instances.measurements import Measurements, local_direction

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class Morphology:
    """Number, size and shape of nuclei, measured from any label image."""

    n_nuclei: int
    density_per_mm2: float  # nuclei per square millimetre of tissue
    nuclear_fraction: float  # share of the tissue that nuclei cover
    area_um2: tuple[float, ...]  # ``QUANTILES``
    typical_area_um2: tuple[float, float]
    """Median and area-weighted median of compact nuclei: fragments pull the first down, fused
    nuclei the second up; the truth mostly lies between."""
    log_area_sd: float  # spread of the natural log of the area, from its quartiles
    elongation: tuple[float, ...]  # ``QUANTILES`` of major over minor axis
    direction_sharing: float  # 0: neighbours point anywhere; 1: neighbours are parallel
    touching_share: float  # share of nuclei that touch another nucleus
    area_shares: tuple[float, ...] = ()
    """Histogram over ``instances.histograms.AREA_EDGES_UM2``, never calibrated."""
    elongation_shares: tuple[float, ...] = ()  # histogram over ``ELONGATION_EDGES``


def quantiles(values: npt.NDArray[np.floating], fallback: float) -> tuple[float, ...]:
    """Return the ``QUANTILES`` of values; without values, the fallback for each."""
    if not len(values):
        return (fallback,) * len(QUANTILES)
    return tuple(float(q) for q in np.quantile(values, QUANTILES))


def morphology_of(nuclei: Measurements, tissue: BoolMask, mpp: float) -> Morphology:
    """Summarise nuclei in ``tissue``, a bool mask (H, W), at ``mpp`` micrometres per pixel.

    Without nuclei, counts are 0, and sizes and shapes have typical values.
    """
    tissue_um2 = max(float(tissue.sum()) * mpp * mpp, 1.0)
    whole = ~nuclei.touches_border
    area = quantiles(nuclei.area_um2[whole], 40.0)
    ellipse_um2 = np.pi / 4 * nuclei.major_um * nuclei.minor_um
    # fused pairs and crescents have less area than the ellipse of equal moments
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
    """Return the median and the area-weighted median of areas."""
    if not len(areas):
        return 40.0, 40.0
    ordered = np.sort(areas)
    heaviest = np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)
    return float(np.median(areas)), float(ordered[heaviest])
