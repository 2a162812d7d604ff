"""TIFF, BigTIFF, OME-TIFF, SVS and NDPI slides, read by tifffile.

A region is joined from the tiles or strips (segments) that it needs. A file without usable segments
is decoded as a whole and kept in memory. Photographs of the glass or of its label, which slide
files also hold, are ignored. TIFFs of Ventana (overlapping tiles) and Leica (separate areas) are
read by openslide.
"""

import logging
import math
import re
import threading
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile

from histocli.base.errors import UnsupportedSlide
from histocli.base.types import RGBImage
from histocli.slides.colours import Colours, to_channels_last, to_rgb
from histocli.slides.openslide import OpenSlideSlide, openslide_vendor
from histocli.slides.pixel_size import (
    PixelSize,
    first_known,
    of_aperio,
    of_ome_xml,
    of_philips,
    of_resolution_tags,
)
from histocli.slides.slide import (
    DECODING_ERRORS,
    LARGEST_SEGMENT_BYTES,
    Level,
    Slide,
    check_memory,
    check_sides,
    decoding,
    pyramid,
)

logger = logging.getLogger(__name__)

LARGEST_WHOLE_PX = 1 << 28  # most pixels of a file that is decoded as a whole (268 million)

BESIDE_THE_SLIDE = re.compile(r"\b(label|macro|thumbnail|overview|barcode)\b", re.IGNORECASE)
"""Names of pictures that files hold beside the slide."""
MUCH_SMALLER = 4  # a first image of fewer than one of so many pixels of the largest is no slide
ORIENTATION = 274
"""Tag of the way in which the picture is to be turned; 1: upright."""

Pages: TypeAlias = tuple[Any, ...]
"""The TIFF pages of one level: one page, or one for each channel."""


class Segments(NamedTuple):
    """The tiles or strips of one level, and how their values encode colours."""

    pages: Pages
    colours: Colours


def refuse_loops(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise ``UnsupportedSlide`` if a page of a file follows itself; tifffile would read for ever.

    Call it before ``tiff.series``.
    """
    seen: set[int] = set()
    for page in tiff.pages:
        if page.offset in seen:
            raise UnsupportedSlide(f"{path}: its pages follow each other in a ring; it is damaged")
        seen.add(page.offset)


def open_tiff(path: Path, given_mpp: float | None = None) -> Slide:
    """Open a TIFF by tifffile; by openslide if it is Ventana's, Leica's or unknown to tifffile."""
    try:
        tiff = tifffile.TiffFile(path)
    except DECODING_ERRORS:
        if openslide_vendor(path) is not None:
            return OpenSlideSlide(path, given_mpp)
        raise
    try:
        refuse_loops(tiff, path)
        if not (tiff.is_bif or tiff.is_scn):
            return TiffSlide(path, given_mpp, tiff=tiff)
    except BaseException:
        tiff.close()
        raise
    tiff.close()
    return OpenSlideSlide(path, given_mpp)


def _slide_among(series: list[Any], slide_first: bool) -> Any:
    """Return the series that is the slide, not its label, its overview or a picture of the glass.

    ``slide_first`` tells that the format puts the slide first, as OME-TIFF and SVS do; some of
    their writers put a small picture before it.
    """
    # XML describes all images of a file at once
    about = [each.keyframe.description[:200] for each in series]
    named = [
        each.name if text.startswith("<") else f"{each.name} {text}"
        for each, text in zip(series, about, strict=True)
    ]
    wanted = [
        each for each, name in zip(series, named, strict=True) if not BESIDE_THE_SLIDE.search(name)
    ]
    wanted = wanted or series
    size = [int(np.prod(each.shape)) for each in wanted]
    largest = int(np.argmax(size))
    if slide_first and size[0] * MUCH_SMALLER >= size[largest]:
        return wanted[0]
    return wanted[largest]


class TiffSlide(Slide):
    """The slide in a TIFF: one series, which is one image with all its levels."""

    backend = "tifffile"

    def __init__(
        self, path: Path, given_mpp: float | None = None, *, tiff: tifffile.TiffFile
    ) -> None:
        super().__init__(path, given_mpp)
        self._tiff: Any = tiff
        self._lock = threading.Lock()
        if not tiff.series:
            raise UnsupportedSlide(f"{path}: holds no image; it is damaged or truncated")
        self._series: Any = _slide_among(list(tiff.series), bool(tiff.is_ome or tiff.is_svs))
        self._say_what_is_not_applied()

    def _say_what_is_not_applied(self) -> None:
        orientation = self._series.keyframe.tags.valueof(ORIENTATION, 1)
        if orientation in range(2, 9):
            text = "%s: its orientation (%d) is not applied: rows and columns are those of the file"
            logger.warning(text, self.path, orientation)

    @cached_property
    def _ome_pixels(self) -> dict[str, str]:
        """The attributes of the first Pixels element of the OME-XML; empty where there is none."""
        if not self._tiff.is_ome:
            return {}
        try:
            root = ElementTree.fromstring(self._tiff.ome_metadata or "")
        except ElementTree.ParseError:
            return {}
        elements = (element for element in root.iter() if element.tag.endswith("}Pixels"))
        return next((dict(element.attrib) for element in elements), {})

    def _recorded_pixel_size(self) -> PixelSize | None:
        page = self._series.keyframe
        imagej = (self._tiff.imagej_metadata or {}) if self._tiff.is_imagej else {}
        description = page.description or ""
        sizes = (
            of_ome_xml(self._ome_pixels, self.path),
            of_aperio(description, self.path),
            of_philips(description, self.path),
            of_resolution_tags(page, self.path, str(imagej.get("unit", ""))),
        )
        return first_known(sizes, self.path)

    @cached_property
    def _bits(self) -> int | None:
        """Significant bits of integers; None where all bits of their type are used."""
        page = self._series.keyframe
        recorded = self._ome_pixels.get("SignificantBits", "")
        bits = int(recorded) if recorded.isdigit() else page.bitspersample
        return bits if isinstance(bits, int) and 1 < bits < 8 * page.dtype.itemsize else None

    @cached_property
    def _segmented(self) -> list[Segments]:
        """The levels that can be read by segments, up to the first that cannot."""
        levels: list[Segments] = []
        for level in self._series.levels:
            pages = tuple(
                # frames lack the tags that decoding needs; full pages have them
                page if isinstance(page, tifffile.TiffPage) else page.aspage()
                for page in level.pages
                if page is not None
            )
            if not _readable_by_segments(level, pages):
                break
            self._check_segments(pages)
            # reduced levels have the bits of level 0 if their values do
            levels.append(Segments(pages, colours_of(self.path, pages[0], self._bits)))
        return levels

    def _check_segments(self, pages: Pages) -> None:
        """Refuse pages that do not list all their segments, or whose data the file lacks."""
        self._check_end(pages)
        for page in pages:
            height, width, _ = segment_shape(page)
            n_planes = page.samplesperpixel if page.planarconfig == 2 else 1
            wanted = -(-page.imagelength // height) * -(-page.imagewidth // width) * n_planes
            if len(page.dataoffsets) < wanted:
                raise UnsupportedSlide(
                    f"{self.path}: lists {len(page.dataoffsets)} of {wanted} tiles; it is damaged"
                )

    def _check_end(self, pages: Pages) -> None:
        """Refuse pages with data beyond the end of the file, which is then truncated."""
        end = self._tiff.filehandle.size
        for page in pages:
            if any(
                offset + count > end
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ):
                raise UnsupportedSlide(
                    f"{self.path}: is truncated "
                    f"(pixel data should go on after its end at {end} bytes); copy it again"
                )

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that can be read by segments, else full resolution only."""
        named = zip(self._series.axes, self._series.shape, strict=True)
        sides = [size for axis, size in named if axis in "YX"]
        check_sides(self.path, sides)
        if not self._segmented:
            if (px := math.prod(sides)) > LARGEST_WHOLE_PX:
                # tiled files that cannot be read by segments end here too
                raise UnsupportedSlide(
                    f"{self.path}: {px / 1e6:.0f} megapixels that are not stored in tiles "
                    "cannot be read in parts; save it as tiled TIFF"
                )
            return super().levels
        firsts = (level.pages[0] for level in self._segmented)
        return pyramid([(page.imagelength, page.imagewidth) for page in firsts])

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Decode the segments of a region and join them.

        Segments that are not stored are white, except with a palette.
        """
        if not self._segmented:
            return super().read(level, rows, columns)
        pages, colours = self._segmented[level]
        with decoding(
            self.path,
            f"a tile between rows {rows.start} and {rows.stop}, "
            f"columns {columns.start} and {columns.stop} of level {level} cannot be decoded",
            "the file is damaged, copy it again",
        ):
            parts = [self._read_page(page, rows, columns) for page in pages]
            values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            if values.shape[2] == 1:
                values = values[..., 0]
            return to_rgb(values, self.path, colours)

    def _decode(self) -> RGBImage:
        series, page = self._series, self._series.keyframe
        check_memory(self.path, int(np.prod(series.shape)) * series.dtype.itemsize)
        self._check_end(tuple(part for part in series.pages if part is not None))
        colours = colours_of(self.path, page, self._bits)
        values = to_channels_last(series.asarray(), series.axes, self.path)
        return to_rgb(values, self.path, colours)

    def _read_page(self, page: Any, rows: slice, columns: slice) -> npt.NDArray[Any]:
        height, width, samples = segment_shape(page)
        channels = page.samplesperpixel
        # scanners leave out areas without tissue: missing segments get the largest value, or 0 if
        # inverted, which is white like glass except with a palette
        is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        empty = 0 if is_inverted else np.iinfo(page.dtype).max
        size = rows.stop - rows.start, columns.stop - columns.start, channels
        region = np.full(size, empty, page.dtype)
        down, across = -(-page.imagelength // height), -(-page.imagewidth // width)
        for plane, row, column in product(
            range(channels // samples),
            range(rows.start // height, -(-rows.stop // height)),
            range(columns.start // width, -(-columns.stop // width)),
        ):
            segment = self._segment(page, (plane * down + row) * across + column)
            if segment is not None:
                # first row and column of the segment, counted from the region; may be negative
                y, x = row * height - rows.start, column * width - columns.start
                part = segment[max(-y, 0) : size[0] - y, max(-x, 0) : size[1] - x]
                target = region[max(y, 0) :, max(x, 0) :, plane * samples :]
                target[: part.shape[0], : part.shape[1], :samples] = part
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

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._tiff.close()


def segment_shape(page: Any) -> tuple[int, int, int]:
    """Return height, width and samples (channels) of a segment of a page."""
    samples = page.samplesperpixel if page.planarconfig != 2 else 1
    if page.is_tiled:
        return page.tilelength, page.tilewidth, samples
    return min(max(1, page.rowsperstrip), page.imagelength), page.imagewidth, samples


def _readable_by_segments(level: Any, pages: Pages) -> bool:
    """Tell whether regions of a level can be joined from its segments.

    They can if values have 8 or 16 bits, grey or colour, on one page or on one page for each of
    three channels, and no segment is larger than ``LARGEST_SEGMENT_BYTES``.
    """
    named = zip(level.axes, level.shape, strict=True)
    axes = "".join(axis for axis, size in named if size > 1 or axis in "YX")
    return (
        axes in ("YX", "YXS", "CYX", "SYX")
        and len(pages) in (1, 3)
        and level.dtype in (np.uint8, np.uint16)
        and all(
            isinstance(page, tifffile.TiffPage)
            and page.imagelength > 0
            and page.imagewidth > 0
            and min(segment_shape(page)) > 0
            and page.dataoffsets
            and page.imagedepth == 1
            for page in pages
        )
        and (len(pages) == 1 or all(page.samplesperpixel == 1 for page in pages))
        and math.prod(segment_shape(pages[0])) * level.dtype.itemsize <= LARGEST_SEGMENT_BYTES
    )


def colours_of(path: Path, page: Any, bits: int | None) -> Colours:
    """Return how the values of a TIFF page, with ``bits`` significant bits, encode colours."""
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    known = {"MINISBLACK", "MINISWHITE", "RGB", "PALETTE"}
    # decoders that turn YCbCr into RGB: old JPEG, JPEG, Aperio's JPEG 2000 (YCbCr and RGB),
    # alternative JPEG, lossy JPEG
    if page.compression in (6, 7, 33003, 33005, 33007, 34892):
        known.add("YCBCR")
    if photometric not in known:
        raise UnsupportedSlide(f"{path}: has {photometric} colours; convert it to RGB")
    # 0: an extra channel of unknown meaning, not opacity; 1: colours were multiplied by opacity
    extra = int(page.extrasamples[-1]) if page.extrasamples else None
    return Colours(
        bits=bits,
        premultiplied=extra == 1,
        opaque=extra == 0,
        inverted=photometric == "MINISWHITE",
        # Aperio's codec 33003 stores brightness and colour differences, whatever the tags say
        luma_chroma=page.compression == 33003,
        palette=page.colormap if photometric == "PALETTE" else None,
    )
