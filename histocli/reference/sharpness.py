"""How much of an image is finer than a pixel or so: traces of scanner, compression and focus.

This gives synthetic nuclei away at once: textures are resampled, borders are drawn, sensors add
noise. So it is measured per reference, within nuclei and along their borders, and matched when
patches are painted (``synthesis/painting.py``).
"""

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask

FINEST_PX = 1.0
"""Standard deviation of the blur that takes the finest detail away."""
BORDER_PX = 2
"""How far a border reaches to both sides of an outline."""
FEWEST_PIXELS = 200
"""Fewer pixels than this tell nothing."""


def fine_detail(light: npt.NDArray[np.floating], nuclei: BoolMask) -> tuple[float, float]:
    """Measure the finest detail within nuclei and along their borders.

    Parameters
    ----------
    light : ndarray of float, shape (H, W, 3)
        Transmitted light, 1 is glass.
    nuclei : ndarray of bool, shape (H, W)

    Returns
    -------
    core, edge : float
        Root mean square of the light that a blur of ``FINEST_PX`` takes away, over the three
        colours; 0, which is never matched, where there are too few pixels to tell.
    """
    light = np.ascontiguousarray(light, np.float32)
    fine = light - cv2.GaussianBlur(light, (0, 0), FINEST_PX, borderType=cv2.BORDER_REPLICATE)
    power = np.square(fine).mean(axis=-1)
    square = np.ones((2 * BORDER_PX + 1, 2 * BORDER_PX + 1), np.uint8)
    core = cv2.erode(nuclei.astype(np.uint8), square).astype(bool)
    edge = cv2.dilate(nuclei.astype(np.uint8), square).astype(bool) & ~core
    found = [
        float(np.sqrt(power[region].mean())) if region.sum() >= FEWEST_PIXELS else 0.0
        for region in (core, edge)
    ]
    return found[0], found[1]
