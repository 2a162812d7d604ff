"""Label images in files: one integer a pixel, as annotation tools and other segmenters write them.

The formats are TIFF, PNG (8 or 16 bits, greyscale or palette, whose indices are the labels), NPY
and MAT (MATLAB; the array ``inst_map``, or the only image of the file). 0 is background, k is
nucleus k, and -1 (in signed types) marks ignored pixels.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

from histocli.annotations.labels import LARGE_PX, Labels, OpenLabels, Shape, checked_ids
from histocli.annotations.matlab import read_matlab
from histocli.annotations.quirks import ids_of_colours, mended
from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.text import first_line
from histocli.base.units import sane_mpp
from histocli.slides.tiff import refuse_loops

LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".npy", ".mat")
"""Suffixes of label images, in lower case."""
LARGEST_WHOLE_PX = 1 << 29
"""Most pixels of a label image that is read as a whole."""
MASKS_FOLDER = "masks"
"""Folder of one mask per nucleus, beside the folder ``images``, as in Data Science Bowl 2018."""


def open_label_image(path: Path, recorded_mpp: Callable[[Path], float | None]) -> OpenLabels:
    """Open a label image; a large tiled TIFF is read in parts (windows), other files as a whole.

    ``recorded_mpp`` reads the micrometres per pixel that a file may record. Errors are those of
    :func:`read_label_image`, and ``InvalidInput`` for labels below -1.
    """
    source = str(path)
    shape = _shape_of_large_tiff(path)
    if shape is None:
        labels = checked_ids(read_label_image(path), source)
        return OpenLabels.in_memory(labels, source, sane_mpp(recorded_mpp(path)))

    def read(rows: slice, columns: slice) -> Labels:
        try:
            # opened for each window, because threads must not share an open file
            with tifffile.imread(path, aszarr=True) as store:
                node = zarr.open(store, mode="r")
                # full resolution, where the file is a pyramid
                array = node["0"] if isinstance(node, zarr.Group) else node
                values = np.asarray(array[rows, columns])  # type: ignore[index]
        except Exception as error:  # over damaged files, decoders raise errors of any class
            raise InvalidInput(
                f"{path}: cannot be read as a label image ({first_line(error)}); "
                "is the file damaged?"
            ) from error
        return checked_ids(values, source)

    return OpenLabels(source=source, shape=shape, read=read, mpp=sane_mpp(recorded_mpp(path)))


def _shape_of_large_tiff(path: Path) -> Shape | None:
    """Return the size of a tiled TIFF of at least ``LARGE_PX`` integers, None for other files."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            refuse_loops(tiff, path)
            series = tiff.series[0]
            height, width = map(int, series.shape)
            is_usable = series.keyframe.is_tiled and series.dtype.kind in "iu"
    except Exception:  # reading the file as a whole will report its fault
        return None
    return (height, width) if is_usable and height * width >= LARGE_PX else None


def open_masks(folder: Path) -> OpenLabels:
    """Join masks of single nuclei to labels; where masks overlap, the later file by name counts."""
    masks = folder / MASKS_FOLDER
    files = sorted(path for path in masks.iterdir() if path.suffix.lower() in LABEL_SUFFIXES)
    if not files:
        raise InvalidInput(f"{masks}: holds no mask; one image per nucleus is expected")
    labels: npt.NDArray[np.int32] = np.zeros(read_label_image(files[0]).shape, np.int32)
    for number, path in enumerate(files, 1):
        mask = read_label_image(path) > 0
        if mask.shape != labels.shape:
            raise InvalidInput(
                f"{path}: is {mask.shape[0]} x {mask.shape[1]} pixels but {files[0].name} is "
                f"{labels.shape[0]} x {labels.shape[1]}; masks of an image agree"
            )
        labels[mask] = number
    return OpenLabels.in_memory(labels, str(folder))


def read_label_image(path: str | Path) -> Labels:
    """Read a TIFF, PNG, NPY or MAT file, shape (H, W), in its integer type.

    Booleans become uint8. Floats are accepted if they are whole numbers, and become int64. Colour
    channels are accepted if all are equal, or if colours are ids. What was damaged by too small a
    type is mended or said (:mod:`histocli.annotations.quirks`).

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        The file cannot be read, or is no label image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFound(f"{path}: no such label image; check the path")
    try:
        values = _decode(path)
    except MemoryError:
        raise
    except Exception as error:  # over damaged files, decoders raise errors of any class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(
            f"{path}: cannot be read as a label image ({reason}); is the file damaged?"
        ) from error
    return _as_labels(values, path)


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for more pixels than a label image that is read as a whole may have."""
    if (pixels := math.prod(shape)) > LARGEST_WHOLE_PX:
        raise ValueError(
            f"it has {pixels} pixels, and more than {LARGEST_WHOLE_PX} are read in tiles only; "
            "save it as a tiled TIFF"
        )


def _decode(path: Path) -> npt.NDArray[Any]:
    match path.suffix.lower():
        case ".npy":
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            check_size(mapped.shape)
            return np.array(mapped)
        case ".png":
            content = path.read_bytes()
            if content[25:26] == b"\3":  # byte 25 is the colour type, 3 a palette
                with Image.open(path) as image:  # imagecodecs gives colours, not indices
                    return np.asarray(image)
            return np.asarray(imagecodecs.png_decode(content))
        case ".tif" | ".tiff":
            with tifffile.TiffFile(path) as tiff:
                refuse_loops(tiff, path)
                check_size(tiff.series[0].shape)
                return np.asarray(tiff.asarray())
        case ".mat":
            return read_matlab(path)
        case suffix:
            raise ValueError(f"{suffix or 'no suffix'} is none of {', '.join(LABEL_SUFFIXES)}")


def _as_labels(values: npt.NDArray[Any], path: Path) -> Labels:
    """Return decoded values as integers of shape (H, W); ``InvalidInput`` for other values."""
    shape = values.shape
    if values.ndim == 3 and shape[-1] in (3, 4) and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]  # a grey picture saved as colour
    if values.ndim == 3 and shape[-1] in (3, 4) and values.dtype == np.uint8:
        ids = ids_of_colours(values[..., :3], path)
        values = values if ids is None else ids
    if values.ndim > 2:
        single = np.flatnonzero(np.equal(values.shape, 1))[: values.ndim - 2]
        values = values.squeeze(axis=tuple(single.tolist()))
    if values.ndim != 2 or values.size == 0:
        raise InvalidInput(
            f"{path}: a label image has one integer a pixel, this has shape {shape}; "
            "is it a picture or an overlay?"
        )
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InvalidInput(
                f"{path}: labels must be whole numbers, got {values.dtype} with NaN or infinity; "
                "write 0 for background and -1 for what is to be ignored"
            )
        # float64 holds whole numbers exactly up to 2**53
        if not ((values == np.rint(values)).all() and (np.abs(values) <= 2.0**53).all()):
            raise InvalidInput(
                f"{path}: labels must be whole numbers, got {values.dtype} with fractions; "
                "is it a probability map?"
            )
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise InvalidInput(f"{path}: labels must be integers, got {values.dtype}")
    if values.dtype == np.uint64 and values.max() > np.iinfo(np.int64).max:
        raise InvalidInput(f"{path}: labels must be below 2**63")
    return mended(np.asarray(values), path)
