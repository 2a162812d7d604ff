"""From pixels to objects: the network runs while other threads decode its maps.

The network runs in the caller's thread, tile by tile. As soon as the maps of a block
(:mod:`histocli.inference.blocks`) are finished, workers decode the windows of the block; meanwhile
the network goes on with the next block. Other threads may wait for windows, even before the network
has begun.

The objects depend on the pixels and the predictor only: not on the number of workers, and not on
the tiles, as long as the network sees no further than its halo. Tiles decide which parts of the
maps are computed together; objects are found on windows of fixed size on the finished maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from histocli.base.memory import pages_of_its_own
from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.inference.blocks import Block, BlockGrid, ReadArea, inside
from histocli.inference.runs import RunObjects
from histocli.inference.settling import SlideWindows, put_together
from histocli.inference.tiling import Area, Tile, TileGrid, read_window, size_of, within
from histocli.inference.windows import (
    WINDOW_HALO_UM,
    WINDOW_PX,
    decode_window,
    largest_halo_px,
    window_grid,
)

if TYPE_CHECKING:  # blocks and objects are of use without a network
    from histocli.inference.predict import Predictor
    from histocli.model.levels import LevelNetwork

BORDER_PX = 16
"""Mirrored pixels past the image's border; further out, the network sees zeros."""
BATCH_PX = 1_200_000
"""Pixels that go through the network together: enough to keep a processor busy."""


@dataclass
class PendingBlock:
    """A block that is being processed; any thread may wait for the objects of its windows."""

    block: Block
    grid: BlockGrid
    """The grid that the block belongs to."""
    pixels: RGBImage
    """The pixels of ``block.pixels``, at the predictor's resolution."""
    read: ReadArea
    """Reads pixels outside the block, for the rare object that leaves its window; may be called in
    any thread."""
    windows: list[Future[RunObjects]] = field(init=False)
    """The objects of each of ``block.windows``, in the same order."""

    def __post_init__(self) -> None:
        self.windows = [Future() for _ in self.block.windows]


def whole_image(image: RGBImage, grid: BlockGrid) -> PendingBlock:
    """Return the only block of an image."""
    (block,) = grid.blocks()
    return PendingBlock(block, grid, image, lambda rows, columns: image[rows, columns])


def collect(image: PendingBlock, mpp: float) -> InstanceLabels:
    """Wait for the windows of an image from :func:`whole_image`, and put them together.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 = background, 1..n in the order of anchors, y then x.

    Raises
    ------
    BaseException
        The error that ended the network or a decoder.
    """
    windows = SlideWindows(image.grid.windows, mpp)
    return put_together(windows, lambda window: image.windows[window].result())


class Pipeline:
    """Runs a predictor over blocks; use as a context manager.

    Parameters
    ----------
    predictor : Predictor
    tile_px : int
        Side of a tile's core, in pixels at the predictor's resolution.
    workers : int
        Threads that decode maps.
    batch_px : int
        Pixels of the tiles that go through the network together; at least one tile does.
    """

    def __init__(
        self, predictor: Predictor, *, tile_px: int, workers: int, batch_px: int = BATCH_PX
    ) -> None:
        self._predictor, self._tile_px, self._batch_px = predictor, tile_px, batch_px
        self._decoders = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._decoders.shutdown(wait=True, cancel_futures=kind is not None)

    def block_grid(self, shape: tuple[int, int], windows_a_side: int | None = None) -> BlockGrid:
        """Return the blocks of an image of this height and width.

        A block has at most ``windows_a_side`` windows along a side; None makes one block.
        """
        halo_px, multiple_px = self._predictor.halo_px, self._predictor.multiple_px
        tiles = TileGrid(shape, self._tile_px, halo_px, multiple_px, BORDER_PX)
        return BlockGrid(window_grid(shape, self._predictor.mpp), tiles, windows_a_side)

    def run(
        self, blocks: Sequence[PendingBlock], on_tiles: Callable[[int], None] = lambda n: None
    ) -> None:
        """Run the network over blocks; their windows are decoded in the background.

        Consecutive tiles of one shape go through the network together, even from several blocks.

        Parameters
        ----------
        blocks : sequence of PendingBlock
        on_tiles : callable
            Called after every batch with its number of tiles. May raise to stop; threads that wait
            for a window get the same error.
        """
        try:
            for pending, maps in zip(blocks, self._maps(blocks, on_tiles), strict=True):
                for window, future in zip(pending.block.windows, pending.windows, strict=True):
                    self._decoders.submit(self._decode, maps, pending, window, future)
        except BaseException as error:
            for future in (future for pending in blocks for future in pending.windows):
                with suppress(InvalidStateError):  # the window has its result
                    future.set_exception(error)
            raise

    def _maps(
        self, blocks: Sequence[PendingBlock], on_tiles: Callable[[int], None] = lambda n: None
    ) -> Iterator[FloatArray]:
        """Yield the maps of each block, in order, as soon as all of its tiles are predicted."""
        every = [
            (number, tile)
            for number, one in enumerate(blocks)
            for tile in one.grid.tiles_of(one.block.maps)
        ]
        missing = Counter(number for number, _ in every)
        found: dict[int, FloatArray] = {}
        given = 0
        for (height, width), group in groupby(every, key=lambda item: item[1].window_shape):
            alike = list(group)
            limit = max(1, self._batch_px // (height * width))
            for start in range(0, len(alike), limit):
                batch = alike[start : start + limit]
                windows = [_seen(blocks[number], tile) for number, tile in batch]
                maps = self._predictor.maps(_stacked(windows))
                for (number, tile), tile_maps in zip(batch, maps, strict=True):
                    _keep(found, number, blocks[number].block.maps, tile, tile_maps)
                    missing[number] -= 1
                on_tiles(len(batch))
                while given < len(blocks) and not missing[given]:
                    yield found.pop(given)
                    given += 1

    def _decode(
        self, maps: FloatArray, pending: PendingBlock, window: Tile, future: Future[RunObjects]
    ) -> None:
        grid, area = pending.grid, pending.block.maps

        def maps_of(rows: slice, columns: slice) -> FloatArray:
            if inside((rows, columns), area):
                return maps[within((rows, columns), area)]
            wider = grid.maps_for([(rows, columns)])
            place = grid.pixels_for(wider)
            more = replace(pending, block=Block(0, (), wider, place), pixels=pending.read(*place))
            (seen,) = self._maps([more])
            return seen[within((rows, columns), wider)]

        try:
            largest = largest_halo_px(self._predictor.mpp)
            found = decode_window(
                maps_of, grid.image_shape, window, self._predictor.instances, largest
            )
            with suppress(InvalidStateError):
                future.set_result(found)
        except BaseException as error:  # passed to the threads that wait for the window
            with suppress(InvalidStateError):
                future.set_exception(error)


def _seen(pending: PendingBlock, tile: Tile) -> RGBImage:
    """Return the pixels of a tile's window."""
    place, image_shape = pending.block.pixels, pending.grid.image_shape
    return read_window(pending.pixels, tile.window, place=place, image_shape=image_shape)


def _stacked(windows: Sequence[RGBImage]) -> npt.NDArray[np.uint8]:
    """Return windows as one array (N, H, W, 3); a single contiguous window is not copied."""
    return np.ascontiguousarray(windows[0])[None] if len(windows) == 1 else np.stack(windows)


def _keep(
    found: dict[int, FloatArray], number: int, area: Area, tile: Tile, maps: FloatArray
) -> None:
    """Keep the maps of a tile's core; they are not copied if the core is the whole area."""
    if tile.core == area:
        found[number] = maps[tile.keep]
        return
    if number not in found:
        # one plane after the other in memory, as the network writes and decoding reads the maps
        found[number] = pages_of_its_own((2, *size_of(area)), np.float32).transpose(1, 2, 0)
    found[number][within(tile.core, area)] = maps[tile.keep]


def expected_memory(
    network: LevelNetwork,
    mpp: float,
    block_windows: int,
    tile_px: int,
    workers: int,
    bytes_a_number: int = 4,
    compiled: bool = False,
) -> float:
    """Return the largest number of bytes that the process is expected to take on any slide.

    Parameters
    ----------
    network : LevelNetwork
    mpp : float
        Micrometres per pixel of the model.
    block_windows : int
        Number of windows along a side of a block.
    tile_px : int
        Largest side of the core of a tile, in pixels.
    workers : int
        Number of windows that are decoded at the same time.
    bytes_a_number : int
        Bytes of a number in the layers of the network.
    compiled : bool
        Whether tiles are computed as a whole (:mod:`histocli.model.compiled`), not in bands.
    """
    # late: these import torch
    from histocli.model import bands
    from histocli.model import compiled as whole

    halo_px = WINDOW_HALO_UM / mpp
    side = block_windows * WINDOW_PX + 2 * halo_px
    tile = (min(tile_px, side) + 2.0 * network.halo_px) ** 2
    decoded = min(workers, 2 * block_windows**2) * (WINDOW_PX + 2 * halo_px) ** 2
    expected_bytes = whole.expected_bytes if compiled else bands.expected_bytes
    # the numbers below were measured on blocks of tissue, with some reserve
    return (
        450e6  # interpreter and libraries
        + expected_bytes(network, tile, bytes_a_number)
        # bytes a pixel of a block: pixels of the blocks that wait, and the maps of two blocks
        + 32 * (side + 2.0 * network.halo_px) ** 2
        + 80 * decoded  # bytes a pixel of a window while it is decoded
    )
