"""Tiles that cover an image, or a part of it, exactly once.

A tile is a window on the image: a core that is kept, and a halo of context around it that is
thrown away. The cores partition the image, so every pixel of a network's map comes from one tile
only. Windows start at multiples of ``multiple_px`` and have sides that are multiples of it, so that
a network that pools sees every pixel in the same phase whatever the tile. The image is continued by
reflection for ``border_px`` pixels, and there the world ends for every tile: a pixel at the border
sees the same surroundings through any grid, and a small image costs little more than its own
pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage

Area: TypeAlias = tuple[slice, slice]
"""Rows and columns, half open."""


@dataclass(frozen=True)
class Tile:
    """One window on an image, in pixels of the image."""

    index: int
    """Place in the grid, row by row."""
    core: Area
    """The rows and columns that this tile answers for; inside the image."""
    window: Area
    """What is looked at: core and halo. It may leave the image on all sides."""

    @property
    def window_shape(self) -> tuple[int, int]:
        """Height and width of the window."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def keep(self) -> Area:
        """The core, in pixels of the window."""
        rows, columns = (
            slice(core.start - window.start, core.stop - window.start)
            for core, window in zip(self.core, self.window, strict=True)
        )
        return rows, columns

    def owns(
        self, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], margin_px: int = 0
    ) -> npt.NDArray[np.bool_]:
        """Tell which pixels of the image lie in the core, or at most ``margin_px`` outside it."""
        rows, columns = self.core
        in_rows = (y >= rows.start - margin_px) & (y < rows.stop + margin_px)
        in_columns = (x >= columns.start - margin_px) & (x < columns.stop + margin_px)
        return np.asarray(in_rows & in_columns)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image, row by row.

    Parameters
    ----------
    image_shape : (int, int)
        Height and width, at least 1.
    core_px : int
        Largest side of a core. Cores are made smaller, evenly, where that covers the image with
        less excess.
    halo_px : int
        Context on each side, >= 0; rounded up to ``multiple_px``.
    multiple_px : int
        Windows start at multiples of this and have sides that are multiples of it.
    border_px : int, optional
        How far windows go past the image's border, rounded up to ``multiple_px``; as far as the
        halo by default.
    area : (slice, slice), optional
        The part of the image that the cores partition, starting at multiples of ``multiple_px``;
        all of it by default.
    """

    image_shape: tuple[int, int]
    core_px: int
    halo_px: int
    multiple_px: int = 1
    border_px: int | None = None
    area: Area | None = None

    def __post_init__(self) -> None:
        if (
            min(self.image_shape) < 1
            or self.core_px < 1
            or self.halo_px < 0
            or self.multiple_px < 1
        ):
            raise ValueError(
                f"no grid of cores of {self.core_px} px with halo {self.halo_px} px "
                f"on shape {self.image_shape}"
            )

    @property
    def halo(self) -> int:
        """The halo in use: ``halo_px`` rounded up to ``multiple_px``."""
        return round_up(self.halo_px, self.multiple_px)

    @property
    def border(self) -> int:
        """How far windows go past the image's border."""
        if self.border_px is None:
            return self.halo
        return round_up(self.border_px, self.multiple_px)

    @cached_property
    def core_shape(self) -> tuple[int, int]:
        """Height and width of a full core; those of the last row and column may be smaller."""
        largest = round_up(self.core_px, self.multiple_px)
        height, width = (
            round_up(-(-length // -(-length // largest)), self.multiple_px)
            for length in (side.stop - side.start for side in self._area)
        )
        return height, width

    @cached_property
    def grid_shape(self) -> tuple[int, int]:
        """Number of tiles down and across."""
        rows, columns = (
            -(-(side.stop - side.start) // core)
            for side, core in zip(self._area, self.core_shape, strict=True)
        )
        return rows, columns

    @property
    def _area(self) -> Area:
        return self.area or (slice(0, self.image_shape[0]), slice(0, self.image_shape[1]))

    def __len__(self) -> int:
        rows, columns = self.grid_shape
        return rows * columns

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        core, window = [], []
        for number, length, side, size in zip(
            divmod(index, self.grid_shape[1]),
            self.core_shape,
            self._area,
            self.image_shape,
            strict=True,
        ):
            start = side.start + number * length
            stop = min(start + length, side.stop)
            end = round_up(size, self.multiple_px) + self.border
            core.append(slice(start, stop))
            window.append(
                slice(
                    max(start - self.halo, -self.border),
                    min(round_up(stop, self.multiple_px) + self.halo, end),
                )
            )
        return Tile(index=index, core=(core[0], core[1]), window=(window[0], window[1]))

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(len(self)))


def read_window(
    image: RGBImage,
    window: Area,
    *,
    origin: tuple[int, int] = (0, 0),
    image_shape: tuple[int, int] | None = None,
) -> RGBImage:
    """Cut a window out of an image that is continued by reflection where the window leaves it.

    Parameters
    ----------
    image : ndarray, shape (H, W, ...)
        At least one pixel.
    window : (slice, slice)
        Half-open bounds; may start below 0 and end past the image, by any number of pixels.
    origin, image_shape : (int, int), optional
        Where ``image`` lies in the image that the window is a window of, and that image's height
        and width; for a part of it.

    Returns
    -------
    ndarray, shape (window height, window width, ...)
        The border pixel is not repeated: ``c b a b c`` about ``a``.
    """
    height, width = image_shape or image.shape[:2]
    rows, columns = window
    if rows.start >= 0 and columns.start >= 0 and rows.stop <= height and columns.stop <= width:
        return image[
            rows.start - origin[0] : rows.stop - origin[0],
            columns.start - origin[1] : columns.stop - origin[1],
        ]
    before = (max(-rows.start, 0), max(-columns.start, 0))
    after = (max(rows.stop - height, 0), max(columns.stop - width, 0))
    inside = [
        slice(max(side.start, 0), min(side.stop, size))
        for side, size in zip(window, (height, width), strict=True)
    ]
    short = all(
        max(pair) < side.stop - side.start
        for *pair, side in zip(before, after, inside, strict=True)
    )
    # nineteen times faster than indexing
    if short and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        part = image[
            inside[0].start - origin[0] : inside[0].stop - origin[0],
            inside[1].start - origin[1] : inside[1].stop - origin[1],
        ]
        continued = cv2.copyMakeBorder(
            part, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT_101
        )
        return np.asarray(continued, np.uint8)
    y, x = _reflected(rows, height) - origin[0], _reflected(columns, width) - origin[1]
    # the contiguous part that is needed first, so that a window of a large image costs no more than
    # itself
    part = image[y.min() : y.max() + 1, x.min() : x.max() + 1]
    seen: RGBImage = part[y - y.min()][:, x - x.min()]
    return seen


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is no less than a value."""
    return -(-value // multiple) * multiple


def _reflected(window: slice, size: int) -> npt.NDArray[np.intp]:
    """Return the pixels of a line of ``size`` that a window sees when the line is continued by
    reflection.
    """
    period = max(2 * (size - 1), 1)
    place = np.arange(window.start, window.stop) % period
    return np.where(place < size, place, period - place)
