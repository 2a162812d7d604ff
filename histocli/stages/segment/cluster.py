"""Segment the blocks of slides on a Dask cluster.

Workers read pixels and save the objects that they find; only small records travel::

    this process                        scheduler           workers (one task at a time each)
    begins stores ── tasks ───────────────>  ──────────────>  open the slide and the model once
                                                              read, network, decode, save objects
                                                              in the store's work folder
    makes the stores <── done or error ─────  <──────────────

Slides, model and outputs must have the same paths for all, as on a cluster's shared file system.
If a worker dies, the scheduler gives its unfinished blocks to another worker; a file of objects is
either complete or absent. The outputs have the same bytes as those of one process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidOption, OutOfResources
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.inference.blocks import Block, BlockGrid
from histocli.slides.open import open_slide
from histocli.stages.segment.backend import STOPPED, Settings, decided
from histocli.stages.segment.gauge import Gauge
from histocli.stages.segment.ledger import Ledger
from histocli.stages.segment.loaded import LoadedModel, load_model
from histocli.stages.segment.slide_job import SlideJob
from histocli.stages.segment.view import View, keep_windows, read_block, recorded_view
from histocli.stores.models import ModelHeader, read_model_header

IN_FLIGHT = 4  # tasks per worker that are handed to the scheduler at a time
RETRIES = 3  # how often a failed task is tried again
CONNECT_S = 30  # seconds to wait for the scheduler's answer


@dataclass(frozen=True)
class _Task:
    """A block, as it is sent to a worker."""

    slide: str
    mpp: float | None
    facts: Json
    """Glass level and contrast of the slide, as recorded in its store."""
    work: str
    tissue: npt.NDArray[np.uint8]
    """The tissue mask, eight pixels a byte."""
    tissue_shape: tuple[int, int]
    block: int
    model: str
    config: SegmentConfig
    execution: Execution


def run_on_cluster(
    jobs: Sequence[SlideJob],
    model: Path,
    header: ModelHeader,
    config: SegmentConfig,
    execution: Execution,
    ledger: Ledger,
    track: Track,
) -> None:
    """Send the blocks of slides to the workers of a Dask cluster, then make the stores here.

    Raises
    ------
    InvalidOption
        The optional package is not installed.
    OutOfResources
        The scheduler does not answer, or workers died again and again over one block.
    """
    assert config.scheduler is not None
    with ExitStack() as stack:
        client = stack.enter_context(_connect(config.scheduler))
        # only for the grid of blocks; the network runs in the workers, all in the same way
        loaded = load_model(model, header, config, execution, stack)
        config, execution = decided(Settings(config, execution), loaded.backend)
        for job in jobs:
            stack.callback(job.close)
        gauge = stack.enter_context(Gauge.open(jobs, track))
        ledger.on_result = gauge.ended
        for job in jobs:
            with ledger.failures_of(job):
                blocks = job.parts(loaded)
                gauge.begin(job, len(blocks))
                if blocks:
                    tasks = _tasks(job, blocks, model, config, execution)
                    _scatter(client, tasks, partial(gauge.did, job))
                ledger.done(job, "done", job.finish())
                job.close()


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise InvalidOption(
            "--scheduler needs the optional package distributed: pip install 'histosynth[dist]'"
        ) from error
    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise OutOfResources(
            f"--scheduler {address}: does not answer ({error}); is it running and reachable?"
        ) from error


def _tasks(
    job: SlideJob, blocks: Sequence[Block], model: Path, config: SegmentConfig, execution: Execution
) -> list[_Task]:
    writer = job.writer
    assert writer is not None
    packed = np.packbits(writer.tissue)
    return [
        _Task(
            slide=str(job.input.path.absolute()),
            mpp=job.given_mpp,
            facts={name: writer.facts.get(name) for name in ("glass_level", "contrast")},
            work=str(writer.work.absolute()),
            tissue=packed,
            tissue_shape=(writer.tissue.shape[0], writer.tissue.shape[1]),
            block=block.index,
            model=str(model.absolute()),
            config=config,
            execution=execution,
        )
        for block in blocks
    ]


def _scatter(client: Any, tasks: Sequence[_Task], on_block: Callable[[], None]) -> None:
    """Hand tasks to the scheduler, a bounded number at a time, and wait for all.

    ``on_block`` is called after each.
    """
    from distributed import KilledWorker, as_completed

    waiting = iter(tasks)

    def next_tasks(n: int) -> list[Any]:
        # do_block lets one task at a time run in a worker, whatever its number of threads
        return [
            client.submit(do_block, task, pure=False, retries=RETRIES)
            for task in islice(waiting, n)
        ]

    workers = max(1, len(client.scheduler_info()["workers"]))
    pending: Any = as_completed(next_tasks(IN_FLIGHT * workers), loop=client.loop)  # type: ignore[no-untyped-call]
    try:
        for future in pending:
            raise_if_stopped(STOPPED)
            try:
                future.result()
            except KilledWorker as error:
                raise OutOfResources(
                    f"workers died again and again over one block ({error}); most often for lack "
                    "of memory: give --max-memory"
                ) from error
            on_block()
            for task in next_tasks(1):
                pending.add(task)
    finally:
        client.cancel(list(pending.futures))


_lock = threading.Lock()  # one network runs at a time in a worker, whatever its number of threads


class _AtHand:
    """Keeps, in a worker, every model and the slide that was opened last for later tasks."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, SegmentConfig, Execution], LoadedModel] = {}
        self._stack = ExitStack()  # the pipelines' threads live as long as the worker
        self._slide = ""
        self._view: tuple[View, BlockGrid] | None = None

    def model(self, task: _Task) -> LoadedModel:
        """Return the task's model."""
        key = (task.model, task.config, task.execution)
        if key not in self._models:
            path = Path(task.model)
            self._models[key] = load_model(
                path, read_model_header(path), task.config, task.execution, self._stack
            )
        return self._models[key]

    def view(self, task: _Task, model: LoadedModel) -> tuple[View, BlockGrid]:
        """Return the slide at the model's resolution, with white glass, and its blocks."""
        key = f"{task.slide} {task.mpp} {task.work}"
        if self._view is None or self._slide != key:
            if self._view is not None:
                self._view[0].slide.close()
                self._view = None
            slide = open_slide(task.slide, mpp=task.mpp)
            height, width = task.tissue_shape
            tissue = np.unpackbits(task.tissue, count=height * width).reshape(height, width)
            view = recorded_view(slide, model, task.facts, tissue.astype(bool))
            self._slide, self._view = key, (view, model.grid(view.shape))
        return self._view


_at_hand = _AtHand()


def do_block(task: _Task) -> None:
    """Segment one block in a worker of the cluster; Dask raises an error in the calling process."""
    with _lock:
        model = _at_hand.model(task)
        view, grid = _at_hand.view(task, model)
        block = grid.block(task.block, view.has_tissue(grid))
        if block is not None:
            pending = read_block(view, grid, block)
            model.pipelines[0].run([pending])
            keep_windows(Path(task.work), view, pending)
