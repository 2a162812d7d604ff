"""From pixels to instances, with the network, the decoding of its maps and the caller's own work at
the same time.

The network runs in the caller's thread, tile by tile. As soon as the maps around a window are
there, a worker decodes it; meanwhile the network goes on. Another thread of the caller's may
collect an image before its network has begun, and puts windows together as they come.

What comes out depends on the pixels and the predictor only, not on the number of workers, and not
on the tiles either, as long as the network sees no further than its halo: tiles decide which maps
are computed together, and instances are found on windows of the finished maps whose size is fixed.

Images come whole (patches) or in blocks (slides, :mod:`histocli.inference.blocks`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from histocli.base.memory import pages_of_its_own
from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.inference.blocks import Block, BlockGrid, ReadRegion, Region, inside, region_of_maps
from histocli.inference.tiling import (
    Tile,
    TileGrid,
    WindowObjects,
    decode_window,
    decode_window_of,
    read_window,
    stitch,
)

# core of a window for decoding; small enough to keep workers busy, large enough that halos cost
# little
WINDOW_PX = 1536
# a nucleus reaches less far from its middle, and its neighbours shape it no further off
WINDOW_HALO_UM = 20.0
# where an object leaves its window, look this far; what is still cut then is no nucleus
LARGEST_HALO_UM = 40.0
BORDER_PX = 16  # mirrored pixels past the border: the network's own zeros come after them
BATCH_PX = 1_200_000  # pixels that go through the network together: enough to keep a processor busy

OnTiles = Callable[[int], None]
"""Called with the number of tiles that have gone through the network since the last call."""


class PredictsMaps(Protocol):
    """What is needed of a predictor."""

    mpp: float
    """Micrometres per pixel that it works at."""

    @property
    def halo_px(self) -> int:
        """Context that a pixel's prediction depends on."""

    @property
    def multiple_px(self) -> int:
        """Sides and places of tiles must be multiples of this."""

    def maps(self, tiles: npt.NDArray[np.uint8]) -> FloatArray:
        """Predict maps (N, H, W, 2), the first of them the nucleus probability, of tiles (N, H, W,
        3).
        """

    def instances(self, maps: FloatArray) -> InstanceLabels:
        """Decode maps (H, W, 2) into labels 1..n."""


@dataclass(frozen=True)
class Nuclei:
    """What was found in one image."""

    labels: InstanceLabels
    """(H, W), 0 = background, 1..n in the order of anchors, y then x."""
    probability: FloatArray
    """(n,), mean nucleus probability over the pixels of each nucleus."""


@dataclass(frozen=True)
class PendingImage:
    """An image on its way; ``collect`` may be called in another thread at any time."""

    pixels: RGBImage
    """(H, W, 3), at the predictor's resolution."""
    windows: list[Future[WindowObjects]]
    """What the windows will give, in the order of their grid."""

    def collect(self) -> Nuclei:
        """Wait for one window after the other and put them together.

        Raises
        ------
        BaseException
            What ended the network or a decoder.
        """
        shape = (self.pixels.shape[0], self.pixels.shape[1])
        stitched = stitch((window.result() for window in self.windows), shape)
        return Nuclei(labels=stitched.labels, probability=stitched.scores.astype(np.float32))


@dataclass(frozen=True)
class PendingBlock:
    """A block on its way; its windows may be waited for in another thread at any time."""

    block: Block
    pixels: RGBImage
    """Those of ``block.pixels``, at the predictor's resolution."""
    read: ReadRegion
    """Reads what lies further off, for the rare object that needs it; may be called in any
    thread."""
    windows: list[Future[WindowObjects]]
    """What the windows will give, in their order."""


class Pipeline:
    """Runs a predictor over images; use as a context manager.

    Parameters
    ----------
    predictor : PredictsMaps
    tile_px : int
        Core of a tile, in pixels at the predictor's resolution.
    workers : int
        Threads that decode maps.
    batch_px : int
        Pixels of the tiles that go through the network together; at least one tile does.
    """

    def __init__(
        self, predictor: PredictsMaps, *, tile_px: int, workers: int, batch_px: int = BATCH_PX
    ) -> None:
        self._predictor = predictor
        self._tile_px = tile_px
        self._batch_px = batch_px
        self._decoders = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._decoders.shutdown(wait=True, cancel_futures=kind is not None)

    def block_grid(self, shape: tuple[int, int], windows_a_side: int) -> BlockGrid:
        """Return the blocks of an image of this height and width."""
        windows = self._window_grid(shape)
        return BlockGrid(
            shape,
            windows,
            windows_a_side,
            self._predictor.halo_px,
            self._predictor.multiple_px,
            BORDER_PX,
        )

    def begin_block(self, block: Block, pixels: RGBImage, read: ReadRegion) -> PendingBlock:
        """Announce a block, so that others can wait for its windows; ``run_block`` comes next."""
        return PendingBlock(block, pixels, read, [Future() for _ in block.windows])

    def run_block(
        self, pending: PendingBlock, grid: BlockGrid, on_tiles: OnTiles = lambda n: None
    ) -> None:
        """Run the network over a block; its windows are decoded in the background.

        Parameters
        ----------
        pending : PendingBlock
            From ``begin_block``.
        grid : BlockGrid
            That the block is of.
        on_tiles : callable
            As in ``run``.
        """
        try:
            maps = self._block_maps(
                pending.pixels, pending.block.pixels, pending.block.maps, grid, on_tiles
            )
        except BaseException as error:
            self._fail(pending.windows, error)
            raise
        for window, future in zip(pending.block.windows, pending.windows, strict=True):
            self._decoders.submit(self._decode_of_block, maps, pending, grid, window, future)

    def _block_maps(
        self, pixels: RGBImage, place: Region, wanted: Region, grid: BlockGrid, on_tiles: OnTiles
    ) -> FloatArray:
        """Predict the maps of a region from its pixels."""
        rows, columns = wanted
        origin = place[0].start, place[1].start
        tiles = list(grid.tiles(wanted, self._tile_px))
        if len(tiles) == 1:  # as a rule, and then nothing is copied
            (tile,) = tiles
            seen = read_window(pixels, tile.window, origin=origin, image_shape=grid.image_shape)
            found = self._predictor.maps(np.ascontiguousarray(seen)[None])
            on_tiles(1)
            kept: FloatArray = found[0][tile.keep]
            return kept
        # plane by plane, as the network leaves them and as decoding takes them
        maps = pages_of_its_own(
            (2, rows.stop - rows.start, columns.stop - columns.start), np.float32
        ).transpose(1, 2, 0)
        for (height, width), group in groupby(tiles, key=lambda tile: tile.window_shape):
            alike = list(group)
            limit = max(1, self._batch_px // (height * width))
            for start in range(0, len(alike), limit):
                batch = alike[start : start + limit]
                windows = [
                    read_window(pixels, tile.window, origin=origin, image_shape=grid.image_shape)
                    for tile in batch
                ]
                found = self._predictor.maps(np.stack(windows))
                for tile, tile_maps in zip(batch, found, strict=True):
                    core = tile.core
                    maps[
                        core[0].start - rows.start : core[0].stop - rows.start,
                        core[1].start - columns.start : core[1].stop - columns.start,
                    ] = tile_maps[tile.keep]
                on_tiles(len(batch))
        return maps

    def _decode_of_block(
        self,
        maps: FloatArray,
        pending: PendingBlock,
        grid: BlockGrid,
        window: Tile,
        future: Future[WindowObjects],
    ) -> None:
        block = pending.block

        def maps_of(rows: slice, columns: slice) -> FloatArray:
            if inside((rows, columns), block.maps):
                top, left = block.maps[0].start, block.maps[1].start
                return maps[
                    rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                ]
            wanted = region_of_maps([(rows, columns)], grid.image_shape, grid.multiple_px)
            place = grid.pixels_for(wanted)
            wider = self._block_maps(pending.read(*place), place, wanted, grid, lambda n: None)
            top, left = wanted[0].start, wanted[1].start
            return wider[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]

        try:
            largest = round(LARGEST_HALO_UM / self._predictor.mpp)
            found = decode_window_of(
                maps_of, grid.image_shape, window, self._predictor.instances, largest
            )
        except BaseException as error:  # whoever waits must hear of it
            self._fail([future], error)
        else:
            with suppress(InvalidStateError):
                future.set_result(found)

    @staticmethod
    def _fail(windows: Sequence[Future[WindowObjects]], error: BaseException) -> None:
        for window in windows:
            if not window.done():
                with suppress(InvalidStateError):  # a decoder was quicker
                    window.set_exception(error)

    def n_tiles(self, shape: tuple[int, int]) -> int:
        """Return how many tiles an image of this height and width takes."""
        return len(self._grid(shape))

    def prepare(self, images: Sequence[RGBImage]) -> list[PendingImage]:
        """Announce images of one shape, so that others can wait for them; ``run`` comes next.

        Parameters
        ----------
        images : sequence of ndarray of uint8, shape (H, W, 3)
            At the predictor's resolution.
        """
        return [
            PendingImage(
                image, [Future() for _ in self._window_grid((image.shape[0], image.shape[1]))]
            )
            for image in images
        ]

    def run(self, images: Sequence[PendingImage], on_tiles: OnTiles = lambda n: None) -> None:
        """Run the network over images of one shape; their windows are decoded in the background.

        Parameters
        ----------
        images : sequence of PendingImage
            From ``prepare``.
        on_tiles : callable
            Hears of progress after every batch, and may raise to stop; those who collect get the
            same error.
        """
        if not images:
            return
        shape = (images[0].pixels.shape[0], images[0].pixels.shape[1])
        try:
            self._run(images, shape, on_tiles)
        except BaseException as error:
            self._fail([window for image in images for window in image.windows], error)
            raise

    def _run(
        self, images: Sequence[PendingImage], shape: tuple[int, int], on_tiles: OnTiles
    ) -> None:
        every_map = [np.empty((2, *shape), np.float32).transpose(1, 2, 0) for _ in images]
        waiting = [deque(zip(self._windows(shape), image.windows, strict=True)) for image in images]
        for batch in self._batches(len(images), shape):
            tiles = np.stack(
                [read_window(images[index].pixels, tile.window) for index, tile in batch]
            )
            maps = self._predictor.maps(tiles)
            for (index, tile), tile_maps in zip(batch, maps, strict=True):
                every_map[index][tile.core] = tile_maps[tile.keep]
                while waiting[index] and waiting[index][0][0][0] <= tile.index:
                    (_, window), future = waiting[index].popleft()
                    self._decoders.submit(self._decode, every_map[index], window, future)
            on_tiles(len(batch))

    def _decode(self, maps: FloatArray, window: Tile, future: Future[WindowObjects]) -> None:
        try:
            found = decode_window(
                maps,
                window,
                self._predictor.instances,
                round(LARGEST_HALO_UM / self._predictor.mpp),
            )
        except BaseException as error:  # whoever waits must hear of it
            with suppress(InvalidStateError):
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(found)

    def _window_grid(self, shape: tuple[int, int]) -> TileGrid:
        return TileGrid(shape, WINDOW_PX, round(WINDOW_HALO_UM / self._predictor.mpp))

    def _grid(self, shape: tuple[int, int]) -> TileGrid:
        return TileGrid(
            shape, self._tile_px, self._predictor.halo_px, self._predictor.multiple_px, BORDER_PX
        )

    def _windows(self, shape: tuple[int, int]) -> Iterator[tuple[int, Tile]]:
        """Yield the windows for decoding, each with the last tile whose maps it needs."""
        grid = self._grid(shape)
        core, (_, across) = grid.core_shape, grid.grid_shape
        for window in self._window_grid(shape):
            # a window that has to grow may need maps of tiles to come, so the largest halo counts
            reach = round(LARGEST_HALO_UM / self._predictor.mpp)
            row, column = (
                (min(side.stop + reach, size) - 1) // length
                for side, size, length in zip(window.core, shape, core, strict=True)
            )
            yield row * across + column, window

    def _batches(self, n_images: int, shape: tuple[int, int]) -> Iterator[list[tuple[int, Tile]]]:
        """Yield tiles of equal windows in order, as many as go through the network together."""
        grid = self._grid(shape)
        every = ((index, tile) for index in range(n_images) for tile in grid)
        for (height, width), alike in groupby(every, key=lambda item: item[1].window_shape):
            limit = max(1, self._batch_px // (height * width))
            batch: list[tuple[int, Tile]] = []
            for item in alike:
                batch.append(item)
                if len(batch) == limit:
                    yield batch
                    batch = []
            if batch:
                yield batch
