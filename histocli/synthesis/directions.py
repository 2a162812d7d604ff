"""Direction of the fibres in a background; elongated nuclei are laid along it."""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.base.types import FloatArray

STEP_PX = 4  # spacing of the field: fibres turn over tens of micrometres


@dataclass(frozen=True)
class DirectionField:
    """Direction and evenness of fibres on a grid of (H / STEP_PX, W / STEP_PX)."""

    angle_rad: FloatArray  # direction of the fibres, from the x axis towards y
    coherence: FloatArray  # 0: no direction; 1: parallel fibres

    def at(self, y: float, x: float) -> tuple[float, float]:
        """Return angle and coherence at a pixel."""
        row = min(max(int(y) // STEP_PX, 0), self.angle_rad.shape[0] - 1)
        column = min(max(int(x) // STEP_PX, 0), self.angle_rad.shape[1] - 1)
        return float(self.angle_rad[row, column]), float(self.coherence[row, column])


def fibre_directions(background: FloatArray, mpp: float) -> DirectionField:
    """Measure the directions of fibres in a background, an optical density (H, W, 3).

    Eosin stains fibres and absorbs green. The directions come from the structure tensor of the
    absorbance of green (Bigün and Granlund 1987).
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
    # only products are shrunk further: shrinking would cancel the gradients of fine fibres
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
