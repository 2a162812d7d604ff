"""Where nuclei lie: number, sizes, directions and neighbours as in the reference, later ones over
earlier ones.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.kinds import N_KINDS, Kind
from histocli.reference.chromatin import Mixture
from histocli.reference.morphology import Morphology
from histocli.synthesis.crowds import LYMPHOCYTE_AREA_UM2, Member, plan_epithelium, plan_lymphocytes
from histocli.synthesis.directions import DirectionField
from histocli.synthesis.recipe import FULL_RECIPE, Recipe
from histocli.synthesis.shapes import DIRECTIONS, Outline, draw_outline, turned
from histocli.synthesis.variation import AS_MEASURED, Variation

SKIRT_PX = 2  # beyond the largest radius that a nucleus's window reaches
TRIES = 6  # places tried for a nucleus before it is given up
MOST_OVERLAP = 0.12  # of the area of the newcomer
MOST_HIDDEN = 0.3  # of an earlier nucleus may lie under later ones
LEAST_TISSUE = 0.75  # of the pixels of a nucleus must lie on tissue
SITE_JITTER_UM = 0.8  # standard deviation of a place around the reference's nucleus
RESTORED_JITTER_UM = 0.1
# how far labels reach over the painted edge; with 0 to 0.2, outlines lay outside those of
# annotators
MARGIN_UM = (-0.2, 0.1)
AREA_RANGE_UM2 = (8.0, 420.0)
EVENNESS = 2.5  # of the mixture over patches: concentration of a Dirichlet distribution
FEWEST_FOR_CROWDS = 3  # a reference without nuclei gets none
VESICULAR_PATCHES = 0.4
ALONG_FIBRES = 1.8  # elongation from which nuclei follow the fibres
LEAST_COHERENCE = 0.2
EVEN_KIND: Mixture = tuple(float(kind is Kind.DENSE) for kind in Kind)
TURN = DIRECTIONS / (2 * np.pi)


@dataclass(frozen=True)
class Layout:
    """Nuclei of one patch, with coordinates inside each."""

    instance_labels: InstanceLabels
    """(H, W), ids 1..n in depth order."""
    depth_px: FloatArray
    """(H, W), distance to the painted edge along the radius, pixels; negative between the edge and
    the border of the label."""
    frame_u: FloatArray
    frame_v: FloatArray
    """(H, W), coordinates along the major and minor axis of the owner's ellipse; its border is at
    radius 1."""
    outlines: list[Outline]
    """Of the nuclei 1..n."""
    own_textures: list[int]
    """Of the nuclei 1..n that stand for a nucleus of the reference: its texture; -1 for the
    others."""
    kinds: list[Kind]
    """Of the nuclei 1..n."""


@dataclass(frozen=True)
class Arrangement:
    """What one patch aims at."""

    coverage: float
    """Share of the tissue to be covered by nuclei."""
    area_um2: float
    """Median area."""
    log_area_sd: float
    large_share: float
    """Share of nuclei of a second, larger kind."""
    large_factor: float
    """Area of the larger kind relative to the median."""
    elongation: float
    """Median elongation."""
    irregularity: float
    direction_rad: float
    """Common direction in the middle of the patch."""
    direction_turn: float
    """How much the direction turns over the patch, radians per side."""
    direction_sharing: float
    touching_share: float
    margin_um: float
    """How far the label reaches over the painted edge; negative where it stays inside."""
    in_place_share: float
    """Share of nuclei put where the reference had one: glands, rows and clusters come from
    there."""
    restored_share: float
    """Share of these that have its size, shape and texture too, so that some nuclei look exactly
    like real ones."""
    mixture: Mixture
    """Share of each kind of nucleus."""
    crowds: int
    """Ribbons, glands and sheets of epithelium."""
    clusters: int
    """Clusters of lymphocytes."""


@dataclass(frozen=True)
class Sites:
    """Where the reference had nuclei in this patch."""

    y_px: FloatArray
    x_px: FloatArray
    orientation_rad: FloatArray
    area_um2: FloatArray
    elongation: FloatArray
    texture: npt.NDArray[np.int64]
    """Which texture of the reference is this nucleus's own, where its outline is that of one
    nucleus; -1 elsewhere."""


def draw_arrangement(
    morphology: Morphology,
    mixture: Mixture,
    rng: np.random.Generator,
    recipe: Recipe = FULL_RECIPE,
    variation: Variation = AS_MEASURED,
) -> Arrangement:
    """Draw what a patch aims at, around what its reference shows.

    The rough map breaks pale nuclei into pieces, fuses others and misses some, so size, number and
    spread are drawn around what it shows, and patches of one reference differ.
    """
    median, weighted = morphology.typical_area_um2
    smallest, largest = np.clip([0.9 * median, 1.2 * weighted], 14, 150)
    typical = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    # sparse tissue has few crowds: more of them everywhere helped dense laboratories and hurt
    # sparse ones
    crowding = 0.15 + 1.5 * morphology.nuclear_fraction + 0.4 * morphology.touching_share
    inhabited = recipe.crowds and morphology.n_nuclei >= FEWEST_FOR_CROWDS
    crowded = inhabited and rng.random() < np.clip(crowding, 0.2, 0.85)
    infiltrated = inhabited and rng.random() < np.clip(1.5 * mixture[Kind.LYMPHOCYTE], 0.04, 0.35)
    return Arrangement(
        coverage=float(
            np.clip(
                variation.coverage * morphology.nuclear_fraction * rng.uniform(0.6, 1.6), 0.02, 0.6
            )
        ),
        area_um2=float(variation.area * typical),
        log_area_sd=float(rng.uniform(0.15, np.clip(morphology.log_area_sd, 0.3, 0.6))),
        large_share=float(rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0),
        large_factor=float(rng.uniform(1.5, 3.0)),
        elongation=float(
            np.clip(rng.normal(np.clip(morphology.elongation[2], 1.1, 2.0) - 0.1, 0.2), 1.05, 2.4)
        ),
        irregularity=float(rng.uniform(0.01, 0.11 if recipe.grain else 0.07)),
        direction_rad=float(rng.uniform(-np.pi, np.pi)),
        direction_turn=float(rng.normal(0, 0.6)),
        direction_sharing=float(
            np.clip(morphology.direction_sharing + rng.normal(0, 0.25), 0, 0.98)
        ),
        touching_share=float(np.clip(morphology.touching_share + rng.uniform(0, 0.4), 0, 0.8)),
        margin_um=float(rng.uniform(*MARGIN_UM)),
        in_place_share=float(rng.uniform(0.2, 0.9)),
        restored_share=float(rng.uniform(0, 1)),
        mixture=_vary(mixture, rng) if recipe.chromatin else EVEN_KIND,
        crowds=int(crowded) * int(rng.integers(1, 4)),
        clusters=int(infiltrated),
    )


def _vary(mixture: Mixture, rng: np.random.Generator) -> Mixture:
    """Draw the mixture of one patch widely around the reference's: one gland or one nodule is
    mostly of one kind.
    """
    shares = rng.gamma(np.maximum(np.asarray(mixture) * EVENNESS, 1e-3))
    shares /= max(float(shares.sum()), 1e-9)
    if rng.random() < VESICULAR_PATCHES:
        # the rough map hardly sees these, so every reference gets some patches that are full of
        # them
        vesicular = float(rng.uniform(0, 0.8))
        shares *= 1 - vesicular
        shares[Kind.VESICULAR] += vesicular
    return tuple(shares.tolist())


def place_nuclei(
    arrangement: Arrangement,
    tissue: BoolMask,
    sites: Sites,
    mpp: float,
    rng: np.random.Generator,
    fibres: DirectionField | None = None,
) -> Layout:
    """Place nuclei on tissue until the aimed coverage is reached.

    Parameters
    ----------
    arrangement : Arrangement
    tissue : ndarray of bool, shape (H, W)
    sites : Sites
        Where the reference had nuclei.
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator
    fibres : DirectionField, optional
        Elongated nuclei follow it.

    Returns
    -------
    Layout
        A nucleus may be cut by the border of the patch. Nothing lies outside tissue.
    """
    canvas = _Canvas(tissue, max(arrangement.margin_um, 0) / mpp)
    target_px = arrangement.coverage * float(tissue.sum())
    ys, xs = np.nonzero(tissue[::4, ::4])
    if len(ys) == 0:
        return canvas.finish()
    places = _Places(ys * 4, xs * 4, sites, list(rng.permutation(len(sites.y_px))), fibres)
    for member in _plan_crowds(arrangement, tissue.shape, mpp, rng):
        canvas.add(member.outline, member.y_px, member.x_px, kind=member.kind)
    failures = 0
    while canvas.covered_px < target_px and failures < 12 and len(canvas.outlines) < 4000:
        failures = 0 if _place_one(canvas, arrangement, places, mpp, rng) else failures + 1
    return canvas.finish()


@dataclass(frozen=True)
class _Places:
    """Where a nucleus may go."""

    tissue_y: npt.NDArray[np.int64]
    tissue_x: npt.NDArray[np.int64]
    sites: Sites
    waiting: list[int]
    """Sites that no nucleus was put on yet."""
    fibres: DirectionField | None


def _plan_crowds(
    arrangement: Arrangement, shape: tuple[int, ...], mpp: float, rng: np.random.Generator
) -> list[Member]:
    size = (shape[0], shape[1])
    members: list[Member] = []
    for _ in range(arrangement.crowds):
        vesicular = max(0.3, arrangement.mixture[Kind.VESICULAR]) > rng.random()
        area = arrangement.area_um2 * float(rng.uniform(0.9, 1.8 if vesicular else 1.3))
        kind = Kind.VESICULAR if vesicular else Kind.DENSE
        area_px = float(np.clip(area, *AREA_RANGE_UM2)) / mpp**2
        members += plan_epithelium(
            size,
            area_px,
            min(arrangement.log_area_sd, 0.35),
            float(rng.uniform(1.1, 2.2)),
            kind,
            rng,
        )
    for _ in range(arrangement.clusters):
        members += plan_lymphocytes(size, mpp, rng)
    return members


def _draw_nucleus(
    arrangement: Arrangement, kind: Kind, direction_rad: float, mpp: float, rng: np.random.Generator
) -> Outline:
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
            area, elongation = (
                LYMPHOCYTE_AREA_UM2 * np.exp(rng.normal(0, 0.2)),
                rng.uniform(1.0, 1.3),
            )
        case Kind.APOPTOTIC:
            area, elongation, irregularity = rng.uniform(8, 18), rng.uniform(1.0, 1.3), 0.02
        case Kind.MITOTIC:
            area, elongation, irregularity = (
                area * rng.uniform(0.6, 1.1),
                rng.uniform(1.1, 3.0),
                rng.uniform(0.1, 0.2),
            )
    return draw_outline(
        float(np.clip(area, *AREA_RANGE_UM2)) / mpp**2,
        float(np.clip(elongation, 1, 5)),
        direction_rad,
        float(irregularity),
        rng,
    )


def _draw_kind(arrangement: Arrangement, rng: np.random.Generator) -> Kind:
    return Kind(
        min(
            int(np.searchsorted(np.cumsum(arrangement.mixture), rng.random(), side="right")),
            N_KINDS - 1,
        )
    )


def _place_one(
    canvas: "_Canvas",
    arrangement: Arrangement,
    places: _Places,
    mpp: float,
    rng: np.random.Generator,
) -> bool:
    height = canvas.shape[0]
    if places.waiting and rng.random() < arrangement.in_place_share:
        site = places.waiting.pop()
        return _place_on_site(canvas, arrangement, places.sites, site, mpp, rng)
    shared = arrangement.direction_rad + arrangement.direction_turn * float(rng.uniform(-0.5, 0.5))
    free = float(rng.uniform(-np.pi / 2, np.pi / 2)) * (1 - arrangement.direction_sharing)
    kind = _draw_kind(arrangement, rng)
    outline = _draw_nucleus(arrangement, kind, shared + free, mpp, rng)
    for _ in range(TRIES):
        if canvas.outlines and rng.random() < arrangement.touching_share:
            earlier = int(rng.integers(len(canvas.outlines)))
            angle = float(rng.uniform(0, 2 * np.pi))
            reach = canvas.outlines[earlier].radius_towards(angle) + outline.radius_towards(
                angle + np.pi
            )
            reach *= float(rng.uniform(0.9, 1.08))
            y = canvas.centres[earlier][0] + np.sin(angle) * reach
            x = canvas.centres[earlier][1] + np.cos(angle) * reach
        else:
            chosen = int(rng.integers(len(places.tissue_y)))
            y = float(places.tissue_y[chosen] + rng.uniform(-2, 6))
            x = float(places.tissue_x[chosen] + rng.uniform(-2, 6))
            # some are cut by the border
            y += float(np.sign(y - height / 2) * outline.reach_px * 0.5 * (rng.random() < 0.1))
        placed = outline
        if places.fibres is not None and (
            kind is Kind.SPINDLE or outline.major_px > ALONG_FIBRES * outline.minor_px
        ):
            angle, coherence = places.fibres.at(y, x)
            if coherence > LEAST_COHERENCE:
                placed = turned(outline, angle + float(rng.normal(0, 0.2)))
        if canvas.add(placed, y, x, kind=kind):
            return True
    return False


def _place_on_site(
    canvas: "_Canvas",
    arrangement: Arrangement,
    sites: Sites,
    site: int,
    mpp: float,
    rng: np.random.Generator,
) -> bool:
    texture = int(sites.texture[site])
    restored = texture >= 0 and rng.random() < arrangement.restored_share
    kind = Kind.DENSE
    if restored:
        direction, spread = float(sites.orientation_rad[site]), RESTORED_JITTER_UM
        area_px = float(sites.area_um2[site] * rng.uniform(0.95, 1.1)) / mpp**2
        outline = draw_outline(area_px, float(sites.elongation[site]), direction, 0.02, rng)
    else:
        direction, spread = float(sites.orientation_rad[site] + rng.normal(0, 0.25)), SITE_JITTER_UM
        kind = _draw_kind(arrangement, rng)
        outline = _draw_nucleus(arrangement, kind, direction, mpp, rng)
    jitter = rng.normal(0, spread / mpp, size=2)
    y, x = float(sites.y_px[site] + jitter[0]), float(sites.x_px[site] + jitter[1])
    return canvas.add(outline, y, x, texture if restored else -1, kind)


class _Canvas:
    """The patch while nuclei are added."""

    def __init__(self, tissue: BoolMask, margin_px: float) -> None:
        self.shape = tissue.shape
        self.margin_px = margin_px
        self.tissue = tissue
        self.labels = np.zeros(tissue.shape, np.int32)
        self.depth = np.zeros(tissue.shape, np.float32)
        self.u = np.zeros(tissue.shape, np.float32)
        self.v = np.zeros(tissue.shape, np.float32)
        self.outlines: list[Outline] = []
        self.centres: list[tuple[float, float]] = []
        self.own_textures: list[int] = []
        self.kinds: list[Kind] = []
        self.areas: list[int] = []
        self.full_areas: list[int] = []
        self.covered_px = 0.0

    def add(
        self, outline: Outline, y: float, x: float, own_texture: int = -1, kind: Kind = Kind.DENSE
    ) -> bool:
        """Draw a nucleus at a place, unless it would hide others or lie on glass."""
        reach = outline.reach_px + SKIRT_PX
        top, bottom = max(0, int(y - reach)), min(self.shape[0], int(y + reach) + 2)
        left, right = max(0, int(x - reach)), min(self.shape[1], int(x + reach) + 2)
        if top >= bottom or left >= right:
            return False
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        dx = np.arange(left, right, dtype=np.float32)[None] - np.float32(x)
        span = (bottom - top, right - left)
        radius, angle = cv2.cartToPolar(
            np.ascontiguousarray(np.broadcast_to(dx, span)),
            np.ascontiguousarray(np.broadcast_to(dy, span)),
        )
        direction = angle * np.float32(TURN)
        below = direction.astype(np.int32)
        share = direction - below
        # a full turn ends where it begins
        around = np.concatenate([outline.radii_px, outline.radii_px[:2]])
        border = around[below]
        border += (around[below + 1] - border) * share
        depth = border - radius
        inside = depth > 0
        depth -= self.margin_px
        area = int(inside.sum())
        if area < 4:
            return False
        box = (slice(top, bottom), slice(left, right))
        others = self.labels[box]
        hidden = others[inside]
        hidden = hidden[hidden > 0]
        overlap = len(hidden)
        if (
            overlap > MOST_OVERLAP * area
            or int(self.tissue[box][inside].sum()) < LEAST_TISSUE * area
        ):
            return False
        losses = np.unique(hidden, return_counts=True)
        if any(
            self.areas[k - 1] - loss < (1 - MOST_HIDDEN) * self.full_areas[k - 1]
            for k, loss in zip(*losses, strict=True)
        ):
            return False
        for k, loss in zip(*losses, strict=True):
            self.areas[k - 1] -= int(loss)
        self.areas.append(area)
        self.full_areas.append(area)
        number = len(self.outlines) + 1
        cos, sin = np.cos(outline.orientation_rad), np.sin(outline.orientation_rad)
        others[inside] = number
        self.depth[box][inside] = depth[inside]
        self.u[box][inside] = ((dx * cos + dy * sin) / outline.major_px)[inside]
        self.v[box][inside] = ((dy * cos - dx * sin) / outline.minor_px)[inside]
        self.outlines.append(outline)
        self.own_textures.append(own_texture)
        self.kinds.append(kind)
        self.centres.append((y, x))
        self.covered_px += area - overlap
        return True

    def finish(self) -> Layout:
        """Return the layout; splinters that a later nucleus cut off an earlier one are ignored:
        whose are they?
        """
        for k, (now, full) in enumerate(zip(self.areas, self.full_areas, strict=True), start=1):
            if now < full:
                self._drop_splinters(k)
        return Layout(
            self.labels, self.depth, self.u, self.v, self.outlines, self.own_textures, self.kinds
        )

    def _drop_splinters(self, number: int) -> None:
        y, x = self.centres[number - 1]
        reach = self.outlines[number - 1].reach_px + SKIRT_PX
        box = (
            slice(max(0, int(y - reach)), int(y + reach) + 2),
            slice(max(0, int(x - reach)), int(x + reach) + 2),
        )
        mine = self.labels[box] == number
        count, pieces, statistics, _ = cv2.connectedComponentsWithStats(
            mine.astype(np.uint8), connectivity=4
        )
        if count > 2:
            largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
            self.labels[box][mine & (pieces != largest)] = -1
