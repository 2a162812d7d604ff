"""Blocks: parts of a slide that can be processed in any order and on any machine.

A network turns pixels into maps: nucleus probability and border distance of each pixel. Objects are
decoded from the maps, window by window (:mod:`histocli.inference.windows`). A block is a group of
adjacent windows that are decoded from the same maps::

    +--------------------------------+   pixels: the area to read: maps and the network's halo
    |  +--------------------------+  |
    |  |  +---------+---------+   |  |   maps: the windows with their halo
    |  |  | window  | window  |   |  |
    |  |  +---------+---------+   |  |   windows: their cores partition the image; each owns the
    |  |  | window  | window  |   |  |   objects whose anchors lie in its core
    |  |  +---------+---------+   |  |
    |  +--------------------------+  |
    +--------------------------------+

The anchor of an object is the pixel that stands for its place. The windows do not depend on the
size of blocks or of network tiles. A pixel of a map does not depend on the tile that it was
computed in. So the objects are the same for any size of blocks and tiles. A small image is one
block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from histocli.base.types import BoolMask, RGBImage
from histocli.inference.tiling import Area, Tile, TileGrid, clipped, round_up

ReadArea: TypeAlias = Callable[[slice, slice], RGBImage]
"""Reads rows and columns inside the image, at the model's resolution."""


@dataclass(frozen=True)
class Block:
    """Windows that are decoded from one set of maps."""

    index: int
    windows: tuple[Tile, ...]
    """Some of the windows of the whole image."""
    maps: Area
    """Area of the maps, inside the image; starts are multiples of ``TileGrid.multiple_px``."""
    pixels: Area
    """Area of the pixels that the network needs for the maps, inside the image."""


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of an image.

    Parameters
    ----------
    windows : TileGrid
        The windows of the image.
    tiles : TileGrid
        The network's tiles, as they would cover the whole image.
    side : int, optional
        Largest number of windows along a side of a block; by default, the image is one block.
    """

    windows: TileGrid
    tiles: TileGrid
    side: int | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width at the model's resolution."""
        return self.windows.image_shape

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        side = self.side or max(self.windows.grid_shape)
        down, across = self.windows.grid_shape
        return -(-down // side), -(-across // side)

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def block(
        self, index: int, wanted: Callable[[int], bool] = lambda window: True
    ) -> Block | None:
        """Return a block with the windows for which ``wanted`` is true; None if there is none."""
        row, column = divmod(index, self.shape[1])
        down, across = self.windows.grid_shape
        # blocks of even size: the smaller a block, the larger the share that others compute again
        high, wide = -(-down // self.shape[0]), -(-across // self.shape[1])
        numbers = [
            y * across + x
            for y in range(row * high, min((row + 1) * high, down))
            for x in range(column * wide, min((column + 1) * wide, across))
        ]
        tiles = tuple(self.windows[number] for number in numbers if wanted(number))
        if not tiles:
            return None
        maps = self.maps_for([tile.window for tile in tiles])
        return Block(index=index, windows=tiles, maps=maps, pixels=self.pixels_for(maps))

    def blocks(self, wanted: Callable[[int], bool] = lambda window: True) -> list[Block]:
        """Return all blocks with a window for which ``wanted`` is true."""
        every = (self.block(index, wanted) for index in range(len(self)))
        return [block for block in every if block is not None]

    def maps_for(self, windows: Sequence[Area]) -> Area:
        """Return the smallest area that holds the parts of all windows inside the image and starts
        at multiples of ``multiple_px``.
        """
        multiple_px = self.tiles.multiple_px
        rows, columns = (
            slice(
                min(side.start for side in sides) // multiple_px * multiple_px,
                round_up(max(side.stop for side in sides), multiple_px),
            )
            for sides in zip(*windows, strict=True)
        )
        return clipped((rows, columns), self.image_shape)

    def pixels_for(self, maps: Area) -> Area:
        """Return the pixels that the network needs for an area of maps."""
        multiple_px = self.tiles.multiple_px
        # at the image's border, tiles need mirrored pixels: `border` of them, and up to
        # `multiple_px` more to round the sides up
        reach = max(self.tiles.halo_px, self.tiles.border + multiple_px)
        rows, columns = (
            slice(side.start - reach, round_up(side.stop, multiple_px) + reach) for side in maps
        )
        return clipped((rows, columns), self.image_shape)

    def tiles_of(self, maps: Area) -> TileGrid:
        """Return the network's tiles that cover an area of maps."""
        return replace(self.tiles, area=maps)


def inside(part: Area, whole: Area) -> bool:
    """Tell whether an area lies in another."""
    return all(
        one.start >= all_.start and one.stop <= all_.stop
        for one, all_ in zip(part, whole, strict=True)
    )


def shows_tissue(tissue: BoolMask, core: Area, px_per_cell: float) -> bool:
    """Tell whether an area touches tissue on a mask.

    A pixel of the mask is ``px_per_cell`` pixels of the area wide.
    """
    rows, columns = (
        slice(
            min(int(side.start / px_per_cell), n - 1),
            max(min(int(np.ceil(side.stop / px_per_cell)) + 1, n), 1),
        )
        for side, n in zip(core, tissue.shape, strict=True)
    )
    return bool(tissue[rows, columns].any())
