"""From pixels to instances, with the network, the decoding of its maps and the caller's own work at the same time.

The network runs in the caller's thread, tile by tile. As soon as the maps around a window are there, a worker decodes it;
meanwhile the network goes on. The caller collects an image when it wants to, such as in the thread that writes it. What comes
out depends on the pixels and the predictor only, not on the number of workers, and not on the tiles either, as long as the
network sees no further than its halo: tiles decide which maps are computed together, and instances are found on windows of
the finished maps whose size is fixed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, InstanceLabels, RGBImage
from histocli.inference.tiling import Tile, TileGrid, WindowObjects, decode_window, read_window, stitch

WINDOW_PX = 1024  # core of a window for decoding; small enough to keep workers busy, large enough that halos cost little
WINDOW_HALO_UM = 20.0  # a nucleus reaches less far from its middle, and its neighbours shape it no further off
LARGEST_HALO_UM = 80.0  # where an object leaves its window, look this far; what is still cut then is no nucleus
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


@dataclass
class PendingImage:
    """An image whose maps are finished and whose windows are being decoded."""

    maps: FloatArray
    windows: list[Future[WindowObjects]] = field(default_factory=list)

    def collect(self) -> Nuclei:
        """Wait for the windows and put them together."""
        height, width = self.maps.shape[:2]
        labels, anchors = stitch((window.result() for window in self.windows), (height, width))
        flat = labels.ravel()
        inside = np.flatnonzero(flat)
        size = np.bincount(flat[inside], minlength=len(anchors) + 1)[1:]
        total = np.bincount(flat[inside], self.maps[..., 0].ravel()[inside], len(anchors) + 1)[1:]
        return Nuclei(labels=labels, probability=(total / np.maximum(size, 1)).astype(np.float32))


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

    def start(self, images: Sequence[RGBImage], on_tiles: OnTiles = lambda n: None) -> list[PendingImage]:
        """Run the network over images of one shape, and have their windows decoded in the background.

        Parameters
        ----------
        images : sequence of ndarray of uint8, shape (H, W, 3)
            At the predictor's resolution.
        on_tiles : callable
            Hears of progress after every batch, and may raise to stop.

        Returns
        -------
        list of PendingImage
            One for each image; ``collect`` waits for it.
        """
        if not images:
            return []
        shape = (images[0].shape[0], images[0].shape[1])
        pending = [PendingImage(np.empty((*shape, 2), np.float32)) for _ in images]
        # windows in the order of the last tile that they wait for; a map's tiles come row by row
        waiting = [list(self._windows(shape)) for _ in images]
        for batch in self._batches(len(images), shape):
            tiles = np.stack([read_window(images[index], tile.window) for index, tile in batch])
            maps = self._predictor.maps(tiles)
            for (index, tile), tile_maps in zip(batch, maps, strict=True):
                pending[index].maps[tile.core] = tile_maps[tile.keep]
                while waiting[index] and waiting[index][0][0] <= tile.index:
                    _, window = waiting[index].pop(0)
                    pending[index].windows.append(self._decoders.submit(self._decode, pending[index].maps, window))
            on_tiles(len(batch))
        return pending

    def _decode(self, maps: FloatArray, window: Tile) -> WindowObjects:
        return decode_window(maps, window, self._predictor.instances, round(LARGEST_HALO_UM / self._predictor.mpp))

    def _grid(self, shape: tuple[int, int]) -> TileGrid:
        return TileGrid(shape, self._tile_px, self._predictor.halo_px, self._predictor.multiple_px, BORDER_PX)

    def _windows(self, shape: tuple[int, int]) -> Iterator[tuple[int, Tile]]:
        """Yield the windows for decoding, each with the last tile whose maps it needs."""
        grid = self._grid(shape)
        core, (_, across) = grid.core_shape, grid.grid_shape
        halo_px = round(WINDOW_HALO_UM / self._predictor.mpp)
        for window in TileGrid(shape, WINDOW_PX, halo_px):
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
