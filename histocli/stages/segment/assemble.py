"""Make the label store of a slide, given the objects that were found in its windows.

One process goes through the overlapping windows in the order of their grid, with a few in memory.
It assigns each object to one window (:mod:`histocli.inference.settling`), writes the table, and
paints the label image shard by shard (a shard is the part of an image that is stored as one file).
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Generic, TypeVar

import numpy as np

from histocli.base.interrupts import raise_if_stopped
from histocli.inference.runs import Ids, RunObjects, measure_runs, no_objects, paint
from histocli.inference.settling import SlideWindows, number_objects, settle_windows
from histocli.stages.segment.backend import STOPPED
from histocli.stores import labels
from histocli.stores.labels import TiledLabelsWriter

KEPT_WINDOWS = 64  # windows whose objects are held in memory at a time
STOP_EVERY = 16  # windows or shards between checks for a stop by the user

Kept = TypeVar("Kept")
Shard = tuple[int, int]


class _Shelf(Generic[Kept]):
    """Values by window: all on disk, the last used also in memory; for use in any thread."""

    def __init__(
        self,
        load: Callable[[int], Kept],
        save: Callable[[int, Kept], None] = lambda window, value: None,
    ) -> None:
        self._load, self._save = load, save
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, window: int) -> Kept:
        with self._lock:
            if window in self._kept:
                self._kept.move_to_end(window)
                return self._kept[window]
        value = self._load(window)
        self._keep(window, value)
        return value

    def __setitem__(self, window: int, value: Kept) -> None:
        self._save(window, value)
        self._keep(window, value)

    def _keep(self, window: int, value: Kept) -> None:
        with self._lock:
            self._kept[window] = value
            self._kept.move_to_end(window)
            while len(self._kept) > KEPT_WINDOWS:
                self._kept.popitem(last=False)


def make_store(
    writer: TiledLabelsWriter, windows: SlideWindows, *, mpp: float, workers: int
) -> None:
    """Make table and labels from the objects of all windows; ``workers`` threads paint labels."""
    settled = _Shelf(
        lambda window: RunObjects.from_arrays(writer.load_found(window, "settled")),
        lambda window, own: writer.save_found(window, own.arrays(), "settled"),
    )
    counts = settle_windows(
        windows,
        lambda window: RunObjects.from_arrays(writer.load_found(window)),
        settled,
        _stop_now_and_then(),
    )
    empty = {"id": np.zeros(0, np.uint32)} | measure_runs(no_objects(), mpp)
    writer.begin_table(counts.objects, empty)
    for numbered in number_objects(windows, settled, lambda own: measure_runs(own, mpp)):
        if len(numbered.columns["id"]):
            writer.append_rows(numbered.columns)
        for window, ids in numbered.complete.items():
            labels.save_found(writer.work, window, {"ids": ids}, "ids")
    writer.end_table({"n_cut": counts.cut})
    write_labels(writer, windows, settled, workers)


def write_labels(
    writer: TiledLabelsWriter, windows: SlideWindows, settled: _Shelf[RunObjects], workers: int
) -> None:
    """Paint the shards of the finest level of the label image, and write the coarser levels."""
    ids = _Shelf(lambda window: writer.load_found(window, "ids")["ids"])

    def shard_of(shard: Shard) -> Ids:
        if writer.is_written(shard):
            return writer.read_shard(shard)
        rows, columns = writer.shard_region(shard)
        canvas = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint32)
        for window in windows.touching(rows, columns):
            paint(canvas, (rows.start, columns.start), settled[window].runs, ids[window])
        writer.write_shard(shard, canvas)
        return canvas

    def write_coarser() -> None:
        shard, painted = waiting.popleft()
        writer.write_coarser(shard, painted.result())

    waiting: deque[tuple[Shard, Future[Ids]]] = deque()
    stop = _stop_now_and_then()
    with ThreadPoolExecutor(workers, thread_name_prefix="paint") as pool:
        try:
            for shard in writer.shards():
                stop()
                waiting.append((shard, pool.submit(shard_of, shard)))
                if len(waiting) > workers:
                    write_coarser()
            while waiting:
                write_coarser()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    writer.end_labels()


def _stop_now_and_then() -> Callable[[], None]:
    """Return a function that, at every ``STOP_EVERY``-th call, checks for a stop by the user."""
    calls = count(1)

    def stop() -> None:
        if next(calls) % STOP_EVERY == 0:
            raise_if_stopped(STOPPED)

    return stop
