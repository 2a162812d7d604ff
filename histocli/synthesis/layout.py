"""Placement of nuclei in a patch, with number, size, direction and neighbours as in the reference.

The reference is the real image that the patch imitates. A site is the place of one of its nuclei.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray
from histocli.instances.kinds import N_KINDS, Kind
from histocli.synthesis.arrangement import Arrangement
from histocli.synthesis.crowds import LYMPHOCYTE_AREA_UM2, Member, plan_epithelium, plan_lymphocytes
from histocli.synthesis.directions import DirectionField
from histocli.synthesis.placement import Layout, Placement
from histocli.synthesis.shapes import RadialOutline, draw_outline, turned

AREA_RANGE_UM2 = (8.0, 420.0)  # smallest and largest area of a nucleus


@dataclass(frozen=True)
class Sites:
    """Nuclei of the reference in the part of it that the patch shows."""

    y_px: FloatArray
    x_px: FloatArray
    orientation_rad: FloatArray
    area_um2: FloatArray
    elongation: FloatArray
    texture: npt.NDArray[np.int64]  # index of the nucleus's own texture; -1 if not single


def place_nuclei(
    arrangement: Arrangement,
    tissue: BoolMask,
    sites: Sites,
    mpp: float,
    rng: np.random.Generator,
    fibres: DirectionField | None = None,
) -> Layout:
    """Place nuclei on tissue until the targeted coverage is reached.

    Parameters
    ----------
    arrangement : Arrangement
    tissue : ndarray of bool, shape (H, W)
    sites : Sites
        Nuclei of the reference.
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator
    fibres : DirectionField, optional
        Long nuclei follow it.

    Returns
    -------
    Layout
        The border may cut nuclei.
    """
    placement = Placement(tissue, max(arrangement.margin_um, 0) / mpp)
    target_px = arrangement.coverage * float(tissue.sum())
    ys, xs = np.nonzero(tissue[::4, ::4])
    if len(ys) == 0:
        return placement.finish()
    places = _Places(ys * 4, xs * 4, sites, list(rng.permutation(len(sites.y_px))), fibres)
    for member in _plan_crowds(arrangement, tissue.shape, mpp, rng):
        placement.add(member.outline, member.y_px, member.x_px, kind=member.kind)
    failures = 0
    while placement.covered_px < target_px and failures < 12 and len(placement.outlines) < 4000:
        failures = 0 if _place_one(placement, arrangement, places, mpp, rng) else failures + 1
    return placement.finish()


@dataclass(frozen=True)
class _Places:
    """Places that are left for nuclei."""

    tissue_y: npt.NDArray[np.int64]
    tissue_x: npt.NDArray[np.int64]
    sites: Sites
    waiting: list[int]  # sites still without a nucleus
    fibres: DirectionField | None


def _plan_crowds(
    arrangement: Arrangement, shape: tuple[int, ...], mpp: float, rng: np.random.Generator
) -> list[Member]:
    """Plan the epithelium and the clusters of lymphocytes of a patch."""
    size = (shape[0], shape[1])
    members: list[Member] = []
    for _ in range(arrangement.crowds):
        vesicular = max(0.3, arrangement.mixture[Kind.VESICULAR]) > rng.random()
        area = arrangement.area_um2 * float(rng.uniform(0.9, 1.8 if vesicular else 1.3))
        kind = Kind.VESICULAR if vesicular else Kind.DENSE
        area_px = float(np.clip(area, *AREA_RANGE_UM2)) / mpp**2
        log_area_sd, elongation = min(arrangement.log_area_sd, 0.35), float(rng.uniform(1.1, 2.2))
        members += plan_epithelium(size, area_px, log_area_sd, elongation, kind, rng)
    for _ in range(arrangement.clusters):
        members += plan_lymphocytes(size, mpp, rng)
    return members


def _draw_nucleus(
    arrangement: Arrangement, kind: Kind, direction_rad: float, mpp: float, rng: np.random.Generator
) -> RadialOutline:
    """Draw the outline of a nucleus of a kind."""
    area = arrangement.area_um2 * np.exp(rng.normal(0, arrangement.log_area_sd))
    if rng.random() < arrangement.large_share:
        area *= arrangement.large_factor
    elongation = 1 + (arrangement.elongation - 1) * np.exp(rng.normal(0, 0.5))
    irregularity = arrangement.irregularity * float(rng.uniform(0.5, 1.5))
    match kind:
        case Kind.VESICULAR:
            area, elongation = area * rng.uniform(1.0, 1.7), min(elongation, 2.0)
        case Kind.SPINDLE:
            area, elongation = area * rng.uniform(0.6, 1.0), rng.uniform(2.2, 5.0)
        case Kind.LYMPHOCYTE:
            area = LYMPHOCYTE_AREA_UM2 * np.exp(rng.normal(0, 0.2))
            elongation = rng.uniform(1.0, 1.3)
        case Kind.APOPTOTIC:
            area, elongation, irregularity = rng.uniform(8, 18), rng.uniform(1.0, 1.3), 0.02
        case Kind.MITOTIC:
            area, elongation = area * rng.uniform(0.6, 1.1), rng.uniform(1.1, 3.0)
            irregularity = rng.uniform(0.1, 0.2)
    area_px = float(np.clip(area, *AREA_RANGE_UM2)) / mpp**2
    elongation = float(np.clip(elongation, 1, 5))
    return draw_outline(area_px, elongation, direction_rad, float(irregularity), rng)


def _draw_kind(arrangement: Arrangement, rng: np.random.Generator) -> Kind:
    """Draw a kind from the mixture."""
    drawn = np.searchsorted(np.cumsum(arrangement.mixture), rng.random(), side="right")
    return Kind(min(int(drawn), N_KINDS - 1))


def _place_one(
    placement: Placement,
    arrangement: Arrangement,
    places: _Places,
    mpp: float,
    rng: np.random.Generator,
) -> bool:
    """Try to place one nucleus: on a site, beside an earlier nucleus, or anywhere on tissue."""
    height = placement.shape[0]
    if places.waiting and rng.random() < arrangement.in_place_share:
        site = places.waiting.pop()
        return _place_on_site(placement, arrangement, places.sites, site, mpp, rng)
    shared = arrangement.direction_rad + arrangement.direction_turn * float(rng.uniform(-0.5, 0.5))
    free = float(rng.uniform(-np.pi / 2, np.pi / 2)) * (1 - arrangement.direction_sharing)
    kind = _draw_kind(arrangement, rng)
    outline = _draw_nucleus(arrangement, kind, shared + free, mpp, rng)
    for _ in range(6):
        if placement.outlines and rng.random() < arrangement.touching_share:
            earlier = int(rng.integers(len(placement.outlines)))
            angle = float(rng.uniform(0, 2 * np.pi))
            reach = placement.outlines[earlier].radius_towards(angle)
            reach += outline.radius_towards(angle + np.pi)
            reach *= float(rng.uniform(0.9, 1.08))
            y = placement.centres[earlier][0] + np.sin(angle) * reach
            x = placement.centres[earlier][1] + np.cos(angle) * reach
        else:
            chosen = int(rng.integers(len(places.tissue_y)))
            y = float(places.tissue_y[chosen] + rng.uniform(-2, 6))
            x = float(places.tissue_x[chosen] + rng.uniform(-2, 6))
            # a tenth is moved outwards, so that the border cuts some
            y += float(np.sign(y - height / 2) * outline.reach_px * 0.5 * (rng.random() < 0.1))
        placed = outline
        if places.fibres is not None and (
            kind is Kind.SPINDLE or outline.major_px > 1.8 * outline.minor_px
        ):
            angle, coherence = places.fibres.at(y, x)
            if coherence > 0.2:
                placed = turned(outline, angle + float(rng.normal(0, 0.2)))
        if placement.add(placed, y, x, kind=kind):
            return True
    return False


def _place_on_site(
    placement: Placement,
    arrangement: Arrangement,
    sites: Sites,
    site: int,
    mpp: float,
    rng: np.random.Generator,
) -> bool:
    """Try to place a nucleus on a site, restored with its own texture and shape or not."""
    texture = int(sites.texture[site])
    restored = texture >= 0 and rng.random() < arrangement.restored_share
    kind = Kind.DENSE
    if restored:
        direction, spread_um = float(sites.orientation_rad[site]), 0.1
        area_px = float(sites.area_um2[site] * rng.uniform(0.95, 1.1)) / mpp**2
        outline = draw_outline(area_px, float(sites.elongation[site]), direction, 0.02, rng)
    else:
        direction, spread_um = float(sites.orientation_rad[site] + rng.normal(0, 0.25)), 0.8
        kind = _draw_kind(arrangement, rng)
        outline = _draw_nucleus(arrangement, kind, direction, mpp, rng)
    jitter = rng.normal(0, spread_um / mpp, size=2)
    y, x = float(sites.y_px[site] + jitter[0]), float(sites.x_px[site] + jitter[1])
    return placement.add(outline, y, x, texture if restored else -1, kind)
