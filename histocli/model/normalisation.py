"""Brightness of an image, changed before a network sees it, and the statistics of its stain.

Scanners and cameras render empty glass anywhere between mid-grey and white. Networks see white
glass: the level of glass is measured in each image and divided out, in training and afterwards.

The stain of an image is described by the mean and the spread of its absorbances over tissue.
:mod:`histocli.model.adaptation` says what is done with an image whose stain is foreign to a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, Json, RGBImage
from histocli.optics.density import BLACK, WHITE_LEVEL, rgb_to_optical_density

if TYPE_CHECKING:
    from torch import Tensor

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
    return mapped(image, np.rint((np.arange(256) + 1) * factor - 1))


def mapped(image: RGBImage, table: npt.NDArray[np.floating[Any]]) -> RGBImage:
    """Replace every value by its entry in a table (256,), or (256, 3) for red, green and blue."""
    if not image.size:
        return image
    values = np.clip(table, 0, 255).astype(np.uint8)
    flat = np.ascontiguousarray(image).reshape(-1, 1, 3)
    mapped = cv2.LUT(flat, values if values.ndim == 1 else values[None])
    return np.asarray(mapped, np.uint8).reshape(image.shape)


TISSUE_DENSITY = 0.45  # a pixel is tissue if its three absorbances add up to more
PALEST_FILL = 240  # what is grey and brighter may be glass
FEWEST_PX = 500  # pixels of tissue that are needed to measure contrast
Colours = tuple[float, float, float]
"""A value for red, green and blue light each."""


def colours_of(values: Sequence[float]) -> Colours:
    """Return three values as a tuple."""
    red, green, blue = values
    return (red, green, blue)


@dataclass(frozen=True)
class Contrast:
    """Mean and spread of absorbance over tissue, in optical density (natural log)."""

    mean: Colours
    """Mean absorbance of red, green and blue light."""
    spread: float
    """Standard deviation of the absorbance of red light, which nuclei absorb much more than their
    surroundings."""
    spreads: Colours | None = None
    """Standard deviations of the absorbances of red, green and blue light; None in stores of
    earlier versions."""

    def to_json(self) -> Json:
        """Return plain values."""
        values: Json = {"mean": list(self.mean), "spread": self.spread}
        return values if self.spreads is None else values | {"spreads": list(self.spreads)}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Rebuild a contrast from the values that ``to_json`` returned."""
        spreads = values.get("spreads")
        return cls(
            colours_of(values["mean"]),
            values["spread"],
            None if spreads is None else colours_of(spreads),
        )


def tissue_moments(pixels: RGBImage) -> npt.NDArray[np.float64]:
    """Count and sum the absorbances of tissue in an image (..., 3) with white glass; the moments of
    parts of an image may be added.

    Returns
    -------
    ndarray of float64, shape (7,)
        Number of tissue pixels; sums of the absorbances of red, green and blue; sums of squares.
    """
    density = rgb_to_optical_density(pixels)
    tissue = (density.sum(axis=-1) > TISSUE_DENSITY) & ~is_fill(pixels)
    tissue = density[tissue].astype(np.float64)
    return np.concatenate([[len(tissue)], tissue.sum(axis=0), (tissue**2).sum(axis=0)])


def is_fill(pixels: RGBImage) -> BoolMask:
    """Tell which pixels are padding of a scanner or a program, and show neither glass nor tissue.

    Padding is black, or exactly grey and equal to the next pixel of its row.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (..., W, 3)

    Returns
    -------
    ndarray of bool, shape (..., W)
    """
    brightest, darkest = pixels.max(axis=-1), pixels.min(axis=-1)
    flat = np.zeros(pixels.shape[:-1], bool)
    if pixels.ndim > 2 and pixels.shape[-2] > 1:
        same = (pixels[..., 1:, :] == pixels[..., :-1, :]).all(axis=-1)
        flat[..., 1:] |= same
        flat[..., :-1] |= same
    grey = (brightest == darkest) & flat & (brightest < PALEST_FILL)
    return np.asarray((brightest <= BLACK) | grey)


def contrast_from(moments: npt.NDArray[np.float64]) -> Contrast | None:
    """Return the contrast, given ``tissue_moments``; None for less than ``FEWEST_PX`` of tissue."""
    n = moments[0]
    if n < FEWEST_PX:
        return None
    mean = moments[1:4] / n
    spreads = np.sqrt(np.maximum(moments[4:7] / n - mean**2, 0))
    means, spread = ([round(float(value), 5) for value in values] for values in (mean, spreads))
    return Contrast(colours_of(means), spread[0], colours_of(spread))


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


def contrasts_of_groups(
    moments: npt.NDArray[np.float64], group: npt.NDArray[np.integer]
) -> list[Contrast]:
    """Return the contrast of each group of images that shows tissue, in the order of the groups.

    Parameters
    ----------
    moments : ndarray of float64, shape (n, 7)
        ``tissue_moments`` of each image.
    group : ndarray of int, shape (n,)
        Number of the group of each image, 0 and up, such as its reference.
    """
    sums = np.zeros((int(group.max()) + 1, moments.shape[1]))
    np.add.at(sums, group, moments)
    return [each for each in map(contrast_from, sums) if each is not None]
