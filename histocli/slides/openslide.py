"""Slides that openslide reads: MRXS, VMS, VMU, SCN, BIF, SVSLIDE, CZI and DICOM."""

from functools import cached_property
from pathlib import Path

import numpy as np

from histocli.base.errors import InputNotFound, UnsupportedSlide
from histocli.base.types import RGBImage
from histocli.slides.colours import to_rgb
from histocli.slides.pixel_size import PixelSize, of_openslide
from histocli.slides.slide import (
    DECODING_ERRORS,
    STRIP_PX,
    Level,
    Slide,
    check_memory,
    check_sides,
    decoding,
    pyramid,
)


def openslide_vendor(path: Path) -> str | None:
    """Return the vendor of a file as openslide names it; None for a file that it does not know."""
    import openslide  # not at the top: it loads a shared library that few slides need

    try:
        return openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return None


class OpenSlideSlide(Slide):
    """A slide in any format that openslide reads."""

    backend = "openslide"

    def __init__(self, path: Path, given_mpp: float | None = None) -> None:
        import openslide

        super().__init__(path, given_mpp)
        if not path.is_file():
            raise InputNotFound(f"{path}: no such slide; check the path")
        if openslide_vendor(path) is None:
            raise UnsupportedSlide(
                f"{path}: is no slide that openslide knows; "
                "it is damaged, or files that belong to it are missing"
            )
        self._errors = (openslide.OpenSlideError, *DECODING_ERRORS)
        with decoding(path, "cannot be read", "it is damaged or incomplete", self._errors):
            self._slide = openslide.OpenSlide(str(path))
        sides = [str(self._slide.properties.get(f"openslide.bounds-{axis}", "0")) for axis in "xy"]
        if all(side.isdecimal() for side in sides):
            self.origin = (int(sides[0]), int(sides[1]))

    def _recorded_pixel_size(self) -> PixelSize | None:
        return of_openslide(self._slide.properties, self.path)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that openslide lists, as far as they form a pyramid."""
        shapes = [(height, width) for width, height in self._slide.level_dimensions]
        for shape in shapes:
            check_sides(self.path, shape)
        return pyramid(shapes)

    def read(self, level: int, rows: slice, columns: slice) -> RGBImage:
        """Read a region; areas that were not scanned are white."""
        step = self.levels[level].downsample
        place = (round(columns.start * step), round(rows.start * step))
        size = (columns.stop - columns.start, rows.stop - rows.start)
        with decoding(
            self.path,
            f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop} "
            f"of level {level} cannot be decoded",
            "the file is damaged, copy it again",
            self._errors,
        ):
            values = np.asarray(self._slide.read_region(place, level, size))
        return to_rgb(values, self.path)

    def _decode(self) -> RGBImage:
        height, width = self.levels[0].shape
        check_memory(self.path, height * width * 3)
        image = np.empty((height, width, 3), np.uint8)
        step = max(1, STRIP_PX // width)
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            image[rows] = self.read(0, rows, slice(0, width))
        return image

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._slide.close()
