"""From pixels to instances, with the network, the decoding of its maps and the caller's own work at the same time.

The network runs in the caller's thread, tile by tile. As soon as the maps around a window are there, a worker decodes it;
meanwhile the network goes on. Another thread of the caller's may collect an image before its network has begun, and puts
windows together as they come.

What comes out depends on the pixels and the predictor only, not on the number of workers, and not on the tiles either, as long
as the network sees no further than its halo: tiles decide which maps are computed together, and instances are found on windows
of the finished maps whose size is fixed.
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

from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.inference.tiling import Tile, TileGrid, WindowObjects, decode_window, read_window, stitch

WINDOW_PX = 1536  # core of a window for decoding; small enough to keep workers busy, large enough that halos cost little
WINDOW_HALO_UM = 20.0  # a nucleus reaches less far from its middle, and its neighbours shape it no further off
LARGEST_HALO_UM = 40.0  # where an object leaves its window, look this far; what is still cut then is no nucleus
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
        """Predict maps (N, H, W, 2), the first of them the nucleus probability, of tiles (N, H, W, 3)."""

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

    def __init__(self, predictor: PredictsMaps, *, tile_px: int, workers: int, batch_px: int = BATCH_PX) -> None:
        self._predictor = predictor
        self._tile_px = tile_px
        self._batch_px = batch_px
        self._decoders = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._decoders.shutdown(wait=True, cancel_futures=kind is not None)

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
        return [PendingImage(image, [Future() for _ in self._window_grid((image.shape[0], image.shape[1]))]) for image in images]

    def run(self, images: Sequence[PendingImage], on_tiles: OnTiles = lambda n: None) -> None:
        """Run the network over images of one shape; their windows are decoded in the background.

        Parameters
        ----------
        images : sequence of PendingImage
            From ``prepare``.
        on_tiles : callable
            Hears of progress after every batch, and may raise to stop; those who collect get the same error.
        """
        if not images:
            return
        shape = (images[0].pixels.shape[0], images[0].pixels.shape[1])
        try:
            self._run(images, shape, on_tiles)
        except BaseException as error:
            for window in (window for image in images for window in image.windows):
                if not window.done():
                    with suppress(InvalidStateError):  # a decoder was quicker
                        window.set_exception(error)
            raise

    def _run(self, images: Sequence[PendingImage], shape: tuple[int, int], on_tiles: OnTiles) -> None:
        every_map = [np.empty((*shape, 2), np.float32) for _ in images]
        waiting = [deque(zip(self._windows(shape), image.windows, strict=True)) for image in images]
        for batch in self._batches(len(images), shape):
            tiles = np.stack([read_window(images[index].pixels, tile.window) for index, tile in batch])
            maps = self._predictor.maps(tiles)
            for (index, tile), tile_maps in zip(batch, maps, strict=True):
                every_map[index][tile.core] = tile_maps[tile.keep]
                while waiting[index] and waiting[index][0][0][0] <= tile.index:
                    (_, window), future = waiting[index].popleft()
                    self._decoders.submit(self._decode, every_map[index], window, future)
            on_tiles(len(batch))

    def _decode(self, maps: FloatArray, window: Tile, future: Future[WindowObjects]) -> None:
        try:
            found = decode_window(maps, window, self._predictor.instances, round(LARGEST_HALO_UM / self._predictor.mpp))
        except BaseException as error:  # whoever waits must hear of it
            with suppress(InvalidStateError):
                future.set_exception(error)
        else:
            with suppress(InvalidStateError):
                future.set_result(found)

    def _window_grid(self, shape: tuple[int, int]) -> TileGrid:
        return TileGrid(shape, WINDOW_PX, round(WINDOW_HALO_UM / self._predictor.mpp))

    def _grid(self, shape: tuple[int, int]) -> TileGrid:
        return TileGrid(shape, self._tile_px, self._predictor.halo_px, self._predictor.multiple_px, BORDER_PX)

    def _windows(self, shape: tuple[int, int]) -> Iterator[tuple[int, Tile]]:
        """Yield the windows for decoding, each with the last tile whose maps it needs."""
        grid = self._grid(shape)
        core, (_, across) = grid.core_shape, grid.grid_shape
        for window in self._window_grid(shape):
            # a window that has to grow may need maps of tiles to come, so the largest halo counts
            reach = round(LARGEST_HALO_UM / self._predictor.mpp)
            row, column = (
                (min(side.stop + reach, size) - 1) // length for side, size, length in zip(window.core, shape, core, strict=True)
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
