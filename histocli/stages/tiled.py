"""One slide on its way through segmentation: what a block needs, what is kept of it, and how the
store is made of that.

::

    open_view ──> blocks ──> pipeline ──> keep_windows ──> work/found        any order, any process
    settle_all ──> write_table ──> write_labels                              one process, in the order of the grid

Nothing here holds more of a slide than its coarse overview, some windows, and some bytes a window.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.interrupts import raise_if_stopped
from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.inference.blocks import BlockGrid, shows_tissue
from histocli.inference.pipeline import LARGEST_HALO_UM, PendingBlock
from histocli.inference.runs import (
    RunObjects,
    joined,
    measure_runs,
    no_objects,
    paint,
    settle,
    window_to_runs,
)
from histocli.inference.tiling import SEAM_PX
from histocli.inference.tissue import tissue_mask
from histocli.model.normalisation import (
    Contrast,
    contrast_from,
    contrast_of,
    density_table,
    glass_to_white,
    raise_contrast,
    tissue_moments,
)
from histocli.optics.density import white_level
from histocli.optics.stains import TYPICAL_STAINS
from histocli.slides.resampling import ResampledSlide, shrunk
from histocli.slides.slide import Slide, shape_of
from histocli.stores import labels
from histocli.stores.labels import TiledLabelsWriter, overview_factor

# relative; within this a slide goes to the network as it is: scanners differ by more than a model
# notices
SAME_MPP = 0.02
CONTRAST_SQUARES, CONTRAST_SQUARE_PX = 64, 256  # what the contrast of a slide is measured on
KEPT_WINDOWS = 64  # windows of objects that are held in memory at a time
STOP_EVERY = 16  # windows or shards; what takes a second is not worth stopping
STOPPED = "segment: stopped; what was finished is kept, the same command goes on"

_HEMATOXYLIN = np.linalg.pinv(TYPICAL_STAINS)[:, 0].astype(np.float32)


@dataclass(frozen=True)
class View:
    """A slide as the network sees it."""

    slide: Slide
    pixels: ResampledSlide
    """At the model's resolution, with white glass."""
    tissue: BoolMask
    """Where nuclei are looked for, on the grid of the overview."""
    factor: int
    """Slide pixels along a side of a cell of ``tissue``."""
    density: npt.NDArray[np.float32]
    """Absorbance of each value of red, green and blue in ``pixels``, shape (256, 3)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at the model's resolution."""
        return self.pixels.shape

    def is_tissue(self, anchors: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Tell whether nuclei are looked for at slide pixels (n, 2)."""
        return np.asarray(self.tissue[anchors[:, 0] // self.factor, anchors[:, 1] // self.factor])


def look(
    slide: Slide,
    factor: int,
    *,
    find_tissue: bool,
    roi: Callable[[tuple[int, int], float], BoolMask] | None,
) -> tuple[RGBImage, BoolMask, float]:
    """Return the overview of a slide, where nuclei are looked for, and the level of empty glass.

    Parameters
    ----------
    slide : Slide
    factor : int
        Slide pixels along a side of an overview pixel.
    find_tissue : bool
        Otherwise everything is tissue.
    roi : callable, optional
        Given height, width and slide pixels a pixel, returns the mask of the regions that the user
        drew.
    """
    overview = shrunk(slide, factor)
    level = white_level(overview)
    shape = (overview.shape[0], overview.shape[1])
    wanted = (
        tissue_mask(overview, slide.mpp * factor, level) if find_tissue else np.ones(shape, bool)
    )
    return overview, wanted if roi is None else wanted & roi(shape, factor), level


def slide_contrast(
    slide: Slide, model_mpp: float, glass_level: float, tissue: BoolMask
) -> Contrast | None:
    """Measure the contrast of a slide on some squares of its tissue, as the network will see them.

    Parameters
    ----------
    slide : Slide
    model_mpp : float
        Micrometres per pixel.
    glass_level : float
        From ``look``.
    tissue : ndarray of bool
        Where nuclei are looked for, on the grid of the overview.
    """
    view = view_of(slide, model_mpp, glass_level, tissue)
    height, width = view.shape
    if height * width <= CONTRAST_SQUARES * CONTRAST_SQUARE_PX**2:
        return contrast_of(view.pixels.read(slice(0, height), slice(0, width)))
    moments = np.zeros(7)
    cells = np.argwhere(tissue)
    chosen = (
        cells[np.unique(np.linspace(0, len(cells) - 1, CONTRAST_SQUARES).astype(int))]
        if len(cells)
        else cells
    )
    for cell in chosen:
        rows, columns = (
            slice(
                max(middle - CONTRAST_SQUARE_PX // 2, 0),
                min(middle + CONTRAST_SQUARE_PX // 2, size),
            )
            for middle, size in zip(
                ((cell + 0.5) * view.factor / view.pixels.ratio).astype(int).tolist(),
                view.shape,
                strict=True,
            )
        )
        # a cell may reach over the border
        if rows.start < rows.stop and columns.start < columns.stop:
            moments += tissue_moments(view.pixels.read(rows, columns))
    return contrast_from(moments)


def view_of(
    slide: Slide,
    model_mpp: float,
    glass_level: float,
    tissue: BoolMask,
    contrast: Contrast | None = None,
    contrast_floor: float = 0.0,
) -> View:
    """Return a slide at a model's resolution, with white glass and no less contrast than the model
    is used to.

    Parameters
    ----------
    slide : Slide
    model_mpp : float
        Micrometres per pixel.
    glass_level : float
        From ``look``.
    tissue : ndarray of bool
        Where nuclei are looked for, on the grid of the overview.
    contrast : Contrast, optional
        Of the slide, from ``slide_contrast``.
    contrast_floor : float
        From the model's header.
    """

    def change(image: RGBImage) -> RGBImage:
        return raise_contrast(glass_to_white(image, glass_level), contrast, contrast_floor)

    return View(
        slide,
        ResampledSlide(slide, model_mpp, same_mpp=SAME_MPP).with_change(change),
        tissue,
        overview_factor(shape_of(slide), slide.mpp),
        density_table(contrast, contrast_floor),
    )


def has_tissue(view: View, grid: BlockGrid) -> Callable[[int], bool]:
    """Return a test whether a window of the grid shows any tissue."""
    cell = view.factor / view.pixels.ratio
    return lambda window: shows_tissue(view.tissue, grid.windows[window].core, cell)


def keep_windows(work: Path, view: View, pending: PendingBlock) -> int:
    """Wait for the windows of a block and keep what they found; return the number of own
    objects.
    """
    place = pending.block.pixels

    def hematoxylin(y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> FloatArray:
        top, left = place[0].start, place[1].start
        height, width = pending.pixels.shape[:2]
        if y.max() - top >= height or x.max() - left >= width or y.min() < top or x.min() < left:
            rows, columns = (
                slice(int(y.min()), int(y.max()) + 1),
                slice(int(x.min()), int(x.max()) + 1),
            )
            seen = pending.read(rows, columns)[y - rows.start, x - columns.start]
        else:
            seen = pending.pixels[y - top, x - left]
        stain: FloatArray = view.density[seen, range(3)] @ _HEMATOXYLIN
        return stain

    n = 0
    for window, future in zip(pending.block.windows, pending.windows, strict=True):
        found = window_to_runs(
            future.result(),
            image_shape=view.shape,
            slide_shape=shape_of(view.slide),
            ratio=view.pixels.ratio,
            hematoxylin=hematoxylin,
            is_tissue=view.is_tissue,
        )
        labels.save_found(work, window.index, found.arrays())
        n += int(found.owned.sum())
    return n


class _Shelf:
    """Objects of windows, the latest of them in memory; safe from any thread."""

    def __init__(self, load: Callable[[int], RunObjects]) -> None:
        self._load = load
        self._kept: OrderedDict[int, RunObjects] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, window: int) -> RunObjects:
        with self._lock:
            if window in self._kept:
                self._kept.move_to_end(window)
                return self._kept[window]
        found = self._load(window)
        self[window] = found
        return found

    def __setitem__(self, window: int, found: RunObjects) -> None:
        with self._lock:
            self._kept[window] = found
            self._kept.move_to_end(window)
            while len(self._kept) > KEPT_WINDOWS:
                self._kept.popitem(last=False)


def make_store(
    writer: TiledLabelsWriter,
    grid: BlockGrid,
    wanted: Callable[[int], bool],
    *,
    ratio: float,
    mpp: float,
    workers: int,
) -> int:
    """Make table and labels of what was found in all windows; return the number of nuclei.

    Parameters
    ----------
    writer : TiledLabelsWriter
    grid : BlockGrid
        Of the slide at the model's resolution.
    wanted : callable
        Tells whether a window was looked at.
    ratio : float
        Slide pixels along a side of a pixel of the grid.
    mpp : float
        Micrometres per pixel of the slide.
    workers : int
        Threads that paint labels.
    """
    maker = _StoreMaker(writer, grid, wanted, ratio, mpp)
    n = maker.settle_all()
    maker.write_table(n)
    maker.write_labels(workers)
    return n


class _StoreMaker:
    def __init__(
        self,
        writer: TiledLabelsWriter,
        grid: BlockGrid,
        wanted: Callable[[int], bool],
        ratio: float,
        mpp: float,
    ) -> None:
        self._writer, self._grid, self._wanted, self._ratio, self._mpp = (
            writer,
            grid,
            wanted,
            ratio,
            mpp,
        )
        self._settled = _Shelf(
            lambda window: RunObjects.from_arrays(writer.load_found(window, "settled"))
        )
        model_mpp = mpp * ratio
        self._reach_px = round(LARGEST_HALO_UM / model_mpp) + SEAM_PX
        self._near = [max(1, -(-2 * self._reach_px // side)) for side in grid.windows.core_shape]
        self._n_cut = 0

    def _windows(self) -> Iterator[int]:
        for window in range(len(self._grid.windows)):
            if self._wanted(window):
                yield window

    def _around(self, window: int) -> Iterator[int]:
        """Yield the windows whose objects may meet those of a window."""
        down, across = self._grid.windows.grid_shape
        row, column = divmod(window, across)
        for y in range(max(row - self._near[0], 0), min(row + self._near[0] + 1, down)):
            for x in range(max(column - self._near[1], 0), min(column + self._near[1] + 1, across)):
                other = y * across + x
                if other != window and self._wanted(other):
                    yield other

    def settle_all(self) -> int:
        """Decide which window has which object; return the number of objects."""
        writer, n, doubtful = self._writer, 0, []
        for count, window in enumerate(self._windows(), start=1):
            if count % STOP_EVERY == 0:
                raise_if_stopped(STOPPED)
            found = RunObjects.from_arrays(writer.load_found(window))
            before = [self._settled[other] for other in self._around(window) if other < window]
            own = settle(found, found.owned, before)
            self._n_cut += found.n_cut
            writer.save_settled(window, own.arrays())
            self._settled[window] = own
            n += np.unique(own.objects).size
            if not found.owned.all():
                doubtful.append(window)
        # what each of two windows ascribed to the other comes last, where there is room
        for window in doubtful:
            found = RunObjects.from_arrays(writer.load_found(window))
            own = self._settled[window]
            extra = settle(
                found,
                ~found.owned,
                [own, *(self._settled[other] for other in self._around(window))],
            )
            if extra.y.size:
                n += np.unique(extra.objects).size
                both = joined(own, extra)
                writer.save_settled(window, both.arrays())
                self._settled[window] = both
        return n

    def write_table(self, n: int) -> None:
        """Number the objects by their anchors and write a row for each; keep the numbers for the
        labels.
        """
        _, empty = measure_runs(no_objects(), self._mpp)
        self._writer.begin_table(n, {"id": np.zeros(0, np.uint32)} | empty)
        across = self._grid.windows.grid_shape[1]
        ids: dict[int, npt.NDArray[np.uint32]] = {}
        left: dict[int, int] = {}
        waiting: list[tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]] = []
        given = 0
        rows = self._grid.windows.grid_shape[0]
        for row in range(rows):
            for window in range(row * across, (row + 1) * across):
                if not self._wanted(window):
                    continue
                own = self._settled[window]
                index, columns = measure_runs(own, self._mpp)
                ids[window] = np.zeros(len(own), np.uint32)
                left[window] = len(index)
                anchors = own.anchors[index].astype(np.int64)
                key = np.stack(
                    [anchors[:, 0], anchors[:, 1], np.full(len(index), window), index], axis=1
                )
                waiting.append((key, columns))
            # objects of rows to come have their anchors below this
            last = row == rows - 1
            limit = (
                np.inf
                if last
                else (self._grid.windows[row * across].core[0].stop - self._reach_px) * self._ratio
                - SEAM_PX
            )
            key = (
                np.concatenate([part for part, _ in waiting])
                if waiting
                else np.zeros((0, 4), np.int64)
            )
            table = {
                name: np.concatenate([columns[name] for _, columns in waiting])
                if waiting
                else column
                for name, column in empty.items()
            }
            order = np.lexsort((key[:, 1], key[:, 0]))
            ready = order[key[order, 0] < limit]
            later = np.sort(order[key[order, 0] >= limit])
            waiting = [(key[later], {name: column[later] for name, column in table.items()})]
            numbers = np.arange(given + 1, given + len(ready) + 1, dtype=np.uint32)
            given += len(ready)
            if ready.size:
                self._writer.append_rows(
                    {"id": numbers} | {name: column[ready] for name, column in table.items()}
                )
            for window in np.unique(key[ready, 2]).tolist():
                mine = key[ready, 2] == window
                ids[window][key[ready[mine], 3]] = numbers[mine]
                left[window] -= int(mine.sum())
            for window in [window for window, missing in left.items() if not missing]:
                labels.save_found(self._writer.work, window, {"ids": ids.pop(window)}, "ids")
                del left[window]
        self._writer.end_table({"n_cut": self._n_cut})

    def write_labels(self, workers: int) -> None:
        """Paint the shards and the coarser levels."""
        ids: OrderedDict[int, npt.NDArray[np.uint32]] = OrderedDict()
        lock = threading.Lock()

        def ids_of(window: int) -> npt.NDArray[np.uint32]:
            with lock:
                if window not in ids:
                    ids[window] = self._writer.load_found(window, "ids")["ids"]
                    while len(ids) > KEPT_WINDOWS:
                        ids.popitem(last=False)
                return ids[window]

        def shard_of(shard: tuple[int, int]) -> npt.NDArray[np.uint32]:
            if self._writer.is_written(shard):
                return self._writer.read_shard(shard)
            rows, columns = self._writer.shard_region(shard)
            canvas = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
            for window in self._windows_of(rows, columns):
                paint(canvas, (rows.start, columns.start), self._settled[window], ids_of(window))
            self._writer.write_shard(shard, canvas)
            return canvas

        waiting: deque[tuple[tuple[int, int], Future[npt.NDArray[np.uint32]]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="paint") as pool:
            try:
                for count, shard in enumerate(self._writer.shards(), start=1):
                    if count % STOP_EVERY == 0:
                        raise_if_stopped(STOPPED)
                    waiting.append((shard, pool.submit(shard_of, shard)))
                    if len(waiting) > workers:
                        first, painted = waiting.popleft()
                        self._writer.write_coarser(first, painted.result())
                while waiting:
                    first, painted = waiting.popleft()
                    self._writer.write_coarser(first, painted.result())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._writer.end_labels()

    def _windows_of(self, rows: slice, columns: slice) -> Iterator[int]:
        """Yield the windows that may have pixels in a region of the slide."""
        spans = []
        for side, core, n in zip(
            (rows, columns),
            self._grid.windows.core_shape,
            self._grid.windows.grid_shape,
            strict=True,
        ):
            first = int((side.start / self._ratio - self._reach_px - 2) // core)
            last = int((side.stop / self._ratio + self._reach_px + 2) // core)
            spans.append(range(min(max(first, 0), n - 1), min(last, n - 1) + 1))
        across = self._grid.windows.grid_shape[1]
        for row in spans[0]:
            for column in spans[1]:
                if self._wanted(row * across + column):
                    yield row * across + column
