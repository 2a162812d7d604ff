"""Coarser levels of images and of label images."""

from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage


def shrink(image: RGBImage, factor: int) -> RGBImage:
    """Average blocks of ``factor`` by ``factor`` pixels; edge pixels complete the last blocks.

    The result has shape (ceil(H / factor), ceil(W / factor), 3).
    """
    import cv2

    if factor == 1:
        return image
    down, right = (-side % factor for side in image.shape[:2])
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def nearest_level(labels: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Take the label at the centre of each block, shape (ceil(H / factor), ceil(W / factor))."""
    for axis in (0, 1):
        side = labels.shape[axis]
        picked = labels[(slice(None),) * axis + (slice(factor // 2, None, factor),)]
        # a last block that is cut before its centre gives its last pixel
        if picked.shape[axis] * factor < side:
            picked = np.concatenate([picked, np.take(labels, [side - 1], axis=axis)], axis=axis)
        labels = picked
    return np.ascontiguousarray(labels)
