"""Brightness and contrast of an image, changed before a network sees it.

Scanners and cameras render empty glass anywhere between mid-grey and white. Networks see white
glass: the level of glass is measured in each image and divided out, in training and afterwards.

Contrast is the spread of red absorbance over tissue. An image to segment may be stained more
faintly than most training images. Then its absorbances are moved away from their mean until the
spread reaches the contrast floor, but at most by a factor of 2.5. The floor is measured on the
training patches and stored in the header of the model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from histocli.base.types import FloatArray, Json, RGBImage
from histocli.optics.density import WHITE_LEVEL, rgb_to_optical_density

PIXEL_MEAN, PIXEL_STD = 0.65, 0.22
"""Mean and spread of the pixel values of typical H&E, in 0..1. They are the same for all images;
augmentation in training covers differences between stains."""


def glass_to_white(image: RGBImage, glass_level: float) -> RGBImage:
    """Brighten an image such that empty glass becomes white.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
        sRGB.
    glass_level : float
        Level of its empty glass, in 1..256, as ``optics.density.white_level`` measures it.

    Returns
    -------
    ndarray of uint8, shape (..., 3)
    """
    return _brightened(image, WHITE_LEVEL / glass_level)


def white_to_glass(image: RGBImage, glass_level: float) -> RGBImage:
    """Darken an image with white glass such that its glass has the given level; the inverse of
    ``glass_to_white`` up to rounding.
    """
    return _brightened(image, glass_level / WHITE_LEVEL)


def _brightened(image: RGBImage, factor: float) -> RGBImage:
    return _mapped(image, np.rint((np.arange(256) + 1) * factor - 1))


def _mapped(image: RGBImage, table: npt.NDArray[np.floating[Any]]) -> RGBImage:
    """Replace every value by its entry in a table (256,), or (256, 3) for red, green and blue."""
    if not image.size:
        return image
    values = np.clip(table, 0, 255).astype(np.uint8)
    flat = np.ascontiguousarray(image).reshape(-1, 1, 3)
    mapped = cv2.LUT(flat, values if values.ndim == 1 else values[None])
    return np.asarray(mapped, np.uint8).reshape(image.shape)


TISSUE_DENSITY = 0.45  # a pixel is tissue if its three absorbances add up to more
FEWEST_PX = 500  # pixels of tissue that are needed to measure contrast
LARGEST_GAIN = 2.5  # a larger factor would amplify noise too much


@dataclass(frozen=True)
class Contrast:
    """Mean and spread of absorbance over tissue, in optical density (natural log)."""

    mean: tuple[float, float, float]
    """Mean absorbance of red, green and blue light."""
    spread: float
    """Standard deviation of the absorbance of red light, which nuclei absorb much more than their
    surroundings."""

    def gain(self, floor: float) -> float:
        """Return the factor, 1 to 2.5, that brings the spread up to a floor."""
        return float(np.clip(floor / max(self.spread, 1e-6), 1.0, LARGEST_GAIN))

    def to_json(self) -> Json:
        """Return plain values."""
        return {"mean": list(self.mean), "spread": self.spread}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Rebuild a contrast from the values that ``to_json`` returned."""
        red, green, blue = values["mean"]
        return cls((red, green, blue), values["spread"])


def tissue_moments(pixels: RGBImage) -> npt.NDArray[np.float64]:
    """Count and sum the absorbances of tissue in an image (..., 3) with white glass; the moments of
    parts of an image may be added.

    Returns
    -------
    ndarray of float64, shape (7,)
        Number of tissue pixels; sums of the absorbances of red, green and blue; sums of squares.
    """
    density = rgb_to_optical_density(pixels).reshape(-1, 3)
    tissue = density[density.sum(axis=1) > TISSUE_DENSITY].astype(np.float64)
    return np.concatenate([[len(tissue)], tissue.sum(axis=0), (tissue**2).sum(axis=0)])


def contrast_from(moments: npt.NDArray[np.float64]) -> Contrast | None:
    """Return the contrast, given ``tissue_moments``; None for less than ``FEWEST_PX`` of tissue."""
    n = moments[0]
    if n < FEWEST_PX:
        return None
    mean = moments[1:4] / n
    variance = max(float(moments[4] / n - mean[0] ** 2), 0.0)
    red, green, blue = (round(float(value), 5) for value in mean)
    return Contrast((red, green, blue), round(variance**0.5, 5))


def contrast_of(parts: Iterable[RGBImage]) -> Contrast | None:
    """Measure the contrast of an image with white glass.

    Parameters
    ----------
    parts : iterable of ndarray of uint8, shape (..., 3)
        sRGB; together the image.

    Returns
    -------
    Contrast or None
        None for less than ``FEWEST_PX`` of tissue.
    """
    return contrast_from(sum((tissue_moments(part) for part in parts), start=np.zeros(7)))


def contrast_floor(
    moments: npt.NDArray[np.float64], group: npt.NDArray[np.integer], quantile: float
) -> float:
    """Return a quantile of the spread of red absorbance over groups of images; 0 for quantile 0, or
    if no group shows tissue.

    Parameters
    ----------
    moments : ndarray of float64, shape (n, 7)
        ``tissue_moments`` of each image.
    group : ndarray of int, shape (n,)
        Number of the group of each image, 0 and up.
    """
    if quantile == 0:
        return 0.0
    known = [
        contrast_from(moments[group == number].sum(axis=0)) for number in range(group.max() + 1)
    ]
    spreads = [contrast.spread for contrast in known if contrast is not None]
    return round(float(np.quantile(spreads, quantile)), 4) if spreads else 0.0


def raise_contrast(image: RGBImage, contrast: Contrast | None, floor: float) -> RGBImage:
    """Raise the contrast of an image to a floor, by at most ``LARGEST_GAIN``.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
        With white glass, which stays white.
    contrast : Contrast or None
        Contrast of the slide that the image is, or is a part of; None changes nothing.
    floor : float
        Least spread, in optical density; 0 changes nothing.
    """
    if contrast is None or (gain := contrast.gain(floor)) == 1:
        return image
    density = rgb_to_optical_density(np.arange(256, dtype=np.uint8))[:, None]
    mean = np.asarray(contrast.mean)
    spread = np.maximum((density - mean) * gain + mean, 0)
    return _mapped(image, np.rint(WHITE_LEVEL * np.exp(-spread) - 1))


def density_table(contrast: Contrast | None, floor: float) -> npt.NDArray[np.float32]:
    """Return the original absorbance of each value, 0..255, that :func:`raise_contrast` returns.

    Shape (256, 3), for red, green and blue.
    """
    density: FloatArray = np.repeat(
        rgb_to_optical_density(np.arange(256, dtype=np.uint8))[:, None], 3, axis=1
    )
    if contrast is None or (gain := contrast.gain(floor)) == 1:
        return density
    mean = np.asarray(contrast.mean, np.float32)
    before = np.maximum((density - mean) / np.float32(gain) + mean, 0)
    return np.asarray(before, np.float32)


def standardise(pixels: Tensor) -> Tensor:
    """Bring pixels to about zero mean and unit spread.

    Parameters
    ----------
    pixels : Tensor of float, shape (N, 3, H, W)
        sRGB values in 0..1.

    Returns
    -------
    Tensor of float, shape (N, 3, H, W)
    """
    return (pixels - PIXEL_MEAN) / PIXEL_STD
