"""The labels of a slide: which shards there are, and coarser levels that are filled on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.pyramid import nearest_level
from histocli.stores.labels import layout
from histocli.stores.labels.ngff import label_metadata, labels_metadata

Shard = tuple[int, int]
"""Row and column of a shard of level 0."""


def create_pyramid(
    root: zarr.Group, shape: tuple[int, int], factors: list[int], mpp: float
) -> None:
    """Make the arrays of the labels, without any label."""
    folder = root.create_group("labels", attributes={"ome": labels_metadata()})
    nuclei = folder.create_group(
        layout.LABEL_NAME, attributes={"ome": label_metadata(factors, mpp)}
    )
    chunks = tuple(min(side, layout.CHUNK_PX) for side in shape)
    grid = tuple(-(-side // layout.SHARD_PX) for side in shape)
    layout.make_array(root, "tiles_done", grid, "uint8", "yx", chunks=grid)
    for level, factor in enumerate(factors):
        size = tuple(-(-side // factor) for side in shape)
        sides = tuple(min(side, chunk) for side, chunk in zip(size, chunks, strict=True))
        shards = tuple(
            min(layout.SHARD_PX // side, -(-length // side)) * side
            for side, length in zip(sides, size, strict=True)
        )
        layout.make_array(nuclei, str(level), size, "uint32", "yx", sides, shards)


def shards_of(shape: tuple[int, int]) -> list[Shard]:
    """Return all shards, such that the shards of every square of two, four, ... follow each other."""
    down, across = (-(-side // layout.SHARD_PX) for side in shape)
    return sorted(((row, column) for row in range(down) for column in range(across)), key=_morton)


def _morton(shard: Shard) -> int:
    """Interleave the bits of row and column."""
    return sum(
        (shard[0] >> bit & 1) << (2 * bit + 1) | (shard[1] >> bit & 1) << (2 * bit)
        for bit in range(32)
    )


class CoarseLevels:
    """Fills the coarser levels of the labels while the shards of level 0 pass by in their order.

    One shard of each level is held in memory, and written when the next one begins.

    Parameters
    ----------
    levels : list of zarr.Array
        The levels from 0, each half as fine as the one before.
    """

    def __init__(self, levels: list[zarr.Array[Any]]) -> None:
        self._levels = levels
        self._canvases: dict[int, tuple[Shard, npt.NDArray[np.uint32]]] = {}

    def add(self, shard: Shard, labels: npt.NDArray[np.uint32]) -> None:
        """Take up the labels of a shard of level 0."""
        for level in range(1, len(self._levels)):
            factor = 2**level
            is_small = factor <= layout.SHARD_PX
            coarse = nearest_level(labels, factor) if is_small else labels[:1, :1]
            step = layout.SHARD_PX // factor if is_small else 0
            canvas = self._canvas(level, (shard[0] // factor, shard[1] // factor))
            y, x = (index % factor * step for index in shard)
            canvas[y : y + coarse.shape[0], x : x + coarse.shape[1]] = coarse

    def flush(self) -> None:
        """Write what is still in memory."""
        for level in list(self._canvases):
            self._write(level)

    def _canvas(self, level: int, owner: Shard) -> npt.NDArray[np.uint32]:
        """Return the pixels of a shard of a level, after writing another one."""
        if level not in self._canvases or self._canvases[level][0] != owner:
            self._write(level)
            shape = [
                min(layout.SHARD_PX, side - index * layout.SHARD_PX)
                for index, side in zip(owner, self._levels[level].shape, strict=True)
            ]
            self._canvases[level] = (owner, np.zeros(shape, np.uint32))
        return self._canvases[level][1]

    def _write(self, level: int) -> None:
        if level in self._canvases:
            (row, column), canvas = self._canvases.pop(level)
            top, left = row * layout.SHARD_PX, column * layout.SHARD_PX
            height, width = canvas.shape
            self._levels[level][top : top + height, left : left + width] = canvas
