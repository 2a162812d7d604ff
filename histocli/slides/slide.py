"""What a slide is: pixels that are read as a whole or by regions, at the levels of a pyramid.

Pixel (0, 0) of a level is the upper left one, and all levels share its outer corner.
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

DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr")
LARGEST_SIDE_PX = 1_000_000  # the largest scans have some 300,000
# A tile, strip or chunk of more bytes is not decoded for a region; real ones have some megabytes.
LARGEST_SEGMENT_BYTES = 1 << 28
MEMORY_SHARE = 0.8  # the part of the free memory that the pixels of one image may take
STRIP_PX = 1 << 24  # pixels that are read at a time where a whole level is gone through

DECODING_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(OSError, EOFError, struct.error, zlib.error),
)
"""What decoders raise on a damaged or foreign file; anything else is a bug of ours."""
UNUSUAL = "it is damaged, truncated or of an unusual kind; save it anew as TIFF or PNG"


@dataclass(frozen=True)
class Level:
    """One resolution of a slide."""

    shape: tuple[int, int]
    """Height and width, in pixels."""
    downsample: float
    """Level-0 pixels along one side of a pixel."""


class Slide(ABC):
    """A slide that is open. Nothing of its file is judged before it is asked for.

    Regions may be read from several threads. The micrometres per pixel that the user gives win over
    those that the file records.
    """

    backend: str
    """Library that reads it."""
    may_assume_mpp = False
    """Whether files of this kind record no pixel size, so that one may be assumed."""

    def __init__(self, path: Path, given_mpp: float | None = None) -> None:
        self.path = path
        self._given_mpp = given_mpp

    @cached_property
    def pixel_size(self) -> PixelSize:
        """Micrometres per pixel of level 0, and where they come from."""
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
        """Read a region inside a level; ``UnsupportedSlide`` tells where it is damaged."""
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
        """Let go of the file."""
        self.__dict__.pop("_pixels", None)

    @cached_property
    def _pixels(self) -> RGBImage:
        """All pixels, kept for files of which regions cannot be read by themselves."""
        return self.whole()

    @abstractmethod
    def _decode(self) -> RGBImage:
        """Read all pixels of level 0; any of ``DECODING_ERRORS`` may come out."""

    def _recorded_pixel_size(self) -> PixelSize | None:
        """Return the pixel size that the file records."""
        return None


@contextmanager
def decoding(
    path: Path, trouble: str, remedy: str, errors: tuple[type[Exception], ...] = DECODING_ERRORS
) -> Iterator[None]:
    """Turn what decoders raise into ``UnsupportedSlide``: the trouble, the cause and the remedy."""
    try:
        yield
    except HistosynthError:
        raise
    except errors as error:
        raise UnsupportedSlide(f"{path}: {trouble} ({shortened(error)}); {remedy}") from error


def slide_stem(path: str | PurePath) -> str:
    """Return the name of a slide without its suffix; ``.ome.tif`` and its like go as a whole."""
    name = PurePath(path).name
    for suffix in DOUBLE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return PurePath(name).stem


def shape_of(slide: Slide) -> tuple[int, int]:
    """Return height and width at full resolution."""
    return slide.levels[0].shape


def pyramid(shapes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Return levels with their steps, up to one that is no even reduction of the first."""
    height, width = shapes[0]
    levels: list[Level] = []
    before = 0.0
    for shape in shapes:
        steps = height / shape[0], width / shape[1]
        # sizes are rounded: a side of n pixels is known to half a pixel only
        slack = 0.01 + 1 / min(shape)
        if abs(steps[0] / steps[1] - 1) > slack or max(steps) <= before:
            break
        before = steps[0] if height >= width else steps[1]
        whole = float(round(before))
        levels.append(
            Level(shape, whole if abs(before / whole - 1) <= min(slack, 0.25) else before)
        )
    return tuple(levels)


def check_sides(path: Path, sides: Sequence[int]) -> None:
    """Refuse sizes that no scan has, before anything of that size is made."""
    if any(not 0 < side <= LARGEST_SIDE_PX for side in sides):
        raise UnsupportedSlide(
            f"{path}: claims to be {' x '.join(map(str, sides))} pixels large; "
            f"a side has 1 to {LARGEST_SIDE_PX}; the file is damaged"
        )


def check_memory(path: Path, n_bytes: int) -> None:
    """Refuse pixels that do not fit in the memory that is free."""
    free = psutil.virtual_memory().available
    if n_bytes > MEMORY_SHARE * free:
        raise OutOfResources(
            f"{path}: its pixels take {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB "
            "of memory are free; images must fit in memory: give a region of it, or a coarser copy"
        )
