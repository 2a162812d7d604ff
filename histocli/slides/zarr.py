"""Slides in OME-Zarr images (versions 0.4 and 0.5) and plain Zarr arrays."""

import math
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.errors import UnsupportedSlide
from histocli.base.types import RGBImage
from histocli.slides.colours import to_channels_last, to_rgb
from histocli.slides.pixel_size import PixelSize, of_ome_zarr, of_zarr_array
from histocli.slides.slide import (
    LARGEST_SEGMENT_BYTES,
    Level,
    Slide,
    check_memory,
    check_sides,
    decoding,
    pyramid,
)


class ZarrSlide(Slide):
    """An OME-Zarr image, or a plain Zarr array."""

    backend = "zarr"

    def __init__(self, path: Path, given_mpp: float | None = None) -> None:
        super().__init__(path, given_mpp)
        node = _image_node(path)
        self._attributes = ome_attributes(node)
        if isinstance(node, zarr.Array):
            self._arrays, self._axes = [node], _axes_of_array(node)
            return
        multiscales = self._attributes.get("multiscales")
        if not isinstance(node, zarr.Group) or not multiscales:
            raise UnsupportedSlide(
                f"{path}: is a Zarr group without OME-Zarr multiscales; "
                "give an OME-Zarr image or one of its arrays"
            )
        self._arrays = _level_arrays(node, multiscales[0], path)
        axes = multiscales[0].get("axes", [])
        # axes are objects since version 0.4 and plain names before
        names = (str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes)
        guess = "TCZYX"[-self._arrays[0].ndim :]
        self._axes = "".join(name[:1].upper() for name in names) or guess

    def _recorded_pixel_size(self) -> PixelSize | None:
        if multiscales := self._attributes.get("multiscales"):
            return of_ome_zarr(multiscales[0], self.path, self._arrays[0].ndim)
        return of_zarr_array(self._attributes, self.path)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels of the pyramid; an image of floats has level 0 only."""
        shapes = []
        for array in self._arrays:
            named = list(zip(self._axes, array.shape, strict=True))
            check_sides(self.path, [size for axis, size in named if axis in "YX"])
            chunk = math.prod(array.chunks) * array.dtype.itemsize
            # channels, depths and times; a brightfield image has a few at most
            planes = math.prod(size for axis, size in named if axis not in "YX")
            if chunk > LARGEST_SEGMENT_BYTES or planes > 64:
                raise UnsupportedSlide(
                    f"{self.path}: {array.path or 'array'} has shape {array.shape} "
                    f"in chunks of {array.chunks}, {chunk / 1e6:.0f} MB each; "
                    f"more than {LARGEST_SEGMENT_BYTES / 1e6:.0f} MB are not read at once; "
                    "save it in smaller chunks"
                )
            sides = [size for name in "YX" for axis, size in named if axis == name]
            if len(sides) != 2:
                raise UnsupportedSlide(
                    f"{self.path}: axes {self._axes} of shape {array.shape} name no image; "
                    "Y and X are needed"
                )
            shapes.append((sides[0], sides[1]))
        if self._holds_floats:
            return super().levels
        return pyramid(shapes)

    @property
    def _holds_floats(self) -> bool:
        """Whether values are floats; only all of them show whether the range is 0..1 or 0..255."""
        return bool(self._arrays[0].dtype.kind == "f")

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read a region from its chunks; floats are decoded as a whole and kept."""
        if self._holds_floats:
            return super().read(level, rows, columns)
        array = self._arrays[level]
        where = tuple({"Y": rows, "X": columns}.get(axis, slice(None)) for axis in self._axes)
        with decoding(
            self.path,
            f"a chunk of {array.path} between rows {rows.start} and {rows.stop}, "
            f"columns {columns.start} and {columns.stop} cannot be decoded",
            "the store is damaged",
        ):
            values = to_channels_last(np.asarray(array[where]), self._axes, self.path)
        return to_rgb(values, self.path)

    def _decode(self) -> RGBImage:
        array = self._arrays[0]
        check_memory(self.path, int(np.prod(array.shape)) * array.dtype.itemsize)
        values: npt.NDArray[Any] = np.asarray(array[...])
        return to_rgb(to_channels_last(values, self._axes, self.path), self.path)


def ome_attributes(node: Any) -> dict[str, Any]:
    """Return OME-Zarr metadata: the attribute ``ome`` since version 0.5, all attributes before."""
    attributes = dict(node.attrs)
    nested = attributes.get("ome")
    return nested if isinstance(nested, dict) else attributes


def _image_node(path: Path) -> Any:
    """Open the group or array of an image; bioformats2raw stores the image in group ``0``."""
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Group) and "histosynth" in node.attrs:
        record = node.attrs["histosynth"]
        contract = record.get("contract", "?") if isinstance(record, dict) else "?"
        raise UnsupportedSlide(
            f"{path}: is a {contract} store and not an image; give the slide itself"
        )
    if isinstance(node, zarr.Group) and "bioformats2raw.layout" in ome_attributes(node):
        return node["0"]
    return node


def _axes_of_array(array: zarr.Array[Any]) -> str:
    """Guess the axes of an array that does not name them, one letter each."""
    if array.ndim == 2:
        return "YX"
    if array.ndim == 3:
        channels_first = array.shape[0] in (1, 3, 4) and array.shape[-1] not in (3, 4)
        return "SYX" if channels_first else "YXS"
    return "?" * array.ndim


def _level_arrays(group: Any, image: dict[str, Any], path: Path) -> list[zarr.Array[Any]]:
    """Return the arrays of an OME-Zarr image from full resolution down, all of one type."""
    arrays: list[zarr.Array[Any]] = []
    for dataset in image["datasets"]:
        name = str(dataset["path"])
        if name.startswith(("/", "\\")) or ".." in PurePath(name).parts:
            raise UnsupportedSlide(
                f"{path}: its level {name!r} leads out of the store, which is not followed"
            )
        child = group[name]
        if not isinstance(child, zarr.Array):
            raise UnsupportedSlide(
                f"{path}: its level {name} is not an array; the store is damaged"
            )
        if arrays and (child.ndim != arrays[0].ndim or child.dtype != arrays[0].dtype):
            break
        arrays.append(child)
    return arrays
