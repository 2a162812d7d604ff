"""Outlines of single nuclei: ellipses made irregular by smooth radial harmonics."""

from dataclasses import dataclass, replace

import numpy as np

from histocli.base.types import FloatArray

DIRECTIONS = 64  # radii per outline; 15 um from the centre they are 1.5 um apart
HARMONICS = np.arange(2, 7)
"""Waves per turn: 1 would shift the nucleus, more than 6 would make jags."""
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
_WAVES = np.exp(1j * np.outer(HARMONICS, ANGLES))


@dataclass(frozen=True)
class RadialOutline:
    """Outline of one nucleus around the origin."""

    radii_px: FloatArray  # (DIRECTIONS,), centre to border, from the x axis towards y
    major_px: float  # longer half axis of the underlying ellipse
    minor_px: float  # shorter half axis
    orientation_rad: float  # direction of the major axis

    @property
    def reach_px(self) -> float:
        """Largest radius."""
        return float(self.radii_px.max())

    def radius_towards(self, angle: float) -> float:
        """Return the distance of the border in one direction, in pixels."""
        return float(self.radii_px[round(angle / (2 * np.pi) * DIRECTIONS) % DIRECTIONS])


def draw_outline(
    area_px: float,
    elongation: float,
    orientation_rad: float,
    irregularity: float,
    rng: np.random.Generator,
) -> RadialOutline:
    """Draw a smooth closed outline.

    Parameters
    ----------
    area_px : float
        Area, in pixels.
    elongation : float
        Major over minor axis, at least 1.
    orientation_rad : float
        Direction of the major axis, in radians from the x axis towards y.
    irregularity : float
        Relative standard deviation of the radius: 0 gives an ellipse, 0.1 a lobed outline.
    rng : numpy.random.Generator
    """
    major = np.sqrt(area_px * elongation / np.pi)
    minor = major / elongation
    turned = ANGLES - orientation_rad
    ellipse = major * minor / np.hypot(minor * np.cos(turned), major * np.sin(turned))
    amplitude = rng.normal(size=len(HARMONICS)) + 1j * rng.normal(size=len(HARMONICS))
    wobble = ((amplitude / HARMONICS**1.5) @ _WAVES).real
    wobble *= irregularity / 0.48  # 0.48 is the standard deviation of the sum above
    radii = ellipse * np.clip(1 + wobble, 0.6, 1.5)
    radii *= np.sqrt(area_px / max(0.5 * np.sum(radii**2) * (2 * np.pi / DIRECTIONS), 1e-6))
    return RadialOutline(
        radii.astype(np.float32), float(major), float(minor), float(orientation_rad)
    )


def turned(outline: RadialOutline, orientation_rad: float) -> RadialOutline:
    """Return an outline turned to another direction, in steps of a full turn / ``DIRECTIONS``."""
    steps = round((orientation_rad - outline.orientation_rad) / (2 * np.pi) * DIRECTIONS)
    angle = outline.orientation_rad + steps * 2 * np.pi / DIRECTIONS
    return replace(outline, radii_px=np.roll(outline.radii_px, steps), orientation_rad=angle)
