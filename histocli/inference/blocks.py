"""Blocks: a slide in pieces that are worked on alone, in any order, anywhere, and give the same
objects.

A block is some windows (:mod:`histocli.inference.tiling`) that share their maps::

    +--------------------------------+   pixels that are read: the block, the windows' halo and the network's
    |  +--------------------------+  |
    |  |  +---------+---------+   |  |   maps: the windows with their halo
    |  |  | window  | window  |   |  |
    |  |  +---------+---------+   |  |   windows: cores partition the image; they own the objects whose anchors lie in them
    |  |  | window  | window  |   |  |
    |  |  +---------+---------+   |  |
    |  +--------------------------+  |
    +--------------------------------+

The windows are the same for any size of blocks and of network tiles, and a map's pixel does not
depend on the tile that it came from; so neither do the objects.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from histocli.base.types import BoolMask, RGBImage
from histocli.inference.tiling import Tile, TileGrid

Region: TypeAlias = tuple[slice, slice]
"""Rows and columns, half open."""
ReadRegion: TypeAlias = Callable[[slice, slice], RGBImage]
"""Reads a region inside the image, at the model's resolution."""


@dataclass(frozen=True)
class Block:
    """Windows that are decoded from one set of maps."""

    index: int
    windows: tuple[Tile, ...]
    """Of the grid of the whole image."""
    maps: Region
    """Where maps are needed; starts are multiples of the network's, inside the image."""
    pixels: Region
    """Where pixels are needed, inside the image."""


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of an image.

    Parameters
    ----------
    image_shape : (int, int)
        At the model's resolution.
    windows : TileGrid
        The windows of the image.
    side : int
        Largest number of windows along a side of a block.
    halo_px, multiple_px, border_px : int
        Of the network, as for its tiles.
    """

    image_shape: tuple[int, int]
    windows: TileGrid
    side: int
    halo_px: int
    multiple_px: int
    border_px: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        rows, columns = (-(-n // self.side) for n in self.windows.grid_shape)
        return rows, columns

    @property
    def sides(self) -> tuple[int, int]:
        """Windows down and across a block; as even as can be, because the smallest blocks see most
        twice.
        """
        down, across = (
            -(-n // blocks) for n, blocks in zip(self.windows.grid_shape, self.shape, strict=True)
        )
        return down, across

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def block(
        self, index: int, wanted: Callable[[int], bool] = lambda window: True
    ) -> Block | None:
        """Return a block with those of its windows that are wanted, None where there is none."""
        row, column = divmod(index, self.shape[1])
        down, across = self.windows.grid_shape
        high, wide = self.sides
        numbers = [
            y * across + x
            for y in range(row * high, min((row + 1) * high, down))
            for x in range(column * wide, min((column + 1) * wide, across))
        ]
        tiles = tuple(self.windows[number] for number in numbers if wanted(number))
        if not tiles:
            return None
        maps = region_of_maps([tile.window for tile in tiles], self.image_shape, self.multiple_px)
        return Block(index=index, windows=tiles, maps=maps, pixels=self.pixels_for(maps))

    def pixels_for(self, maps: Region) -> Region:
        """Return the pixels that the network needs for a region of maps."""
        # at the image's border, pixels are mirrored as far as its own border and the rest of a
        # multiple
        reach = max(self.halo_px, _up(self.border_px, self.multiple_px) + self.multiple_px)
        rows, columns = (
            slice(max(side.start - reach, 0), min(_up(side.stop, self.multiple_px) + reach, size))
            for side, size in zip(maps, self.image_shape, strict=True)
        )
        return rows, columns

    def tiles(self, maps: Region, tile_px: int) -> Iterator[Tile]:
        """Yield the network tiles that cover a region of maps."""
        sides = []
        for side in maps:
            length = side.stop - side.start
            step = _up(-(-length // -(-length // _up(tile_px, self.multiple_px))), self.multiple_px)
            sides.append(
                [
                    slice(start, min(start + step, side.stop))
                    for start in range(side.start, side.stop, step)
                ]
            )
        halo, border = _up(self.halo_px, self.multiple_px), _up(self.border_px, self.multiple_px)
        index = 0
        for rows in sides[0]:
            for columns in sides[1]:
                window = [
                    slice(
                        max(core.start - halo, -border),
                        min(
                            _up(core.stop, self.multiple_px) + halo,
                            _up(size, self.multiple_px) + border,
                        ),
                    )
                    for core, size in zip((rows, columns), self.image_shape, strict=True)
                ]
                yield Tile(index=index, core=(rows, columns), window=(window[0], window[1]))
                index += 1


def region_of_maps(
    windows: Sequence[Region], image_shape: tuple[int, int], multiple_px: int
) -> Region:
    """Return the smallest region with starts at multiples that holds all windows as far as they lie
    in the image.
    """
    rows, columns = (
        slice(
            max(min(window[axis].start for window in windows) // multiple_px * multiple_px, 0),
            min(_up(max(window[axis].stop for window in windows), multiple_px), image_shape[axis]),
        )
        for axis in (0, 1)
    )
    return rows, columns


def inside(part: Region, whole: Region) -> bool:
    """Tell whether a region lies in another."""
    return all(
        one.start >= all_.start and one.stop <= all_.stop
        for one, all_ in zip(part, whole, strict=True)
    )


def shows_tissue(tissue: BoolMask, core: Region, px_per_cell: float) -> bool:
    """Tell whether any cell of a tissue mask that a region touches is tissue.

    Parameters
    ----------
    tissue : ndarray of bool, shape (h, w)
    core : (slice, slice)
    px_per_cell : float
        Pixels of ``core`` along a cell of the mask.
    """
    rows, columns = (
        slice(
            min(int(side.start / px_per_cell), n - 1),
            max(min(int(np.ceil(side.stop / px_per_cell)) + 1, n), 1),
        )
        for side, n in zip(core, tissue.shape, strict=True)
    )
    return bool(tissue[rows, columns].any())


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
