"""The base class of slides: pixels read as a whole or by regions, at the levels of a pyramid.

The levels show one image, each coarser than the one before; level 0 has full resolution. Pixel
(0, 0) of a level is the upper left one; its outer corner is the same point in all levels.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

import psutil

from histocli.base.errors import HistosynthError, OutOfResources, UnknownPixelSize, UnsupportedSlide
from histocli.base.text import shortened
from histocli.base.types import RGBImage
from histocli.base.units import ASSUMED_MPP, MPP_RANGE
from histocli.slides.pixel_size import PixelSize

DOUBLE_SUFFIXES = (
    ".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr", ".ome.zarr.zip", ".zarr.zip",
)  # fmt: skip
LARGEST_SIDE_PX = 1_000_000  # the largest scans have some 300,000
# A tile, strip or chunk of more bytes is not decoded for a region; usual ones have a few megabytes.
LARGEST_SEGMENT_BYTES = 1 << 28
MEMORY_SHARE = 0.8  # the part of the free memory that the pixels of one image may take
STRIP_PX = 1 << 24  # pixels per strip where a whole level is read strip by strip

DECODING_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, EOFError, struct.error, zlib.error),
)
"""Errors of decoders over a damaged or foreign file; any other is a bug of this package."""
UNUSUAL = "it is damaged, truncated or of an unusual kind; save it anew as TIFF or PNG"


@dataclass(frozen=True)
class Level:
    """One resolution of a slide."""

    shape: tuple[int, int]
    """Height and width, in pixels."""
    downsample: float
    """Side of a pixel of this level, in level-0 pixels."""


class Slide(ABC):
    """An open slide, whose levels, pixel size and pixels are checked when they are asked for.

    Regions may be read from several threads. A pixel size that the user gives replaces the one that
    the file records.
    """

    backend: str
    """Name of the library that reads the file."""
    may_assume_mpp = False
    """Whether ``ASSUMED_MPP`` is used if no pixel size is given: for kinds that record none."""

    origin: tuple[int, int] = (0, 0)
    """Column and row of the pixel from which QuPath counts: it shows only the scanned part of some
    slides. All coordinates of this package count from the first pixel of the whole slide."""

    def __init__(self, path: Path, given_mpp: float | None = None) -> None:
        self.path = path
        self._given_mpp = given_mpp

    @cached_property
    def pixel_size(self) -> PixelSize:
        """Micrometres per pixel of level 0, and the source of this number."""
        if self._given_mpp is not None:
            return PixelSize(float(self._given_mpp), "given")
        if (recorded := self._recorded_pixel_size()) is not None:
            return recorded
        if self.may_assume_mpp:
            return PixelSize(ASSUMED_MPP, "assumed")
        low, high = MPP_RANGE
        raise UnknownPixelSize(
            f"{self.path}: records no usable pixel size (between {low} and {high} um/px); "
            "give it with --mpp, for example --mpp 0.25 for a 40x scan"
        )

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of level 0."""
        return self.pixel_size.mpp

    @property
    def mpp_source(self) -> str:
        """Where ``mpp`` comes from."""
        return self.pixel_size.source

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The resolutions that can be read, from full resolution down."""
        height, width, _ = self._pixels.shape
        return (Level((height, width), 1.0),)

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read a region inside a level; ``UnsupportedSlide`` says where the file is damaged."""
        return self._pixels[rows, columns]

    def whole(self) -> RGBImage:
        """Read all pixels of level 0; ``OutOfResources`` where they do not fit in memory."""
        try:
            with decoding(self.path, "cannot be decoded", UNUSUAL):
                return self._decode()
        except MemoryError as error:
            raise OutOfResources(
                f"{self.path}: not enough memory for its pixels; give smaller images"
            ) from error

    def close(self) -> None:
        """Free kept pixels; subclasses with an open file also close it."""
        self.__dict__.pop("_pixels", None)

    @cached_property
    def _pixels(self) -> RGBImage:
        """All pixels, kept in memory for files that can only be decoded as a whole."""
        return self.whole()

    @abstractmethod
    def _decode(self) -> RGBImage:
        """Read all pixels of level 0; any of ``DECODING_ERRORS`` may be raised."""

    def _recorded_pixel_size(self) -> PixelSize | None:
        """Return the pixel size that the file records."""
        return None


@contextmanager
def decoding(
    path: Path, trouble: str, remedy: str, errors: tuple[type[Exception], ...] = DECODING_ERRORS
) -> Iterator[None]:
    """Turn ``errors`` into ``UnsupportedSlide``; its message has trouble, cause and remedy."""
    try:
        yield
    except HistosynthError:
        raise
    except errors as error:
        raise UnsupportedSlide(f"{path}: {trouble} ({shortened(error)}); {remedy}") from error


def slide_stem(path: str | PurePath) -> str:
    """Return the name of a slide without its suffix or double suffix, such as ``.ome.tif``.

    An image in a store, such as ``plate.zarr/A/1/0``, is called ``plate_A_1_0``.
    """
    path = PurePath(path)
    name = path.name
    store = next((each for each in path.parents if each.suffix.lower() == ".zarr"), None)
    if store is not None and "labels" not in path.parts:
        return "_".join((slide_stem(store), *path.relative_to(store).parts))
    for suffix in DOUBLE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return PurePath(name).stem


def shape_of(slide: Slide) -> tuple[int, int]:
    """Return height and width at full resolution."""
    return slide.levels[0].shape


def pyramid(shapes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Return levels, up to one that is shrunk unevenly or no more than the level before."""
    height, width = shapes[0]
    levels: list[Level] = []
    before = 0.0
    for shape in shapes:
        steps = height / shape[0], width / shape[1]
        # sides are rounded to whole pixels: allow one pixel of the shorter side, and 1 %
        slack = 0.01 + 1 / min(shape)
        if abs(steps[0] / steps[1] - 1) > slack or max(steps) <= before:
            break
        before = steps[0] if height >= width else steps[1]
        whole = float(round(before))  # taken for the downsample if it is near enough
        levels.append(
            Level(shape, whole if abs(before / whole - 1) <= min(slack, 0.25) else before)
        )
    return tuple(levels)


def check_sides(path: Path, sides: Sequence[int]) -> None:
    """Refuse sides that no scan has, before memory for them is allocated."""
    if any(not 0 < side <= LARGEST_SIDE_PX for side in sides):
        raise UnsupportedSlide(
            f"{path}: claims to be {' x '.join(map(str, sides))} pixels large; "
            f"a side has 1 to {LARGEST_SIDE_PX}; the file is damaged"
        )


def check_memory(path: Path, n_bytes: int) -> None:
    """Raise ``OutOfResources`` for more bytes than ``MEMORY_SHARE`` of the free memory."""
    free = psutil.virtual_memory().available
    if n_bytes > MEMORY_SHARE * free:
        raise OutOfResources(
            f"{path}: its pixels take {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB "
            "of memory are free; images must fit in memory: give a region of it, or a coarser copy"
        )
