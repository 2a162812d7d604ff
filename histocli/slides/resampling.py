"""Resample images, slides and labels to another pixel size.

``from_mpp`` and ``to_mpp`` are the pixel sizes of input and result, in micrometres. Pixel i of the
result covers ``i * to_mpp .. (i + 1) * to_mpp`` micrometres from the outer corner of pixel (0, 0),
whatever the size of the image or region. The scale is never adjusted to make a whole number of
pixels fit. Shrinking averages areas (no aliasing); enlarging is cubic.

``resample`` uses OpenCV on an image in memory. ``ResampledSlide`` reads regions, which agree bit by
bit where they overlap. Read from level 0, they differ from ``resample`` by at most one grey level,
because OpenCV rounds its weights, except in the last rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.pyramid import shrink
from histocli.base.types import RGBImage
from histocli.slides.slide import STRIP_PX, Slide, shape_of

if TYPE_CHECKING:
    from scipy import sparse

# Coefficient a of the cubic kernel, the same as OpenCV's, so that slides look like training images.
CUBIC = -0.75


def resampled_shape(shape: tuple[int, int], from_mpp: float, to_mpp: float) -> tuple[int, int]:
    """Return height and width after ``resample``, at least one pixel each."""
    factor = from_mpp / to_mpp
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resample(image: RGBImage, from_mpp: float, to_mpp: float) -> RGBImage:
    """Bring an image to another pixel size.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    from_mpp, to_mpp : float
        Micrometres per pixel of input and result.

    Returns
    -------
    ndarray of uint8, shape (*resampled_shape, 3)
        The same array if the pixel sizes are equal.
    """
    if from_mpp == to_mpp:
        return image
    height, width = resampled_shape(image.shape[:2], from_mpp, to_mpp)
    factor = from_mpp / to_mpp
    # an image too small for one output pixel is extended by its edge pixels
    down, right = (
        max(0, math.ceil(1 / factor) - side) if round(side * factor) < 1 else 0
        for side in image.shape[:2]
    )
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    # given fx and fy, not a size, OpenCV keeps the exact scale and thus the place of every pixel
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resampled = cv2.resize(
        np.ascontiguousarray(image), None, fx=factor, fy=factor, interpolation=method
    )
    return resampled.astype(np.uint8, copy=False)[:height, :width]


def resample_labels(
    labels: npt.NDArray[Any], from_mpp: float, to_mpp: float, shape: tuple[int, int] | None = None
) -> npt.NDArray[Any]:
    """Bring a label image to another pixel size: an output pixel takes the label at its centre.

    Parameters
    ----------
    labels : ndarray of any type, shape (H, W)
    from_mpp, to_mpp : float
        Micrometres per pixel of input and result.
    shape : (int, int), optional
        Height and width of the result, by default ``resampled_shape``. Pixels beyond the last row
        or column of labels repeat that row or column.

    Returns
    -------
    ndarray of the same type, shape ``shape``
        The same array if pixel sizes and shapes are equal.
    """
    height, width = shape or resampled_shape((labels.shape[0], labels.shape[1]), from_mpp, to_mpp)
    if from_mpp == to_mpp and labels.shape == (height, width):
        return labels
    rows, columns = (
        np.minimum(((np.arange(size) + 0.5) * (to_mpp / from_mpp)).astype(np.intp), last - 1)
        for size, last in zip((height, width), labels.shape, strict=True)
    )
    nearest: npt.NDArray[Any] = np.take(np.take(labels, rows, axis=0), columns, axis=1)
    return nearest


class ResampledSlide:
    """A slide at another pixel size, read by regions.

    If level 0 and ``to_mpp`` differ by at most the relative tolerance ``same_mpp``, the slide keeps
    its own pixel size and pixels. Else a region is resampled from the coarsest level whose pixels
    are no coarser than ``to_mpp`` (tolerance ``same_mpp``). ``change``, such as a correction of
    brightness, is applied to every region and must treat each pixel alone.
    """

    def __init__(
        self,
        slide: Slide,
        to_mpp: float,
        *,
        same_mpp: float = 0.0,
        change: Callable[[RGBImage], RGBImage] | None = None,
    ) -> None:
        self.slide = slide
        self.mpp = slide.mpp if abs(slide.mpp / to_mpp - 1) <= same_mpp else to_mpp
        self.ratio = self.mpp / slide.mpp
        """Side of a resampled pixel, in level-0 pixels."""
        shape = shape_of(slide)
        self.shape = shape if self.ratio == 1 else resampled_shape(shape, slide.mpp, self.mpp)
        self.change = change
        coarsest = self.ratio * (1 + same_mpp + 1e-9)
        fitting = [n for n, level in enumerate(slide.levels) if level.downsample <= coarsest]
        self.level = max(fitting, default=0)

    def read(self, rows: slice, columns: slice) -> RGBImage:
        """Read a region, in resampled pixels, that lies inside ``shape``."""
        level = self.slide.levels[self.level]
        ratio = self.ratio / level.downsample
        if abs(ratio - 1) < 1e-9:
            image = self.slide.read(self.level, rows, columns)
        else:
            down, seen_rows = taps(rows, ratio, level.shape[0])
            across, seen_columns = taps(columns, ratio, level.shape[1])
            image = apply_taps(self.slide.read(self.level, seen_rows, seen_columns), down, across)
        return image if self.change is None else self.change(image)


def taps(window: slice, ratio: float, length: int) -> tuple[sparse.csr_array, slice]:
    """Return the weights (taps) that mix input pixels into the output pixels of a window.

    They apply along one axis. An output pixel is ``ratio`` input pixels long, so a ratio above 1
    shrinks. Beyond both ends of the ``length`` input pixels, the edge pixel is repeated.
    Returns the weights, float32 of shape (output pixels, needed input pixels), and the range of
    needed input pixels. Each row of weights sums to 1 and does not depend on the window.
    """
    from scipy import sparse  # late: most slides have the pixel size that is wanted

    place = np.arange(window.start, window.stop, dtype=np.float64)
    if ratio > 1:  # a weight is the length of the input pixel that lies in the output pixel
        start, stop = place * ratio, (place + 1) * ratio
        index = np.floor(start + 1e-9).astype(np.int64)[:, None] + np.arange(math.ceil(ratio) + 1)
        weight = np.minimum(index + 1, stop[:, None]) - np.maximum(index, start[:, None])
        weight = np.where(weight > 1e-6, weight, 0)  # smaller ones are rounding errors
    else:  # the cubic kernel at the distances of the four nearest input pixels
        centre = (place + 0.5) * ratio - 0.5
        index = np.floor(centre).astype(np.int64)[:, None] + np.arange(-1, 3)
        distance = np.abs(centre[:, None] - index)
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, length - 1)
    used = index[weight != 0]
    seen = slice(int(used.min()), int(used.max()) + 1)
    # entries of weight 0 may lie outside ``seen``; their index must only be valid
    index = np.clip(index, seen.start, seen.stop - 1) - seen.start
    pointer = np.arange(len(place) + 1) * index.shape[1]
    content = weight.ravel().astype(np.float32), index.ravel(), pointer
    return sparse.csr_array(content, shape=(len(place), seen.stop - seen.start)), seen


def apply_taps(image: RGBImage, down: sparse.csr_array, across: sparse.csr_array) -> RGBImage:
    """Mix rows by the weights ``down`` and columns by ``across``; round to uint8."""
    height, width, channels = image.shape
    mixed = down @ image.reshape(height, width * channels).astype(np.float32)
    turned = np.ascontiguousarray(mixed.reshape(-1, width, channels).transpose(1, 0, 2)).reshape(
        width, -1
    )
    mixed = (across @ turned).reshape(across.shape[0], -1, channels)
    np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed)
    return np.ascontiguousarray(mixed.astype(np.uint8).transpose(1, 0, 2))


def shrunk(slide: Slide, factor: int) -> RGBImage:
    """Return the whole slide with squares of ``factor`` x ``factor`` pixels averaged.

    ``factor`` is a power of two. The slide is read a strip at a time; the result has shape
    (ceil(H / factor), ceil(W / factor), 3).
    """
    height, width = (-(-side // factor) for side in shape_of(slide))
    # the coarsest level whose downsample divides the factor
    number = [n for n, level in enumerate(slide.levels) if factor % level.downsample == 0][-1]
    level = slide.levels[number]
    rest = factor // round(level.downsample)
    image = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PX // max(1, level.shape[1] * rest))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # some files drop the last partial pixel of a level; its last pixel is repeated then
        wanted = slice(min(start * rest, level.shape[0] - 1), min(stop * rest, level.shape[0]))
        strip = shrink(slide.read(number, wanted, slice(0, level.shape[1])), rest)
        down, right = stop - start - strip.shape[0], width - strip.shape[1]
        strip = strip[: stop - start, :width]
        image[start:stop] = cv2.copyMakeBorder(
            strip, 0, max(0, down), 0, max(0, right), cv2.BORDER_REPLICATE
        )
    return image
