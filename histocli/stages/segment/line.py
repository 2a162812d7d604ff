"""The assembly line that jobs go through: threads with bounded queues between them.

A job is one input; a part is the piece of it that is read and written as a whole::

    reader ──> network (one a device) ──> decoding ──> writers ──> finisher
    one part   tile by tile               window by    objects     table, labels, other
    ahead                                 window       of a part   files of whole slides

The decoding threads belong to :class:`~histocli.inference.pipeline.Pipeline`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from histocli.base.interrupts import raise_if_stopped
from histocli.base.memory import keep_memory_below
from histocli.base.progress import Track
from histocli.inference.pipeline import PendingBlock, Pipeline
from histocli.stages.segment.backend import STOPPED
from histocli.stages.segment.gauge import Gauge
from histocli.stages.segment.job import Job
from histocli.stages.segment.ledger import Ledger
from histocli.stages.segment.loaded import LoadedModel

LOOK_AHEAD = 1  # parts that have been read and wait for the network
WRITERS = 2  # writer threads per device: writing waits for the disk more than it computes
UNWRITTEN_PARTS = 2  # largest number of parts per device that are in the network or not yet written
# share of the expected memory above which freed memory is given back to the system; the rest is
# for memory that is taken meanwhile
GIVE_BACK_ABOVE = 0.8
# seconds between checks of the memory, and shortest time between two times of giving back
LOOK_S, GIVE_BACK_EVERY_S = 0.05, 2.0


def run_line(jobs: Sequence[Job], model: LoadedModel, ledger: Ledger, track: Track) -> None:
    """Segment all jobs; return when all outputs are written."""
    with ExitStack() as stack:
        for job in jobs:
            stack.callback(job.close)
        gauge = stack.enter_context(Gauge.open(jobs, track))
        ledger.on_result = gauge.ended
        _Line(model, ledger, gauge).run(jobs)


@dataclass
class _Read:
    """A part that was read, or the error that prevented it."""

    job: Job
    part: Any = None
    pending: list[PendingBlock] | None = None
    last: bool = False
    error: BaseException | None = None


@dataclass
class _Progress:
    """The progress of a job."""

    job: Job
    unwritten: int = 0
    """Parts that the network has begun and that are not yet written."""
    all_read: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


def _started(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


class _Line:
    """The threads and queues of the module's diagram."""

    def __init__(self, model: LoadedModel, ledger: Ledger, gauge: Gauge) -> None:
        self._model, self._ledger, self._gauge = model, ledger, gauge
        self._ready: queue.Queue[_Read | None] = queue.Queue(LOOK_AHEAD)
        self._room = threading.Semaphore(UNWRITTEN_PARTS * len(model.pipelines))
        self._halt = threading.Event()
        self._over = threading.Event()  # all threads but that of the memory have ended
        self._fatal: BaseException | None = None
        self._progress: dict[int, _Progress] = {}
        self._lock = threading.Lock()
        writers = WRITERS * len(model.pipelines)
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix="write")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")

    def run(self, jobs: Sequence[Job]) -> None:
        reader = _started("read", self._read, jobs)
        others = [
            _started("network", self._work, pipeline) for pipeline in self._model.pipelines[1:]
        ]
        memory = _started("memory", self._watch_memory)
        try:
            self._work(self._model.pipelines[0])
        finally:
            self._halt.set()
            self._drain()
            for thread in (*others, reader):
                thread.join()
            # save parts in hand, and finish complete slides, before the command ends
            self._writers.shutdown(wait=True)
            self._finisher.shutdown(wait=True)
            self._over.set()
            memory.join()
        if self._fatal is not None:
            raise self._fatal

    def _read(self, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                try:
                    parts = job.parts(self._model)
                    self._gauge.begin(job, sum(job.tiles_of(part) for part in parts))
                    if not parts:  # an earlier run did all parts
                        self._put(_Read(job, last=True))
                    for number, part in enumerate(parts, start=1):
                        if self._halt.is_set():
                            return
                        self._put(_Read(job, part, job.load(part), number == len(parts)))
                except BaseException as error:  # raised again in the network's thread
                    self._put(_Read(job, error=error))
        finally:
            self._put(None)

    def _watch_memory(self) -> None:
        """Give freed memory back to the system when the process nears the expected memory; not too
        often, since taking memory anew costs time.
        """
        while not self._over.wait(LOOK_S):
            if keep_memory_below(GIVE_BACK_ABOVE * self._model.expected_bytes):
                self._over.wait(GIVE_BACK_EVERY_S)

    def _put(self, item: _Read | None) -> None:
        while not self._halt.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _drain(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._ready.get_nowait()

    def _work(self, pipeline: Pipeline) -> None:
        """Take parts through the network until there are no more."""
        try:
            while not self._halt.is_set():
                try:
                    item = self._ready.get(timeout=0.1)
                except queue.Empty:
                    continue
                if item is None:
                    self._put(None)  # for the next device
                    return
                with self._ledger.failures_of(item.job):
                    self._take(item, pipeline)
        except BaseException as error:
            self._fail(error)

    def _take(self, item: _Read, pipeline: Pipeline) -> None:
        if item.error is not None:
            raise item.error
        if self._ledger.has_failed(item.job):
            return
        with self._lock:
            progress = self._progress.setdefault(id(item.job), _Progress(item.job))
        if item.pending is None:
            self._advance(progress, 0, all_read=True)
            return
        while not self._room.acquire(timeout=0.1):
            if self._halt.is_set():
                return
        self._advance(progress, 1, all_read=item.last)
        self._writers.submit(self._write, progress, item.part, item.pending)
        pipeline.run(item.pending, lambda n: self._on_tiles(progress, n))

    def _write(self, progress: _Progress, part: Any, pending: list[PendingBlock]) -> None:
        written = False
        try:
            with self._ledger.failures_of(progress.job):
                progress.job.write(part, pending)
                written = True
        except BaseException as error:
            self._fail(error)
        finally:
            self._room.release()
        if written:
            self._gauge.wrote(progress.job, progress.job.tiles_of(part))
            self._advance(progress, -1)

    def _advance(self, progress: _Progress, change: int, all_read: bool = False) -> None:
        with progress.lock:
            progress.unwritten += change
            progress.all_read |= all_read
            complete = progress.all_read and not progress.unwritten
        if complete and not self._ledger.has_failed(progress.job):
            self._finisher.submit(self._finish, progress.job)

    def _finish(self, job: Job) -> None:
        try:
            with self._ledger.failures_of(job):
                self._ledger.done(job, "done", job.finish())
                job.close()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._fatal = self._fatal or error
        self._halt.set()

    def _on_tiles(self, progress: _Progress, n: int) -> None:
        self._gauge.saw_tiles(progress.job, n)
        raise_if_stopped(STOPPED)
