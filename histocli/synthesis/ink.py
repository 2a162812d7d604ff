"""Ink of pathologists: strokes of markers on the glass, and dye that marks the edges of tissue.

Ink lies in grains and drops as large as nuclei, which a network that never saw ink takes for
nuclei. It is drawn on the background in optical density, before nuclei, and is background.
"""

import cv2
import numpy as np

from histocli.base.types import FloatArray

COLOURS = (
    (1.00, 0.30, 0.75),  # green
    (1.10, 0.75, 0.20),  # blue
    (1.05, 1.05, 1.00),  # black
    (0.12, 0.95, 0.80),  # red
    (0.05, 0.25, 0.90),  # yellow
)
"""Optical densities of red, green and blue light of usual inks."""


def add_ink(drawn: FloatArray, mpp: float, rng: np.random.Generator) -> None:
    """Draw a stroke, or drops and grains, of ink of one colour into a background, in place.

    Parameters
    ----------
    drawn : ndarray of float32, shape (H, W, 3)
        Optical density.
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator
    """
    colour = np.array(COLOURS[int(rng.integers(len(COLOURS)))], np.float32)
    colour = colour * np.exp(rng.normal(0, 0.15, 3)).astype(np.float32)
    shape = (drawn.shape[0], drawn.shape[1])
    field = _stroke(shape, mpp, rng) if rng.random() < 0.4 else _drops(shape, mpp, rng)
    drawn += field[..., None] * colour * np.float32(rng.uniform(0.5, 1.3))


def _stroke(shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> FloatArray:
    """Return the amount, (H, W), 0..1, of ink in the edge of a stroke, wider than the patch."""
    height, width = shape
    turn = float(rng.uniform(0, 2 * np.pi))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = (y - rng.uniform(0, height)) * np.sin(turn) + (x - rng.uniform(0, width)) * np.cos(turn)
    # the edge is frayed over 2 to 20 um, where the ink ran out
    frayed = float(rng.uniform(2, 20)) / mpp
    rough = _noise(shape, float(rng.uniform(0.4, 2.0)) / mpp, rng)
    field = np.clip(0.5 + along / frayed + 0.5 * rough, 0, 1)
    grain = _noise(shape, float(rng.uniform(0.3, 1.0)) / mpp, rng)
    return np.asarray(field * np.clip(0.8 + 0.2 * grain, 0, 1.5), np.float32)


def _drops(shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> FloatArray:
    """Return the amount, (H, W), 0..1, of ink in drops and grains, some as large as nuclei."""
    field = np.zeros(shape, np.float32)
    middle = rng.uniform(0, 1, 2) * shape
    spread_px, largest_um = float(rng.uniform(8, 40)) / mpp, float(rng.uniform(1.0, 5.0))
    for _ in range(int(rng.integers(6, 70))):
        y, x = middle + rng.normal(0, spread_px, 2)
        radius = float(rng.uniform(0.4, largest_um)) / mpp
        axes = [max(8, round(16 * radius * float(rng.uniform(0.6, 1)))) for _ in range(2)]
        # in sixteenths of a pixel (a shift of 4 bits), because grains are a few pixels wide
        centre, dark = (round(x * 16), round(y * 16)), float(rng.uniform(0.4, 1.0))
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(field, centre, axes, angle, 0, 360, dark, -1, cv2.LINE_8, 4)
    edge = float(rng.uniform(0.2, 0.6)) / mpp
    soft = np.asarray(cv2.GaussianBlur(field, (0, 0), edge), np.float32)
    uneven = _noise(shape, float(rng.uniform(0.4, 1.5)) / mpp, rng)
    return np.asarray(soft * np.clip(1 + 0.3 * uneven, 0.2, 1.5), np.float32)


def _noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> FloatArray:
    """Draw Gaussian noise of unit spread, smoothed by ``sigma_px``."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(sigma_px, 0.3), borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth / max(float(smooth.std()), 1e-6), np.float32)
