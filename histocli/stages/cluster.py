"""Blocks of slides on a Dask cluster: pixels are read and results are kept where the work is done,
only small records travel.

::

    this process                        scheduler           workers (one task at a time each)
    begins stores ── blocks ──────────────>  ──────────────>  open the slide and the model once
                                                              read, network, decode, keep what was
                                                              found in work/
    makes the stores <── counts ────────────  <──────────────

Slides, model and outputs must lie at the same paths for all, as on a cluster's shared file system.
A worker that dies loses the blocks that it had in hand, and the scheduler gives them to another;
what it kept is whole or not there. What comes out are the same bytes as from one process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidOption, OutOfResources
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Bar, Track
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.inference.blocks import Block, BlockGrid
from histocli.model.normalisation import Contrast
from histocli.slides.open import open_slide
from histocli.stages.pipelines import LoadedModel, load_model
from histocli.stages.tiled import STOPPED, View, has_tissue, keep_windows, view_of
from histocli.stores.models import ModelHeader

IN_FLIGHT = 4  # tasks for each worker that the scheduler knows of at a time
RETRIES = 3  # of a task whose worker died
CONNECT_S = 30


class ClusterJob(Protocol):
    """What is needed of a slide's job."""

    input: Any
    mpp: float | None
    view: View | None
    writer: Any
    grid: BlockGrid

    def parts(self, model: LoadedModel) -> list[Block]:
        """Begin the store and return the blocks that are missing."""

    def finish(self) -> Any:
        """Make the store and the other files."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(frozen=True)
class _Task:
    """A block, as it travels."""

    slide: str
    mpp: float | None
    glass_level: float
    contrast: Json | None
    work: str
    tissue: npt.NDArray[np.uint8]
    tissue_shape: tuple[int, int]
    block: int
    model: str
    facts: Json
    config: SegmentConfig
    execution: Execution


def run_on_cluster(
    jobs: Sequence[ClusterJob],
    model: Path,
    header: ModelHeader,
    config: SegmentConfig,
    execution: Execution,
    ledger: Any,
    track: Track,
) -> None:
    """Share the blocks of slides out to the workers of a Dask cluster, then make the stores here.

    Parameters
    ----------
    jobs : sequence of ClusterJob
    model : Path
    header : ModelHeader
    config : SegmentConfig
        ``scheduler`` is the address.
    execution : Execution
    ledger
        Hears what became of the jobs.
    track : Track

    Raises
    ------
    InvalidOption
        The optional package is not installed.
    OutOfResources
        There is no scheduler, or all workers have gone.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise InvalidOption(
            "--scheduler needs the optional package distributed: pip install 'histosynth[dist]'"
        ) from error
    assert config.scheduler is not None
    try:
        client = Client(config.scheduler, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise OutOfResources(
            f"--scheduler {config.scheduler}: does not answer ({error}); is it running and reachable?"
        ) from error
    facts: Json = {}
    with ExitStack() as stack, client:
        # for the grid; the network runs elsewhere
        loaded = load_model(model, header, facts, config, execution, stack)
        for job in jobs:
            stack.callback(job.close)
        bar = stack.enter_context(track("segment", len(jobs)))
        ledger.on_result = lambda name: bar.advance(1, name)
        for job in jobs:
            with ledger.failures_of(job):
                blocks = job.parts(loaded)
                if blocks:
                    tasks = _tasks(job, blocks, model, config, execution)
                    _scatter(client, as_completed, tasks, partial(_show, bar, job.input.path.name))
                ledger.done(job, "done", job.finish())
                job.close()


def _show(bar: Bar, name: str, done: int) -> None:
    bar.advance(0, f"{name}, block {done}")


def _tasks(
    job: ClusterJob,
    blocks: Sequence[Block],
    model: Path,
    config: SegmentConfig,
    execution: Execution,
) -> list[_Task]:
    assert job.view is not None
    packed = np.packbits(job.view.tissue)
    return [
        _Task(
            slide=str(job.input.path.absolute()),
            mpp=job.mpp,
            glass_level=job.writer.facts["glass_level"],
            contrast=job.writer.facts.get("contrast"),
            work=str(job.writer.work.absolute()),
            tissue=packed,
            tissue_shape=(job.view.tissue.shape[0], job.view.tissue.shape[1]),
            block=block.index,
            model=str(model.absolute()),
            facts={},
            config=config,
            execution=execution,
        )
        for block in blocks
    ]


def _scatter(
    client: Any, as_completed: Any, tasks: Sequence[_Task], on_done: Callable[[int], None]
) -> None:
    """Hand tasks out, a bounded number at a time, and wait for all."""
    from distributed import KilledWorker

    waiting = iter(tasks)

    def next_tasks(n: int) -> list[Any]:
        some = [task for _, task in zip(range(n), waiting, strict=False)]
        # resources are the worker's to declare; one task at a time is what its thread count says
        return [client.submit(do_block, task, pure=False, retries=RETRIES) for task in some]

    workers = max(1, len(client.scheduler_info()["workers"]))
    pending = as_completed(next_tasks(IN_FLIGHT * workers), loop=client.loop)
    done = 0
    try:
        for future in pending:
            raise_if_stopped(STOPPED)
            try:
                future.result()
            except KilledWorker as error:
                raise OutOfResources(
                    f"workers died again and again over one block ({error}); most often for lack of memory: give --max-memory"
                ) from error
            done += 1
            on_done(done)
            for task in next_tasks(1):
                pending.add(task)
    finally:
        client.cancel(list(pending.futures))


_lock = threading.Lock()  # a network at a time in a worker, however many threads it has
_at_hand: dict[str, tuple[Any, ...]] = {}


def do_block(task: _Task) -> int:
    """Work on one block; runs in a worker of the cluster.

    Returns
    -------
    int
        Number of nuclei that the block owns.

    Raises
    ------
    HistosynthError
        As a message of one line; it travels back to whoever asked.
    """
    with _lock:
        loaded = _loaded(task)
        view, grid = _viewed(task, loaded)
        wanted = has_tissue(view, grid)
        block = grid.block(task.block, wanted)
        if block is None:
            return 0
        pipeline = loaded.pipelines[0]
        pending = pipeline.begin_block(block, view.pixels.read(*block.pixels), view.pixels.read)
        pipeline.run_block(pending, grid)
        return keep_windows(Path(task.work), view, pending)


def _loaded(task: _Task) -> LoadedModel:
    """Return the model, read once a process."""
    from histocli.stores.models import read_model_header

    key = f"model {task.model} {task.config.tile_px} {task.config.max_memory} {task.execution.device} {task.execution.precision}"
    if key not in _at_hand:
        stack = ExitStack()  # the pipeline's threads live as long as the worker
        path = Path(task.model)
        _at_hand[key] = (
            load_model(
                path, read_model_header(path), task.facts, task.config, task.execution, stack
            ),
            stack,
        )
    model: LoadedModel = _at_hand[key][0]
    return model


def _viewed(task: _Task, loaded: LoadedModel) -> tuple[View, BlockGrid]:
    """Return the slide as the network sees it; the one that was opened last stays open."""
    key = f"{task.slide} {task.mpp} {task.work}"
    if _at_hand.get("slide", ("",))[0] != key:
        if "slide" in _at_hand:
            _at_hand.pop("slide")[1].slide.close()
        slide = open_slide(task.slide, mpp=task.mpp)
        height, width = task.tissue_shape
        tissue = (
            np.unpackbits(task.tissue, count=height * width).reshape(height, width).astype(bool)
        )
        contrast = None if task.contrast is None else Contrast.from_json(task.contrast)
        view = view_of(slide, loaded.mpp, task.glass_level, tissue, contrast, loaded.contrast_floor)
        _at_hand["slide"] = (
            key,
            view,
            loaded.pipelines[0].block_grid(view.shape, loaded.block_windows),
        )
    _, view, grid = _at_hand["slide"]
    return view, grid
