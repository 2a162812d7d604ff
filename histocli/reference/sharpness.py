"""Detail finer than about a pixel: traces of the scanner, of compression and of focus.

This detail gives synthetic nuclei away: textures are resampled, borders are drawn and sensors add
noise. It is measured in each reference image, and painting matches it (``synthesis/painting.py``).
"""

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask

FINEST_PX = 1.0  # standard deviation of the blur that removes the finest detail
BORDER_PX = 2  # reach of a border to both sides of an outline
FEWEST_PIXELS = 200  # fewer pixels give no measurement


def fine_detail(light: npt.NDArray[np.floating], nuclei: BoolMask) -> tuple[float, float]:
    """Measure the finest detail within nuclei and along their borders, in this order.

    ``light`` (H, W, 3) is transmitted light, 1 for glass. The measure is the root mean square of
    the light that a blur of ``FINEST_PX`` removes, over the three colours. A region of fewer than
    ``FEWEST_PIXELS`` gives 0, which painting does not match.
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
