"""Groups of nuclei: ribbons, glands and sheets of epithelium, and clusters of lymphocytes.

A crowd is such a group, planned as a whole because its nuclei take their shape from their
neighbours. Where two nuclei would overlap, both end at a line between them, with a gap: a power
diagram (Aurenhammer 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from histocli.instances.kinds import Kind
from histocli.synthesis.shapes import ANGLES, DIRECTIONS, RadialOutline, draw_outline

LARGEST_CROWD = 220  # limit of nuclei in one crowd
LEAST_LEFT = 0.4  # share of its area that a pressed outline must keep
LYMPHOCYTE_AREA_UM2 = 28.0  # typical area of a lymphocyte's nucleus


@dataclass(frozen=True)
class Member:
    """One nucleus of a crowd."""

    outline: RadialOutline
    y_px: float
    x_px: float
    kind: Kind


def plan_epithelium(
    shape: tuple[int, int],
    area_px: float,
    log_area_sd: float,
    elongation: float,
    kind: Kind,
    rng: np.random.Generator,
) -> list[Member]:
    """Plan a ribbon of one to four rows, a gland or a sheet, somewhere in a patch.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the patch, in pixels.
    area_px : float
        Median area, in pixels.
    log_area_sd : float
        Spread of the natural log of the area.
    elongation : float
        Median of major over minor axis; long axes stand across ribbons, as in columnar epithelium.
    kind : Kind
    rng : numpy.random.Generator

    Returns
    -------
    list of Member
        In random depth order; some may lie outside the patch.
    """
    diameter = 2 * np.sqrt(area_px / np.pi)
    spacing = diameter * float(rng.uniform(0.85, 1.15))
    form = rng.choice(3, p=(0.4, 0.35, 0.25))
    places = (
        _sheet(shape, spacing, rng)
        if form == 2
        else _along_curve(shape, spacing, elongation, closed=form == 1, rng=rng)
    )
    margin = 1.5 * spacing  # places further outside have no effect in the patch
    near = ((places[:, :2] > -margin) & (places[:, :2] < np.array(shape) + margin)).all(axis=1)
    places = places[near]
    if len(places) > LARGEST_CROWD:
        distance = np.hypot(*(places[:, :2] - places[rng.integers(len(places)), :2]).T)
        places = places[np.argsort(distance)[:LARGEST_CROWD]]
    members = []
    for y, x, across in places[rng.permutation(len(places))]:
        area = area_px * float(np.exp(rng.normal(0, log_area_sd)))
        stretch = 1 + (elongation - 1) * float(np.exp(rng.normal(0, 0.4)))
        angle = float(across + rng.normal(0, 0.25))
        outline = draw_outline(area, min(stretch, 3.5), angle, float(rng.uniform(0.01, 0.05)), rng)
        members.append(Member(outline, float(y), float(x), kind))
    return press(members, gap=float(rng.uniform(0.02, 0.2)))


def plan_lymphocytes(shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> list[Member]:
    """Plan a cluster of small, round, dark nuclei."""
    area_px = LYMPHOCYTE_AREA_UM2 * float(rng.uniform(0.8, 1.3)) / mpp**2
    spacing = 2 * np.sqrt(area_px / np.pi) * float(rng.uniform(0.95, 1.6))
    centre = rng.uniform(0, 1, 2) * shape
    radius = spacing * float(rng.uniform(1.5, 5))
    places = _hexagons(shape, spacing, rng)
    places = places[np.hypot(*(places - centre).T) < radius * rng.uniform(0.6, 1.2, len(places))]
    members = []
    for y, x in places[rng.permutation(len(places))][:LARGEST_CROWD]:
        angle = float(rng.uniform(-np.pi / 2, np.pi / 2))
        area = area_px * float(np.exp(rng.normal(0, 0.15)))
        elongation, irregularity = float(rng.uniform(1.02, 1.3)), float(rng.uniform(0.01, 0.04))
        outline = draw_outline(area, elongation, angle, irregularity, rng)
        members.append(Member(outline, float(y), float(x), Kind.LYMPHOCYTE))
    return press(members, gap=float(rng.uniform(0.0, 0.15)))


def press(members: Sequence[Member], gap: float) -> list[Member]:
    """Press nuclei that would overlap against each other, without changing their order.

    No outline crosses the line between its nucleus and a neighbour. ``gap`` is the free share of
    the distance between two centres. Nuclei keep at least ``LEAST_LEFT`` of their area or are left
    out.
    """
    if not members:
        return []
    radii = np.stack([member.outline.radii_px for member in members]).astype(np.float64)
    centres = np.array([(member.y_px, member.x_px) for member in members])
    reach = radii.max(axis=1)
    dy = centres[None, :, 0] - centres[:, None, 0]
    dx = centres[None, :, 1] - centres[:, None, 1]
    distance = np.hypot(dy, dx)
    first, second = np.nonzero((distance < reach[:, None] + reach[None]) & (distance > 1e-6))
    if not len(first):
        return list(members)
    towards = np.arctan2(dy[first, second], dx[first, second])
    index = np.rint(towards / (2 * np.pi) * DIRECTIONS).astype(int) % DIRECTIONS
    opposite = (index + DIRECTIONS // 2) % DIRECTIONS
    mine, theirs = radii[first, index], radii[second, opposite]
    apart = distance[first, second]
    # long nuclei may overlap beside the line between their centres without meeting on it
    meet = apart < (mine + theirs) * 1.05
    line = apart * mine / (mine + theirs) * np.where(meet, 1 - gap / 2, 1)
    cosine = np.cos(ANGLES[None] - towards[:, None])
    limit = np.where(cosine > 0.05, line[:, None] / np.maximum(cosine, 0.05), np.inf)
    limits = np.full(radii.shape, np.inf)
    np.minimum.at(limits, first, limit)
    pressed = np.minimum(radii, limits)
    rounded = np.mean([np.roll(pressed, shift, axis=1) for shift in range(-3, 4)], axis=0)
    pressed = np.minimum(pressed, rounded)
    whole = (pressed**2).sum(axis=1) >= LEAST_LEFT * (radii**2).sum(axis=1)
    return [
        replace(member, outline=replace(member.outline, radii_px=row.astype(np.float32)))
        for member, row, keep in zip(members, pressed, whole, strict=True)
        if keep
    ]


def _hexagons(
    shape: tuple[int, int], spacing: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return (n, 2) places on a jittered, turned hexagonal grid that covers a patch."""
    half = float(np.hypot(*shape)) / 2 + spacing
    jitter = float(rng.uniform(0.12, 0.3))
    rows = np.arange(-half, half, spacing * np.sqrt(3) / 2)
    columns = np.arange(-half, half, spacing)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    grid[1::2, :, 1] += spacing / 2
    places = grid.reshape(-1, 2) + rng.normal(
        0, jitter * spacing, (grid.shape[0] * grid.shape[1], 2)
    )
    turn = float(rng.uniform(0, np.pi))
    cos, sin = np.cos(turn), np.sin(turn)
    places = places @ np.array([[cos, -sin], [sin, cos]]) + np.array(shape) / 2
    near = (places > -spacing).all(axis=1) & (places < np.array(shape) + spacing).all(axis=1)
    return np.asarray(places[near], np.float64)


def _sheet(
    shape: tuple[int, int], spacing: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Place nuclei in a sheet with a wavy border; returns (n, 3): y, x and a random direction."""
    places = _hexagons(shape, spacing, rng)
    centre = rng.uniform(0, 1, 2) * shape
    radius = float(rng.uniform(0.2, 0.6)) * min(shape)
    bearing = np.arctan2(*(places - centre).T)
    wobble = (
        1
        + 0.25 * np.cos(2 * bearing + rng.uniform(0, 7))
        + 0.15 * np.cos(3 * bearing + rng.uniform(0, 7))
    )
    inside = np.hypot(*(places - centre).T) < radius * wobble
    angle = rng.uniform(-np.pi / 2, np.pi / 2, int(inside.sum()))
    return np.column_stack((places[inside], angle))


def _along_curve(
    shape: tuple[int, int],
    spacing: float,
    elongation: float,
    *,
    closed: bool,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Place nuclei in rows along a curve; returns (n, 3): y, x and the direction across it."""
    side = float(min(shape))
    rows = int(rng.integers(1, 3 if closed else 5))
    if closed:
        bearing = np.linspace(0, 2 * np.pi, 256, endpoint=False)
        radius = max(float(rng.uniform(0.12, 0.4)) * side, 2.2 * spacing)
        radii = radius * (
            1
            + 0.2 * np.cos(2 * bearing + rng.uniform(0, 7))
            + 0.1 * np.cos(3 * bearing + rng.uniform(0, 7))
        )
        centre = rng.uniform(0.1, 0.9, 2) * shape
        curve = np.stack(
            [centre[0] + radii * np.sin(bearing), centre[1] + radii * np.cos(bearing)], axis=1
        )
        curve = np.vstack([curve, curve[:1]])
    else:
        t = np.linspace(-0.7, 0.7, 256) * np.hypot(*shape)
        bend = float(rng.normal(0, 0.15)) * side
        wave = bend * np.cos(t / side * rng.uniform(2, 6) + rng.uniform(0, 7))
        turn = float(rng.uniform(0, np.pi))
        middle = rng.uniform(0.15, 0.85, 2) * shape
        cos, sin = np.cos(turn), np.sin(turn)
        curve = np.stack(
            [middle[0] + t * sin + wave * cos, middle[1] + t * cos - wave * sin], axis=1
        )
    step = np.hypot(*np.diff(curve, axis=0).T)
    along = np.concatenate([[0], np.cumsum(step)])
    narrow, wide = spacing / np.sqrt(elongation), spacing * np.sqrt(elongation)
    found = []
    for row in range(rows):
        at = np.arange(float(rng.uniform(0, narrow)), along[-1] - narrow / 2, narrow)
        at = at + rng.normal(0, 0.12 * narrow, len(at))
        y, x = np.interp(at, along, curve[:, 0]), np.interp(at, along, curve[:, 1])
        dy = np.interp(at + 2, along, curve[:, 0]) - y
        tangent = np.arctan2(dy, np.interp(at + 2, along, curve[:, 1]) - x)
        offset = (row - (rows - 1) / 2) * wide * 0.95 + rng.normal(0, 0.18 * wide, len(at))
        found.append(
            np.column_stack(
                (y + offset * np.cos(tangent), x - offset * np.sin(tangent), tangent + np.pi / 2)
            )
        )
    return np.concatenate(found)
