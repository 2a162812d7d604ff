"""Optical density: the scale on which amounts of stain add up.

Each stain weakens light by a factor, so absorbance ``-ln(I / I0)`` is a sum over stains
(Beer-Lambert); I is the light through the section and I0 that through empty glass. Functions exist
for NumPy (channels last) and, where training needs them, for torch (channels first).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, RGBImage

if TYPE_CHECKING:
    from torch import Tensor

WHITE_LEVEL = 256.0
"""Level of white, 255 + 1: one is added to all levels, so that level 0 has a finite density."""
LOWEST_WHITE = 64.0
"""Least level of glass; an image that is darker everywhere is black, not underexposed."""
BLACK = 8
"""Largest value of black fill; compression makes it uneven."""
LEAST_FILL = 0.05  # share of black pixels from which they are a fill, not ink
COLOURLESS = 16  # largest difference of the colours of glass


def rgb_to_optical_density(image: RGBImage, white: float = WHITE_LEVEL) -> FloatArray:
    """Convert transmitted light to absorbance.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
        sRGB.
    white : float
        Level of empty glass, in 1..256.

    Returns
    -------
    ndarray of float32, shape (..., 3)
        Optical density by natural logarithm, >= 0; 0 is glass.
    """
    table = np.maximum(np.log(white / (np.arange(256) + 1.0)), 0).astype(np.float32)
    absorbance: FloatArray = table[image]
    return absorbance


def optical_density_to_rgb(
    optical_density: npt.NDArray[np.floating], white: float = WHITE_LEVEL
) -> RGBImage:
    """Convert absorbance to transmitted light; the inverse of ``rgb_to_optical_density``."""
    light = white * np.exp(-optical_density) - 1
    levels: RGBImage = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return levels


def optical_density_to_light(
    optical_density: Tensor, white: Tensor | float = WHITE_LEVEL
) -> Tensor:
    """Convert absorbance to transmitted light, torch tensors of any shape; unrounded, 0..255."""
    return (white * (-optical_density).exp() - 1).clamp(0, 255)


def light_to_optical_density(light: Tensor) -> Tensor:
    """Convert transmitted light in 0..255 to absorbance, torch tensors of any shape; 0 is glass."""
    return -((light + 1) / WHITE_LEVEL).log()


def white_level(image: RGBImage) -> float:
    """Estimate the level of empty glass of one image.

    Glass is colourless and nothing is brighter, but some scanners and cameras show it far below
    255. The estimate, one level for all channels, is one above the 99.5th percentile of the
    brightest channel after slight smoothing. Where eosin covers all, red still shows this level.
    Where a program has filled with black what surrounded the tissue, no glass may be left: if the
    brightest pixels are coloured there, glass is taken for white.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB.

    Returns
    -------
    float
        In 64..256.
    """
    enough_px = 2**21  # larger images are shrunk to this many pixels
    if image.shape[0] * image.shape[1] > enough_px:
        scale = (enough_px / (image.shape[0] * image.shape[1])) ** 0.5
        smooth = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    else:
        smooth = cv2.blur(image, (3, 3), borderType=cv2.BORDER_REPLICATE)
    red, green, blue = cv2.split(smooth)
    brightest = cv2.max(cv2.max(red, green), blue)
    level = np.percentile(brightest, 99.5)
    if LEAST_FILL < (brightest <= BLACK).mean() < 1:
        colour = smooth[brightest >= level].mean(axis=0)
        if colour.max() - colour.min() > COLOURLESS:
            return WHITE_LEVEL
    return float(np.clip(level + 1, LOWEST_WHITE, WHITE_LEVEL))
