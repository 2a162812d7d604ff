"""Which way the fibres of the background run: spindle cells lie along them."""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.base.types import FloatArray

STEP_PX = 4
"""Spacing of the field, which is coarse because fibres turn over tens of micrometres."""


@dataclass(frozen=True)
class DirectionField:
    """Direction and evenness of fibres on a coarse grid."""

    angle_rad: FloatArray
    """(H / STEP_PX, W / STEP_PX), along the fibres, against the x axis."""
    coherence: FloatArray
    """The same shape: 0 no direction, 1 parallel fibres."""

    def at(self, y: float, x: float) -> tuple[float, float]:
        """Return angle and coherence at a pixel."""
        row = min(max(int(y) // STEP_PX, 0), self.angle_rad.shape[0] - 1)
        column = min(max(int(x) // STEP_PX, 0), self.angle_rad.shape[1] - 1)
        return float(self.angle_rad[row, column]), float(self.coherence[row, column])


def fibre_directions(background: FloatArray, mpp: float) -> DirectionField:
    """Measure the directions of fibres, which eosin stains.

    They come from the structure tensor of the absorbance of green (Bigün and Granlund 1987).

    Parameters
    ----------
    background : ndarray of float32, shape (H, W, 3)
        Optical density.
    mpp : float
        Micrometres per pixel.
    """
    green = np.ascontiguousarray(background[..., 1])
    step = max(1, round(0.5 / mpp))
    if min(green.shape) < 8 * STEP_PX:
        step = 1
    if step > 1:
        green = np.asarray(
            cv2.resize(green, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA),
            np.float32,
        )
    dy, dx = np.gradient(cv2.GaussianBlur(green, (0, 0), 0.5 / mpp / step))
    # only the products may be shrunk further: gradients of fine fibres would alias
    size = (max(1, background.shape[1] // STEP_PX), max(1, background.shape[0] // STEP_PX))
    sigma = 6.0 / mpp / STEP_PX
    xx, yy, xy = (
        cv2.GaussianBlur(
            cv2.resize(np.asarray(part, np.float32), size, interpolation=cv2.INTER_AREA),
            (0, 0),
            sigma,
        )
        for part in (dx * dx, dy * dy, dx * dy)
    )
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-9)
    angle = across + np.pi / 2
    return DirectionField(np.asarray(angle, np.float32), np.asarray(coherence, np.float32))
