"""Outlines of single nuclei: ellipses made irregular by smooth radial harmonics."""

from dataclasses import dataclass, replace

import numpy as np

from histocli.base.types import FloatArray

DIRECTIONS = 64
"""Radii per outline; 15 um from the centre they stand 1.5 um apart."""
HARMONICS = np.arange(2, 7)
"""Waves per turn: 1 would shift the nucleus, and higher ones are jags, which nuclei do not have."""
ANGLES = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
_WAVES = np.exp(1j * np.outer(HARMONICS, ANGLES))


@dataclass(frozen=True)
class RadialOutline:
    """One nucleus around the origin."""

    radii_px: FloatArray
    """(DIRECTIONS,), distance of the border from the centre, counted from the x axis towards y."""
    major_px: float
    """Longer half axis of the ellipse that was made irregular."""
    minor_px: float
    """Its shorter half axis."""
    orientation_rad: float
    """Direction of the major axis."""

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
        Major over minor axis, >= 1.
    orientation_rad : float
        Direction of the major axis.
    irregularity : float
        Relative standard deviation of the radius; 0 is an ellipse, 0.1 is lobed.
    rng : numpy.random.Generator
    """
    major = np.sqrt(area_px * elongation / np.pi)
    minor = major / elongation
    turned = ANGLES - orientation_rad
    ellipse = major * minor / np.hypot(minor * np.cos(turned), major * np.sin(turned))
    amplitude = rng.normal(size=len(HARMONICS)) + 1j * rng.normal(size=len(HARMONICS))
    wobble = ((amplitude / HARMONICS**1.5) @ _WAVES).real
    wobble *= irregularity / 0.48  # 0.48 is the deviation of the sum above
    radii = ellipse * np.clip(1 + wobble, 0.6, 1.5)
    radii *= np.sqrt(area_px / max(0.5 * np.sum(radii**2) * (2 * np.pi / DIRECTIONS), 1e-6))
    return RadialOutline(
        radii.astype(np.float32), float(major), float(minor), float(orientation_rad)
    )


def turned(outline: RadialOutline, orientation_rad: float) -> RadialOutline:
    """Return an outline turned to another direction, up to the nearest of ``DIRECTIONS``."""
    steps = round((orientation_rad - outline.orientation_rad) / (2 * np.pi) * DIRECTIONS)
    angle = outline.orientation_rad + steps * 2 * np.pi / DIRECTIONS
    return replace(outline, radii_px=np.roll(outline.radii_px, steps), orientation_rad=angle)
