"""Priors of number, size and shape of nuclei."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Morphology:
    """Priors of number, size and shape, measured from any label image: the rough one or a
    model's.
    """

    n_nuclei: int
    density_per_mm2: float
    """Nuclei in a square millimetre of tissue."""
    nuclear_fraction: float
    """Share of the tissue that is nucleus."""
    area_um2: tuple[float, ...]
    """Quantiles (0.1, 0.25, 0.5, 0.75, 0.9) of the area, square micrometres."""
    typical_area_um2: tuple[float, float]
    """Median and area-weighted median of the areas of compact nuclei, square micrometres. Fragments
    pull the first down, fused nuclei the second up; the truth mostly lies between."""
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
