"""Slides read region by region, whatever stores them, and seen at any pixel size.

::

    open_slide(path) ──> Slide           shape, levels, mpp; ``read`` gives RGB of a region of one level
    ResampledSlide(slide, to_mpp)        the same slide on the grid of another pixel size, region by region

======================================================  =====================================================================
what                                                    back-end
======================================================  =====================================================================
TIFF, BigTIFF, OME-TIFF, SVS (JPEG, JPEG 2000), NDPI    tifffile and imagecodecs: the tiles or strips that a region needs
OME-Zarr 0.4 and 0.5, plain Zarr arrays                 zarr
MRXS, VMS, VMU, SCN, BIF, SVSLIDE, CZI, DICOM           openslide
PNG, JPEG, WebP, BMP, unusual TIFFs                     in memory, by :mod:`histocli.stores.slides`
======================================================  =====================================================================

Label and macro images are never taken for the slide. Nothing is allocated on the word of a file:
declared sizes are checked against what a scan can have before anything of that size is made.

Resampling is locked to the slide's origin: pixel i of the resampled slide covers ``i * to_mpp .. (i
+ 1) * to_mpp`` micrometres from the outer corner of pixel (0, 0), in every region, so regions of
any place and size fit together bit by bit. Shrinking averages areas, from the coarsest level that
is no coarser than what is wanted; enlarging is cubic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from scipy import sparse

from histocli.base.errors import HistosynthError, InputNotFound, UnsupportedSlide
from histocli.base.text import shortened
from histocli.base.types import RGBImage
from histocli.stores import slides as files
from histocli.stores.slides import IMAGE_SUFFIXES, slide_stem

OPENSLIDE_SUFFIXES = (".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi")
SLIDE_SUFFIXES = (*IMAGE_SUFFIXES, ".ndpi", *OPENSLIDE_SUFFIXES)
"""What folders are searched for; a DICOM slide has many files and is named by one of them."""
DICOM_SUFFIX = ".dcm"

LARGEST_SIDE_PX = 1_000_000  # the largest scans have some 300,000
# of one tile, strip or chunk once decoded; real ones have some megabytes
LARGEST_SEGMENT_BYTES = 1 << 28
LARGEST_WHOLE_PX = 1 << 28  # what is not stored in tiles is read at once, up to this
STRIP_PX = 1 << 24  # pixels that are read at a time where a whole level is gone through
# relative: sizes of levels are rounded, so their steps are nearly, not exactly, whole numbers
LEVEL_TOLERANCE = 0.01
# of the interpolation kernel, as OpenCV has it, so that tiles look like the patches of training
CUBIC = -0.75


@dataclass(frozen=True)
class Level:
    """One resolution of a slide."""

    shape: tuple[int, int]
    """Height and width."""
    downsample: float
    """Level-0 pixels along one side of a pixel."""


class Slide(Protocol):
    """A slide that is open; regions may be read from several threads."""

    path: Path
    name: str
    """The path's stem, without double suffixes."""
    backend: str
    """Library that reads it."""
    mpp: float
    mpp_source: str
    levels: tuple[Level, ...]
    """From full resolution down."""

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read a region inside a level, uint8 RGB.

        Raises
        ------
        UnsupportedSlide
            The region is damaged; the message tells where.
        """

    def close(self) -> None:
        """Let go of the file."""


def shape_of(slide: Slide) -> tuple[int, int]:
    """Return height and width at full resolution."""
    return slide.levels[0].shape


def open_slide(path: str | Path, *, mpp: float | None = None, allow_assumed: bool = True) -> Slide:
    """Open a slide or image for reading by regions.

    Parameters
    ----------
    path : path
        A file, or a Zarr folder.
    mpp : float, optional
        The user's micrometres per pixel; wins over what the file records.
    allow_assumed : bool
        As in :func:`histocli.stores.slides.read_image`.

    Raises
    ------
    InputNotFound, UnsupportedSlide, UnknownPixelSize, OutOfResources
        As :func:`histocli.stores.slides.read_image`.
    """
    path = Path(path)
    if path.suffix.lower() in (*OPENSLIDE_SUFFIXES, DICOM_SUFFIX):
        return _open_openslide(path, mpp)
    kind = files.kind_of(path)
    try:
        if kind == "tiff":
            return _open_tiff(path, mpp)
        if kind == "zarr":
            return _ZarrSlide(path, mpp)
        return _MemorySlide(path, mpp, allow_assumed)
    except HistosynthError:
        raise
    except files.DECODING_ERRORS as error:
        raise UnsupportedSlide(
            f"{path}: cannot be read ({shortened(error)}); it is damaged or truncated"
        ) from error


class _MemorySlide:
    """An image that was read at once."""

    backend = "imagecodecs"

    def __init__(
        self,
        path: Path,
        mpp: float | None,
        allow_assumed: bool = True,
        backend: str = "imagecodecs",
    ) -> None:
        image = files.read_image(path, mpp=mpp, allow_assumed=allow_assumed)
        self.path, self.name, self.backend = path, image.name, backend
        self.mpp, self.mpp_source = image.mpp, image.mpp_source
        self._pixels = image.pixels
        self.levels: tuple[Level, ...] = (
            Level((image.pixels.shape[0], image.pixels.shape[1]), 1.0),
        )

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Cut a region out."""
        return self._pixels[rows, columns]

    def close(self) -> None:
        """Free the pixels."""
        self._pixels = np.zeros((0, 0, 3), np.uint8)


def _open_tiff(path: Path, mpp: float | None) -> Slide:
    try:
        tiff = tifffile.TiffFile(path)
    except files.DECODING_ERRORS:
        if openslide_vendor(path) is not None:
            return _open_openslide(path, mpp)
        raise
    try:
        # their tiles overlap, or their areas are apart: openslide puts them together
        if tiff.is_bif or tiff.is_scn:
            tiff.close()
            return _open_openslide(path, mpp)
        if not tiff.series:
            raise UnsupportedSlide(f"{path}: holds no image; it is damaged or truncated")
        series = files.main_series(tiff)
        check_sides(
            path,
            [size for axis, size in zip(series.axes, series.shape, strict=True) if axis in "YX"],
        )
        levels = _tiff_levels(path, tiff, series)
        if levels is None:
            px = math.prod(
                size for axis, size in zip(series.axes, series.shape, strict=True) if axis in "YX"
            )
            if px > LARGEST_WHOLE_PX:
                raise UnsupportedSlide(
                    f"{path}: {px / 1e6:.0f} megapixels that are not stored in tiles cannot be read in parts; save it as "
                    "tiled TIFF"
                )
            tiff.close()
            return _MemorySlide(path, mpp, backend="tifffile")
        return _TiffSlide(path, mpp, tiff, levels)
    except BaseException:
        tiff.close()
        raise


def check_sides(path: Path, sides: Sequence[int]) -> None:
    """Refuse sizes that no scan has."""
    if any(not 0 < side <= LARGEST_SIDE_PX for side in sides):
        raise UnsupportedSlide(
            f"{path}: claims to be {' x '.join(map(str, sides))} pixels large; a side has 1 to {LARGEST_SIDE_PX}; "
            "the file is damaged"
        )


@dataclass(frozen=True)
class _TiffLevel:
    """The pages of one level: one, or one a channel."""

    pages: tuple[Any, ...]
    shape: tuple[int, int]


def _tiff_levels(path: Path, tiff: Any, series: Any) -> list[_TiffLevel] | None:
    """Return the levels of a series that can be read by segments, None where it has to be read at
    once.
    """
    levels = []
    for number, level in enumerate(series.levels):
        pages = [page for page in level.pages if page is not None]
        # what decode needs is on the pages themselves
        pages = [
            page if isinstance(page, tifffile.TiffPage) else tiff.pages[page.index]
            for page in pages
        ]
        axes = "".join(
            axis
            for axis, size in zip(level.axes, level.shape, strict=True)
            if size > 1 or axis in "YX"
        )
        wanted = 1 if len(pages) == 1 else 3
        usable = (
            axes in ("YX", "YXS", "CYX", "SYX")
            and len(pages) == wanted
            and level.dtype in (np.uint8, np.uint16)
            and all(
                page.imagelength > 0 and page.imagewidth > 0 and min(_segment_shape(page)) > 0
                for page in pages
            )
            and all(
                isinstance(page, tifffile.TiffPage) and page.dataoffsets and page.imagedepth == 1
                for page in pages
            )
            and (len(pages) == 1 or all(page.samplesperpixel == 1 for page in pages))
            and math.prod(_segment_shape(pages[0])) * level.dtype.itemsize <= LARGEST_SEGMENT_BYTES
        )
        if not usable:
            if number:
                break
            return None
        end = tiff.filehandle.size
        for page in pages:
            if any(
                offset + count > end
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                raise UnsupportedSlide(
                    f"{path}: is truncated (pixel data should go on after its end at {end} bytes); copy it again"
                )
            tile_rows, tile_columns = (
                -(-side // step)
                for side, step in zip(
                    (page.imagelength, page.imagewidth), _segment_shape(page)[:2], strict=True
                )
            )
            planes = page.samplesperpixel if page.planarconfig == 2 else 1
            if len(page.dataoffsets) < tile_rows * tile_columns * planes:
                raise UnsupportedSlide(
                    f"{path}: lists {len(page.dataoffsets)} of {tile_rows * tile_columns * planes} tiles; it is damaged"
                )
        levels.append(_TiffLevel(tuple(pages), (pages[0].imagelength, pages[0].imagewidth)))
    return levels or None


def _segment_shape(page: Any) -> tuple[int, int, int]:
    """Return height, width and samples of a tile or strip."""
    samples = page.samplesperpixel if page.planarconfig != 2 else 1
    if page.is_tiled:
        return page.tilelength, page.tilewidth, samples
    return min(max(1, page.rowsperstrip), page.imagelength), page.imagewidth, samples


class _TiffSlide:
    """Tiles or strips of a TIFF, decoded where a region needs them."""

    backend = "tifffile"

    def __init__(self, path: Path, mpp: float | None, tiff: Any, levels: list[_TiffLevel]) -> None:
        self.path, self.name = path, slide_stem(path)
        self._tiff, self._levels = tiff, levels
        self._lock = threading.Lock()
        for level in levels:
            files.check_colours(path, level.pages[0])
        recorded = files.tiff_mpp(tiff, path, strict=mpp is None)
        self.mpp, self.mpp_source = files.choose_mpp(
            path, given=mpp, recorded=recorded, may_assume=False
        )
        self._bits = files.tiff_bits(tiff, levels[0].pages[0])
        self.levels = tuple(_levels([level.shape for level in levels]))

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Decode the segments of a region and put them together; what was never stored is white."""
        pages = self._levels[level].pages
        try:
            planes = [self._read_page(page, rows, columns) for page in pages]
            values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
            return files.tiff_to_rgb(
                values, pages[0], self._bits if level == 0 else None, self.path
            )
        except HistosynthError:
            raise
        except files.DECODING_ERRORS as error:
            raise UnsupportedSlide(
                f"{self.path}: a tile between rows {rows.start} and {rows.stop}, columns {columns.start} and "
                f"{columns.stop} of level "
                f"{level} cannot be decoded ({shortened(error)}); the file is damaged, copy it again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()

    def _read_page(self, page: Any, rows: slice, columns: slice) -> npt.NDArray[Any]:
        height, width, _ = _segment_shape(page)
        planar = page.planarconfig == 2 and page.samplesperpixel > 1
        channels = page.samplesperpixel
        # a missing tile is glass: scanners leave out what they did not scan
        empty = (
            0 if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else np.iinfo(page.dtype).max
        )
        region = np.full(
            (rows.stop - rows.start, columns.stop - columns.start, channels), empty, page.dtype
        )
        across = -(-page.imagewidth // width)
        down = -(-page.imagelength // height)
        for plane in range(channels if planar else 1):
            for row in range(rows.start // height, -(-rows.stop // height)):
                for column in range(columns.start // width, -(-columns.stop // width)):
                    index = (plane * down + row) * across + column
                    segment = self._segment(page, index)
                    if segment is None:
                        continue
                    y, x = row * height, column * width
                    top, left = max(y, rows.start), max(x, columns.start)
                    bottom = min(y + segment.shape[0], rows.stop)
                    right = min(x + segment.shape[1], columns.stop)
                    if bottom <= top or right <= left:
                        continue
                    part = segment[top - y : bottom - y, left - x : right - x]
                    target = region[
                        top - rows.start : bottom - rows.start,
                        left - columns.start : right - columns.start,
                    ]
                    if planar:
                        target[..., plane : plane + 1] = part
                    else:
                        target[...] = part
        return region

    def _segment(self, page: Any, index: int) -> npt.NDArray[Any] | None:
        """Decode a tile or strip, shape (height, width, samples); None where nothing was stored."""
        count = page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            handle = page.parent.filehandle
            handle.seek(page.dataoffsets[index])
            data = handle.read(count)
        if len(data) < count:
            raise UnsupportedSlide(f"{self.path}: became shorter while it was read; copy it again")
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        if decoded is None:
            return None
        return np.asarray(decoded[0, : shape[1], : shape[2]])


class _ZarrSlide:
    """An OME-Zarr image or plain array."""

    backend = "zarr"

    def __init__(self, path: Path, mpp: float | None) -> None:
        self.path, self.name = path, slide_stem(path)
        arrays, self._axes, recorded = files.locate_zarr_levels(path, strict=mpp is None)
        for array in arrays:
            sides = [
                size for axis, size in zip(self._axes, array.shape, strict=True) if axis in "YX"
            ]
            check_sides(path, sides)
            others = [
                size for axis, size in zip(self._axes, array.shape, strict=True) if axis not in "YX"
            ]
            chunk = math.prod(array.chunks) * array.dtype.itemsize
            if chunk > LARGEST_SEGMENT_BYTES or math.prod(others) > 64:
                raise UnsupportedSlide(
                    f"{path}: {array.path or 'array'} has shape {array.shape} in chunks of {array.chunks}, "
                    f"{chunk / 1e6:.0f} MB each; "
                    f"more than {LARGEST_SEGMENT_BYTES / 1e6:.0f} MB are not read at once; save it in smaller chunks"
                )
        self.mpp, self.mpp_source = files.choose_mpp(
            path, given=mpp, recorded=recorded, may_assume=False
        )
        self._arrays = arrays
        if arrays[0].dtype.kind == "f":  # what 1.0 means can only be told from all values
            whole = files.read_image(path, mpp=self.mpp).pixels
            self._whole: RGBImage | None = whole
            self._arrays = arrays[:1]
        else:
            self._whole = None
        shapes = [_sides_of(self._axes, array.shape) for array in self._arrays]
        self.levels = tuple(_levels(shapes))

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read the chunks of a region."""
        if self._whole is not None:
            return self._whole[rows, columns]
        array = self._arrays[level]
        where = tuple({"Y": rows, "X": columns}.get(axis, slice(None)) for axis in self._axes)
        try:
            values = files.to_channels_last(np.asarray(array[where]), self._axes, self.path)
        except HistosynthError:
            raise
        except files.DECODING_ERRORS as error:
            raise UnsupportedSlide(
                f"{self.path}: a chunk of {array.path} between rows {rows.start} and {rows.stop}, columns {columns.start} and "
                f"{columns.stop} cannot be decoded ({shortened(error)}); the store is damaged"
            ) from error
        return files.plain_to_rgb(values, self.path)

    def close(self) -> None:
        """Hold nothing."""


def _sides_of(axes: str, shape: Sequence[int]) -> tuple[int, int]:
    sides = [size for name in "YX" for axis, size in zip(axes, shape, strict=True) if axis == name]
    if len(sides) != 2:
        raise UnsupportedSlide(
            f"axes {axes} of shape {tuple(shape)} name no image; Y and X are needed"
        )
    return sides[0], sides[1]


def openslide_vendor(path: Path) -> str | None:
    """Return what openslide takes a file for, None where it does not know it."""
    import openslide  # late: it loads a shared library that few slides need

    try:
        return openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return None


def _open_openslide(path: Path, mpp: float | None) -> Slide:
    if not path.is_file():
        raise InputNotFound(f"{path}: no such slide; check the path")
    if openslide_vendor(path) is None:
        raise UnsupportedSlide(
            f"{path}: is no slide that openslide knows; it is damaged, or files that belong to it are missing"
        )
    return OpenSlideSlide(path, mpp)


class OpenSlideSlide:
    """Any format of openslide."""

    backend = "openslide"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        """Open a file that openslide knows."""
        import openslide

        self.path, self.name = path, slide_stem(path)
        self._errors = (openslide.OpenSlideError, *files.DECODING_ERRORS)
        try:
            self._slide = openslide.OpenSlide(str(path))
        except self._errors as error:
            raise UnsupportedSlide(
                f"{path}: cannot be read ({shortened(error)}); it is damaged or incomplete"
            ) from error
        properties = self._slide.properties
        sides = [files.length_um(properties.get(f"openslide.mpp-{axis}"), "um") for axis in "yx"]
        side = files.square(path, *sides, strict=mpp is None)
        vendor = str(properties.get("openslide.vendor", "openslide"))
        self.mpp, self.mpp_source = files.choose_mpp(
            path, given=mpp, recorded=(side, vendor) if side else None, may_assume=False
        )
        shapes = [(height, width) for width, height in self._slide.level_dimensions]
        for shape in shapes:
            check_sides(path, shape)
        self.levels = tuple(_levels(shapes))

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read a region; what was not scanned is white."""
        step = self.levels[level].downsample
        place = (round(columns.start * step), round(rows.start * step))
        size = (columns.stop - columns.start, rows.stop - rows.start)
        try:
            values = np.asarray(self._slide.read_region(place, level, size))
        except self._errors as error:
            raise UnsupportedSlide(
                f"{self.path}: rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop} of level "
                f"{level} cannot be "
                f"decoded ({shortened(error)}); the file is damaged, copy it again"
            ) from error
        return files.plain_to_rgb(values, self.path)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _levels(shapes: Sequence[tuple[int, int]]) -> Iterator[Level]:
    """Yield levels with their steps; stop at what is no reduction of the first in both directions
    alike.
    """
    height, width = shapes[0]
    before = 0.0
    for shape in shapes:
        steps = height / shape[0], width / shape[1]
        # a side of n pixels is known to half a pixel only
        slack = LEVEL_TOLERANCE + 1 / min(shape)
        if abs(steps[0] / steps[1] - 1) > slack or max(steps) <= before:
            return
        before = steps[0] if height >= width else steps[1]
        whole = round(before)
        yield Level(shape, float(whole) if abs(before / whole - 1) <= min(slack, 0.25) else before)


class ResampledSlide:
    """A slide on the grid of another pixel size.

    Parameters
    ----------
    slide : Slide
    to_mpp : float
        Micrometres per pixel that are wanted.
    same_mpp : float
        Relative difference below which pixels are passed on as they are.
    change : callable, optional
        Applied to every region, pixel by pixel, such as a correction of brightness.
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
        """Level-0 pixels along a side of a pixel."""
        self.shape = (
            shape_of(slide)
            if self.ratio == 1
            else files.resampled_shape(shape_of(slide), slide.mpp, self.mpp)
        )
        self.change = change
        fitting = [
            number
            for number, level in enumerate(slide.levels)
            if level.downsample <= self.ratio * (1 + same_mpp + 1e-9)
        ]
        self.level = max(fitting, default=0)

    def with_change(self, change: Callable[[RGBImage], RGBImage]) -> ResampledSlide:
        """Return the same view with a change of its pixels."""
        view = object.__new__(ResampledSlide)
        view.__dict__.update(self.__dict__)
        view.change = change
        return view

    def read(self, rows: slice, columns: slice) -> RGBImage:
        """Read a region inside ``shape``.

        Returns
        -------
        ndarray of uint8, shape (rows, columns, 3)
        """
        level = self.slide.levels[self.level]
        ratio = self.ratio / level.downsample
        if abs(ratio - 1) < 1e-9:
            image = self.slide.read(self.level, rows, columns)
            return image if self.change is None else self.change(image)
        weights = [
            taps(side, ratio, length)
            for side, length in zip((rows, columns), level.shape, strict=True)
        ]
        (down, seen_rows), (across, seen_columns) = weights
        image = self.slide.read(self.level, seen_rows, seen_columns)
        image = apply_taps(image, down, across)
        return image if self.change is None else self.change(image)

    def close(self) -> None:
        """Close the slide."""
        self.slide.close()


def taps(window: slice, ratio: float, length: int) -> tuple[sparse.csr_array, slice]:
    """Return how output pixels are mixed from input pixels along one axis.

    Parameters
    ----------
    window : slice
        Output pixels.
    ratio : float
        Input pixels along an output pixel; above 1 shrinks.
    length : int
        Input pixels that there are; the last one goes on for ever.

    Returns
    -------
    weights : sparse array of float32, shape (output pixels, input pixels of ``seen``)
        Rows sum to 1. They depend on the output pixel only, not on the window.
    seen : slice
        Input pixels that are needed.
    """
    place = np.arange(window.start, window.stop, dtype=np.float64)
    if ratio > 1:
        start, stop = place * ratio, (place + 1) * ratio
        first = np.floor(start + 1e-9).astype(np.int64)
        offsets = np.arange(math.ceil(ratio) + 1)
        index = first[:, None] + offsets
        weight = np.minimum(index + 1, stop[:, None]) - np.maximum(index, start[:, None])
        weight = np.where(weight > 1e-6, weight, 0)
    else:
        centre = (place + 0.5) * ratio - 0.5
        first = np.floor(centre).astype(np.int64)
        index = first[:, None] + np.arange(-1, 3)
        distance = np.abs(centre[:, None] - index)
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, length - 1)
    used = index[weight != 0]
    seen = slice(int(used.min()), int(used.max()) + 1)
    index = np.clip(index, seen.start, seen.stop - 1) - seen.start
    rows = np.repeat(np.arange(len(place)), index.shape[1])
    pointer = np.arange(len(place) + 1) * index.shape[1]
    shape = (len(place), seen.stop - seen.start)
    assert len(rows) == pointer[-1]
    return sparse.csr_array(
        (weight.ravel().astype(np.float32), index.ravel(), pointer), shape=shape
    ), seen


def apply_taps(image: RGBImage, down: sparse.csr_array, across: sparse.csr_array) -> RGBImage:
    """Mix the pixels of an image along both axes and round them, uint8."""
    height, width, channels = image.shape
    mixed = down @ image.reshape(height, width * channels).astype(np.float32)
    turned = np.ascontiguousarray(mixed.reshape(-1, width, channels).transpose(1, 0, 2)).reshape(
        width, -1
    )
    mixed = (across @ turned).reshape(across.shape[0], -1, channels)
    np.clip(np.rint(mixed, out=mixed), 0, 255, out=mixed)
    return np.ascontiguousarray(mixed.astype(np.uint8).transpose(1, 0, 2))


def shrunk(slide: Slide, factor: int, shrink: Callable[[RGBImage, int], RGBImage]) -> RGBImage:
    """Return the whole slide with blocks of ``factor`` by ``factor`` pixels averaged, a strip at a
    time.

    Parameters
    ----------
    slide : Slide
    factor : int
        A power of two.
    shrink : callable
        Averages blocks of an image and fills up the last ones.

    Returns
    -------
    ndarray of uint8, shape (ceil(H / factor), ceil(W / factor), 3)
    """
    height, width = (-(-side // factor) for side in shape_of(slide))
    fitting = [
        (number, round(level.downsample))
        for number, level in enumerate(slide.levels)
        if level.downsample == round(level.downsample)
        and level.downsample <= factor
        and factor % round(level.downsample) == 0
    ]
    number, step = fitting[-1]
    level = slide.levels[number]
    rest = factor // step
    image = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PX // max(1, level.shape[1] * rest))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        # a level that was cut where its last pixel is not whole goes on with that pixel
        wanted = slice(
            min(start * rest, level.shape[0] - 1), max(min(stop * rest, level.shape[0]), 1)
        )
        strip = shrink(slide.read(number, wanted, slice(0, level.shape[1])), rest)
        down, right = stop - start - strip.shape[0], width - strip.shape[1]
        strip = strip[: stop - start, :width]
        image[start:stop] = cv2.copyMakeBorder(
            strip, 0, max(0, down), 0, max(0, right), cv2.BORDER_REPLICATE
        )
    return image


def describe(slide: Slide) -> dict[str, Any]:
    """Return what is known about a slide without decoding its pixels, JSON values."""
    height, width = shape_of(slide)
    return {
        "backend": slide.backend,
        "height_px": height,
        "width_px": width,
        "megapixels": round(height * width / 1e6, 2),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "mm2": round(height * width * slide.mpp**2 / 1e6, 4),
        "levels": [
            {
                "height_px": level.shape[0],
                "width_px": level.shape[1],
                "downsample": round(level.downsample, 4),
                "mpp": round(slide.mpp * level.downsample, 5),
            }
            for level in slide.levels
        ],
    }


__all__ = [
    "Level",
    "OpenSlideSlide",
    "ResampledSlide",
    "Slide",
    "describe",
    "open_slide",
    "shape_of",
    "shrunk",
]
