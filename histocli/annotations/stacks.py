"""Stacks of images in one NPY file, as PanNuke has them: ``images.npy`` and ``masks.npy``.

``masks.npy`` has the shape (images, H, W, channels). Each channel has the ids of the nuclei of one
type; the last one may be the background, 1 where no nucleus is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.annotations.labels import Labels
from histocli.base.errors import InvalidInput
from histocli.base.text import first_line
from histocli.base.types import RGBImage


def stack_length(path: Path) -> int | None:
    """Return the number of images of a file that is a stack, shape (N, H, W, C); else None."""
    if path.suffix.lower() != ".npy" or path.is_dir():
        return None
    try:
        shape = _opened(path).shape
    except InvalidInput:  # reading the file as one image reports its fault
        return None
    return int(shape[0]) if len(shape) == 4 else None


def read_stack_masks(path: Path, index: int) -> Labels:
    """Return the labels of an image of a stack of masks, int32, shape (H, W); 0 is background.

    Raises ``InvalidInput`` for a damaged file, and for ids that are no whole numbers.
    """
    planes = np.asarray(_opened(path)[index])
    if not np.isfinite(planes).all() or (planes < 0).any() or (planes != np.rint(planes)).any():
        raise InvalidInput(
            f"{path}: image {index} has ids that are no whole numbers of at least 0; a stack of "
            "masks holds the ids of nuclei"
        )
    planes = planes.astype(np.int64)
    nuclei = planes[..., :-1]
    rest = (nuclei == 0).all(axis=-1)
    if planes.shape[-1] == 1 or not np.array_equal(planes[..., -1], rest):
        nuclei = planes
    labels = np.zeros(planes.shape[:2], np.int32)
    highest = 0
    for plane in np.moveaxis(nuclei, -1, 0):
        ids, numbers = np.unique(plane, return_inverse=True)
        numbers = numbers.reshape(plane.shape) + (ids[0] != 0)  # 0 stays background
        labels = np.where(numbers > 0, numbers + highest, labels).astype(np.int32)
        highest = int(labels.max(initial=highest))
    return labels


def read_stack_image(path: Path, index: int) -> RGBImage:
    """Return an image of a stack, uint8 sRGB, shape (H, W, 3), from values of 0..255."""
    pixels = np.asarray(_opened(path)[index])
    if pixels.shape[-1] != 3 or not np.isfinite(pixels).all() or pixels.min() < 0 or (
        pixels.max() > 255
    ):  # fmt: skip
        raise InvalidInput(
            f"{path}: image {index} has shape {pixels.shape} and values of "
            f"{pixels.min():g} to {pixels.max():g}; a stack of images has red, green and blue of "
            "0 to 255"
        )
    rounded: RGBImage = np.rint(pixels).astype(np.uint8)
    return rounded


def _opened(path: Path) -> npt.NDArray[Any]:
    """Return the array of a file, of which only what is used is read."""
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except MemoryError:
        raise
    except Exception as error:  # over damaged files, decoders raise errors of any class
        raise InvalidInput(
            f"{path}: cannot be read as NPY ({first_line(error)}); is the file damaged?"
        ) from error
