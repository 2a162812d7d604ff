"""What every image goes through before a network sees it, in training and in segmentation alike.

Scanners and cameras render empty glass anywhere between mid-grey and white. Networks see it white: brightness is measured per
image and divided out, so that a dim microscope is no new domain.
"""

import cv2
import numpy as np
from torch import Tensor

from histocli.base.types import RGBImage
from histocli.optics.density import WHITE_LEVEL

PIXEL_MEAN, PIXEL_STD = 0.65, 0.22
"""Brightness and contrast of typical H&E in 0..1: fixed; stain differences are left to augmentation."""


def glass_to_white(image: RGBImage, glass_level: float) -> RGBImage:
    """Brighten an image such that empty glass becomes white.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
        sRGB values in 0..255.
    glass_level : float
        Level of empty glass in this image, in 1..256, as ``optics.density.white_level`` measures it.

    Returns
    -------
    ndarray of uint8, shape (..., 3)
    """
    table = np.clip(np.rint((np.arange(256) + 1) * (WHITE_LEVEL / glass_level) - 1), 0, 255).astype(np.uint8)
    flat = np.ascontiguousarray(image).reshape(-1, 3)
    return np.asarray(cv2.LUT(flat, table), np.uint8).reshape(image.shape) if flat.size else image


def white_to_glass(image: RGBImage, glass_level: float) -> RGBImage:
    """Darken an image whose glass is white such that its glass has a level; the inverse of ``glass_to_white`` but for rounding.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
    glass_level : float
        In 1..256.

    Returns
    -------
    ndarray of uint8, shape (..., 3)
    """
    table = np.clip(np.rint((np.arange(256) + 1) * (glass_level / WHITE_LEVEL) - 1), 0, 255).astype(np.uint8)
    flat = np.ascontiguousarray(image).reshape(-1, 3)
    return np.asarray(cv2.LUT(flat, table), np.uint8).reshape(image.shape) if flat.size else image


def standardise(pixels: Tensor) -> Tensor:
    """Bring sRGB values in 0..1, shape (N, 3, H, W), to about zero mean and unit spread."""
    return (pixels - PIXEL_MEAN) / PIXEL_STD
