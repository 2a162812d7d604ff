"""Which way the fibres of the background run: spindle cells lie along them."""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.base.types import FloatArray

STEP_PX = 4  # the field is coarse: fibres turn over tens of micrometres
GRADIENT_UM = 0.75
NEIGHBOURHOOD_UM = 6.0


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
    """Measure the structure tensor of the absorbance of green, which eosin causes (Bigün and Granlund 1987).

    Parameters
    ----------
    background : ndarray of float32, shape (H, W, 3)
        Optical density.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    DirectionField
    """
    step = STEP_PX if min(background.shape[:2]) >= 8 * STEP_PX else 1
    small = cv2.resize(np.ascontiguousarray(background[..., 1]), None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), GRADIENT_UM / mpp / step)
    dy, dx = np.gradient(small)
    sigma = NEIGHBOURHOOD_UM / mpp / step
    xx, yy, xy = (cv2.GaussianBlur(np.asarray(part, np.float32), (0, 0), sigma) for part in (dx * dx, dy * dy, dx * dy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-9)
    angle = across + np.pi / 2
    if step == 1:
        angle, coherence = angle[::STEP_PX, ::STEP_PX], coherence[::STEP_PX, ::STEP_PX]
    return DirectionField(np.asarray(angle, np.float32), np.asarray(coherence, np.float32))
