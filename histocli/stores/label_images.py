"""Label images on disk: one integer a pixel, as annotation tools and other segmenters write them.

TIFF of any integer type, PNG (8 or 16 bits, greyscale or palette, whose indices are the labels) and
NPY. 0 is background; negative values, where the type has them, are ignored pixels.
"""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from histocli.base.errors import InputNotFound, InvalidInput

LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".npy")
"""Lower-case last suffixes of what ``read_label_image`` reads."""

PNG_COLOUR_TYPE = 25  # byte of a PNG file that says how pixels are stored
PNG_PALETTE = 3
LARGEST_EXACT = 2.0**53  # of whole numbers in float64


def read_label_image(path: str | Path) -> npt.NDArray[np.integer[Any]]:
    """Read a label image.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG or NPY file. Colour channels are accepted when they are all equal, floats when
        they are whole numbers.

    Returns
    -------
    ndarray of integers, shape (H, W)
        In the type of the file (uint8 for masks, int64 for floats).

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        It cannot be read, or is no label image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFound(f"{path}: no such label image; check the path")
    try:
        values = _decode(path)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like over damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(
            f"{path}: cannot be read as a label image ({reason}); is the file damaged?"
        ) from error
    return _check(values, path)


def _decode(path: Path) -> npt.NDArray[Any]:
    match path.suffix.lower():
        case ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        case ".png":
            content = path.read_bytes()
            if len(content) > PNG_COLOUR_TYPE and content[PNG_COLOUR_TYPE] == PNG_PALETTE:
                with Image.open(path) as image:  # the only decoder here that keeps the indices
                    return np.asarray(image)
            return np.asarray(imagecodecs.png_decode(content))
        case ".tif" | ".tiff":
            return np.asarray(tifffile.imread(path))
        case suffix:
            raise ValueError(f"{suffix or 'no suffix'} is none of {', '.join(LABEL_SUFFIXES)}")


def _check(values: npt.NDArray[Any], path: Path) -> npt.NDArray[np.integer[Any]]:
    """Return the values as (H, W) integers, or say why they are no labels."""
    shape = values.shape
    if values.ndim == 3 and shape[-1] in (3, 4) and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]  # a grey picture saved as colour
    if values.ndim > 2:
        values = values.squeeze(
            axis=tuple(axis for axis in range(values.ndim) if shape[axis] == 1)[: values.ndim - 2]
        )
    if values.ndim != 2 or values.size == 0:
        raise InvalidInput(
            f"{path}: a label image has one integer a pixel, this has shape {shape}; is it a picture or an overlay?"
        )
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InvalidInput(
                f"{path}: labels must be whole numbers, got {values.dtype} with NaN or infinity; write 0 for background and -1 "
                "for what is to be ignored"
            )
        if not ((values == np.rint(values)).all() and (np.abs(values) <= LARGEST_EXACT).all()):
            raise InvalidInput(
                f"{path}: labels must be whole numbers, got {values.dtype} with fractions; is it a probability map?"
            )
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise InvalidInput(f"{path}: labels must be integers, got {values.dtype}")
    if values.dtype == np.uint64 and values.max() > np.iinfo(np.int64).max:
        raise InvalidInput(f"{path}: labels must be below 2**63")
    return np.asarray(values)
