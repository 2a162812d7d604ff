"""Slides in OME-Zarr images (versions 0.4 and 0.5) and plain Zarr arrays, also in a zip file.

A store may hold several images, as the plates and series of bioformats2raw do. An image in a store
is named by its path, such as ``plate.zarr/A/1/0``.
"""

import logging
import math
import re
import zipfile
from collections.abc import Iterator
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

logger = logging.getLogger(__name__)

METADATA = ("zarr.json", ".zgroup", ".zarray")
"""Files that a Zarr group or array has, of format 3 and 2."""
MOST_OF_OVERVIEW = 50_000_000  # numbers of a level that are read to look at its last channel
FLUORESCENCE = re.compile(
    r"dapi|hoechst|fitc|tritc|cy[357]|alexa|gfp|rfp|yfp|mcherry|texas|draq|rhodamine|cd\d+", re.I
)
"""Names of channels of fluorescence microscopes."""


class ZarrSlide(Slide):
    """An OME-Zarr image, or a plain Zarr array."""

    backend = "zarr"

    def __init__(self, path: Path, given_mpp: float | None = None) -> None:
        super().__init__(path, given_mpp)
        node = _image_node(path)
        self._node = node
        self._attributes = ome_attributes(node)
        if isinstance(node, zarr.Array):
            self._arrays, self._axes = [node], _axes_of_array(node)
            self._attributes |= _of_level(path)
            return
        multiscales = self._attributes.get("multiscales")
        if not isinstance(node, zarr.Group) or not multiscales:
            raise UnsupportedSlide(_without_image(node, path))
        self._arrays = _level_arrays(node, multiscales[0], path)
        axes = multiscales[0].get("axes", [])
        # axes are objects since version 0.4 and plain names before
        names = (str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes)
        guess = "TCZYX"[-self._arrays[0].ndim :]
        self._axes = "".join(name[:1].upper() for name in names) or guess
        self._check_channels()

    def _check_channels(self) -> None:
        """Raise ``UnsupportedSlide`` for the channels of a fluorescence microscope."""
        shape = dict(zip(self._axes, self._arrays[0].shape, strict=False))
        count = shape.get("C", 1)
        omero = self._attributes.get("omero")
        listed = omero.get("channels") if isinstance(omero, dict) else None
        names = [
            str(each.get("label", "")) if isinstance(each, dict) else str(each)
            for each in (listed if isinstance(listed, list) else [])
        ]
        coloured = bool(names) and all(FLUORESCENCE.search(name) for name in names)
        if count in (1, 3, 4) and not coloured and not (count == 4 and self._is_no_opacity()):
            return
        shown = f" ({', '.join(names[:6])})" if any(names) else ""
        raise UnsupportedSlide(
            f"{self.path}: has {count} channels{shown}, as images of fluorescence; bright-field "
            "images have 1 (grey), 3 (RGB) or 4 (RGB and opacity)"
        )

    def _is_no_opacity(self) -> bool:
        """Tell whether the last of four channels shows something, in the coarsest level."""
        array = self._arrays[-1]
        if array.dtype.kind != "u" or math.prod(array.shape) > MOST_OF_OVERVIEW:
            return array.dtype.kind != "u"
        where = tuple(3 if axis == "C" else slice(None) for axis in self._axes)
        last = np.asarray(array[where])
        ends = (last == 0) | (last == np.iinfo(array.dtype).max)
        return bool(ends.mean() < 0.5 and last.min() != last.max())

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
    """Open the group or array of an image; bioformats2raw stores the first image in group ``0``."""
    node: Any = _opened(path)
    if isinstance(node, zarr.Group) and "histosynth" in node.attrs:
        record = node.attrs["histosynth"]
        contract = record.get("contract", "?") if isinstance(record, dict) else "?"
        raise UnsupportedSlide(
            f"{path}: is a {contract} store and not an image; give the slide itself"
        )
    if isinstance(node, zarr.Group) and "bioformats2raw.layout" in ome_attributes(node):
        several = list(_images_in(node))
        if len(several) > 1:
            logger.warning("%s: holds %d images; the first is read; name another one as %s/%s",
                           path, len(several), path, several[1])  # fmt: skip
        return node["0"]
    return node


def _opened(path: Path) -> Any:
    """Open a store, for reading only; in a zip file it may lie in a folder."""
    if path.is_dir():
        return zarr.open(str(path), mode="r")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePath(name) for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise UnsupportedSlide(
            f"{path}: is a damaged or truncated zip file; copy it again"
        ) from error
    found = [name for name in names if name.name in METADATA]
    if not found:
        raise UnsupportedSlide(
            f"{path}: is a zip file without Zarr metadata; those with an OME-Zarr image are read"
        )
    top = min(found, key=lambda name: len(name.parts)).parent
    return zarr.open(
        zarr.storage.ZipStore(path, mode="r"), path=top.as_posix().strip("."), mode="r"
    )


def _images_in(group: Any, depth: int = 3) -> Iterator[str]:
    """Yield the paths of the images in a group and, up to a depth, in the groups below it."""
    for name, child in sorted(group.groups()):
        if "multiscales" in ome_attributes(child):
            yield name
        elif depth > 1:
            yield from (f"{name}/{below}" for below in _images_in(child, depth - 1))


def _without_image(node: Any, path: Path) -> str:
    """Return the message for a store whose top is no image."""
    images = list(_images_in(node)) if isinstance(node, zarr.Group) else []
    if images:
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        return (
            f"{path}: holds images ({', '.join(images[:5])}{more}) and is none itself; "
            f"name one of them, such as {path}/{images[0]}"
        )
    return (
        f"{path}: is a Zarr group without OME-Zarr multiscales; "
        "give an OME-Zarr image or one of its arrays"
    )


def _of_level(path: Path) -> dict[str, Any]:
    """Return the metadata of an array that is a level of the image around it; else nothing."""
    for above in list(path.parents)[:2]:
        if not any((above / name).is_file() for name in METADATA):
            continue
        name = path.relative_to(above).as_posix()
        for image in ome_attributes(zarr.open(str(above), mode="r")).get("multiscales") or []:
            own = [each for each in image.get("datasets", []) if each.get("path") == name]
            if own:
                return {"multiscales": [{**image, "datasets": own}]}
    return {}


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
