"""``histosynth segment``: slides and a model -> nuclei that lie over the slides.

Slides are read, labelled and written in blocks, so memory does not grow with the slide. Reading,
the network, decoding and
writing go on at the same time, with bounded queues between them::

    reader thread ──> network (a thread a device) ──> decoding threads ──> writer threads ──> finisher thread
     a few blocks       tile by tile                    window by window     what was found      table, labels, other files
     ahead                                                                   in each block       of whole slides

What is written for a slide depends on the slide, the model and the settings only: not on workers,
order, memory or where a run was stopped. Slides that are done are skipped; of one that was broken
off, the blocks that were done are kept, and running the same command again goes on there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from histocli.annotations.regions import find_regions, read_regions
from histocli.base.errors import HistosynthError, InvalidOption, OutOfResources, Stopped
from histocli.base.files import content_hash, disk_errors, make_parents, partial_path
from histocli.base.formats import FORMATS
from histocli.base.inputs import InputImage, expand_with_mpp
from histocli.base.interrupts import raise_if_stopped
from histocli.base.memory import keep_memory_below, pages_of_its_own
from histocli.base.progress import Bar, Track, silent
from histocli.base.types import InstanceLabels, Json, RGBImage
from histocli.base.units import ASSUMED_MPP
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.segment import SegmentConfig, parse_shard
from histocli.exports.registry import check_packages, read_record
from histocli.inference.blocks import Block
from histocli.inference.pipeline import Nuclei, PendingBlock, PendingImage, Pipeline
from histocli.inference.tiling import renumber_by_anchor
from histocli.model.normalisation import Contrast, contrast_of, glass_to_white, raise_contrast
from histocli.slides.open import SLIDE_SUFFIXES, open_slide
from histocli.slides.resampling import resample, resample_labels
from histocli.slides.slide import shape_of, slide_stem
from histocli.stages.pipelines import LoadedModel, load_model
from histocli.stages.shared.outputs import prepare_file, write_output
from histocli.stages.shared.references import patch_glass_levels
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stages.tiled import (
    SAME_MPP,
    STOPPED,
    View,
    has_tissue,
    keep_windows,
    look,
    make_store,
    slide_contrast,
    view_of,
)
from histocli.stores import labels, patches
from histocli.stores.box import find_box_model
from histocli.stores.models import read_model_header
from histocli.stores.provenance import Action, Provenance, now, peek, prepare_output

logger = logging.getLogger(__name__)

LOOK_AHEAD = 1  # parts that are read and wait for the network
WRITERS = 2  # writing waits for the disk more than it computes
UNWRITTEN_PARTS = 2  # parts that have left the network and are not yet written
STRIP_PX = 1536  # rows of a block that are read at once
# share of the expected memory; what is needed until it has been given back must fit above it
GIVE_BACK_ABOVE = 0.8
# seconds between looks at the memory, and least between giving back
LOOK_S, GIVE_BACK_EVERY_S = 0.05, 2.0
PATCH_SUFFIX = ".labels.zarr"
STATUS_FILE = "status.jsonl"

PROBE_PX = 512  # side of the tile that a dry run times the network with

Report = Callable[["SegmentResult"], None]


@dataclass(frozen=True, kw_only=True)
class SegmentResult(StageResult):
    """What became of one slide; ``output`` is the first of ``outputs``."""

    schema: ClassVar[str] = "histosynth.segment/1"

    input: str
    """Path of the slide."""
    outputs: dict[str, str]
    """What was written, by format."""
    nuclei: int | None = None
    """Number of nuclei."""
    mm2: float | None = None
    """Area that was looked at, in square millimetres."""
    mpp: float | None = None
    """Micrometres per pixel of the slide."""
    mpp_source: str | None = None
    """Where that comes from."""
    n_cut: int | None = None
    """Nuclei that reach further than any window looks; they may be cut."""
    plan: Json | None = None
    """Of a dry run: tiles, and the memory, disk space and time that are expected."""


@dataclass(frozen=True)
class _Facts:
    """What is known about a slide once it is done."""

    nuclei: int
    mm2: float
    mpp: float
    mpp_source: str
    n_cut: int = 0


class _Job(Protocol):
    """One input on its way; ``parts`` and ``load`` run in the reader thread, ``write`` and
    ``finish`` in threads of their own.
    """

    input: InputImage
    outputs: dict[str, Path]
    watch: Stopwatch

    def decide(self) -> Action:
        """Apply the rerun rule to all outputs: skip only when none is to be made."""

    def check(self, model: LoadedModel | None) -> tuple[float, str, Json]:
        """Look at the input without decoding all of it; return its pixel size, the source, and what
        it will take.
        """

    def parts(self, model: LoadedModel) -> list[Any]:
        """Begin; return what goes through the network together."""

    def load(self, part: Any) -> Any:
        """Read a part and bring it to the model's pixel size."""

    def begin(self, part: Any, loaded: Any, pipeline: Pipeline) -> Any:
        """Announce a part to the pipeline; return what ``run`` and ``write`` need."""

    def run(self, pending: Any, pipeline: Pipeline, on_tiles: Callable[[int], None]) -> None:
        """Take a part through the network."""

    def write(self, part: Any, pending: Any) -> None:
        """Wait for what is found in a part and keep it."""

    def finish(self) -> _Facts:
        """End, after all parts are written."""

    def facts(self) -> _Facts | None:
        """Return what outputs that are there already say; None where they say too little."""

    def close(self) -> None:
        """Let go of what is held, finished or not."""


def segment(
    slides: Sequence[str],
    model: Path | None,
    out: Path,
    config: SegmentConfig,
    execution: Execution,
    *,
    track: Track = silent,
    report: Report = lambda result: None,
) -> list[SegmentResult]:
    """Label every nucleus of slides, images or the patches of a patch store.

    Parameters
    ----------
    slides : sequence of str
        Words as in :mod:`histocli.base.inputs`; a manifest may give pixel sizes and regions.
    model : Path or None
        Model file that ``histosynth train`` made, or the name of one that comes with the package;
        None takes the default one.
    out : Path
        Folder for the results, named after the slides. ``status.jsonl`` in it gets a line for each
        slide that was done or failed.
    config : SegmentConfig
    execution : Execution
        ``resume`` changes nothing: what is finished is skipped and the rest is made.
    track : Track
        Shows progress.
    report : callable
        Hears of each result as soon as it and those before it are there; in any thread, one at a
        time.

    Returns
    -------
    list of SegmentResult
        One for each input, in order; with ``on_error="continue"`` some may have failed.

    Raises
    ------
    InvalidOption
        No segmenter.
    InputNotFound, InvalidInput, StoreExists
        As in all commands; with ``on_error="continue"`` those of one slide go into its result.
    OutOfResources, Stopped
        Whatever ``on_error`` says; slides that were finished before stay.
    """
    model = _find_model(model)
    header = read_model_header(model)
    if header.kind != "segmenter":
        raise InvalidOption(f"--model {model}: is a {header.kind}, but a segmenter is needed")
    check_packages(config.formats)
    keep_going = execution.on_error == "continue"
    inputs = expand_with_mpp(
        slides, suffixes=SLIDE_SUFFIXES, stdin=sys.stdin, what="slide", keep_missing=keep_going
    )
    facts = {"name": model.name, "sha256": content_hash(model)}
    jobs = _share(_plan(inputs, out, config, execution, facts), config)
    ledger = _Ledger(jobs, keep_going, report, None if execution.dry_run else out / STATUS_FILE)
    todo = []
    for job in jobs:  # what is in the way is found before any work is done
        with ledger.failures_of(job):
            if job.decide() == "skip":
                ledger.done(job, "skipped", job.facts())
            else:
                todo.append(job)
    if not todo:
        return ledger.results
    if config.scheduler is not None and not execution.dry_run:
        from histocli.stages.cluster import run_on_cluster

        slide_jobs = [job for job in todo if isinstance(job, SlideJob)]
        run_on_cluster(slide_jobs, model, header, config, execution, ledger, track)
        todo = [job for job in todo if not isinstance(job, SlideJob)]
        if not todo:
            return ledger.results
    with ExitStack() as stack:
        loaded = load_model(model, header, facts, config, execution, stack)
        if execution.dry_run:
            rate = _network_rate(loaded.pipelines[0])
            for job in todo:
                with ledger.failures_of(job):
                    mpp, source, expected = job.check(loaded)
                    pixels = expected.pop("network_px")
                    ledger.planned(
                        job,
                        mpp,
                        source,
                        expected | {"seconds": round(pixels / rate / len(loaded.pipelines), 1)},
                    )
        else:
            _run(todo, loaded, ledger, track)
    return ledger.results


def _network_rate(pipeline: Pipeline) -> float:
    """Return how many pixels a second go through the pipeline, timed on a tile."""
    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_PX, PROBE_PX, 3), np.uint8)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        pending = pipeline.prepare([pixels])
        pipeline.run(pending)
        pending[0].collect()
        seconds.append(time.perf_counter() - start)
    return PROBE_PX * PROBE_PX / min(seconds)


def _share(jobs: list[_Job], config: SegmentConfig) -> list[_Job]:
    """Return this process's share of the jobs: every N-th, as ``--shard`` or a Slurm array says."""
    environment = os.environ
    if config.shard is not None:
        index, count = parse_shard(config.shard)
    elif (
        len(jobs) > 1
        and environment.get("SLURM_ARRAY_TASK_COUNT", "").isdecimal()
        and "SLURM_ARRAY_TASK_ID" in environment
    ):
        count = int(environment["SLURM_ARRAY_TASK_COUNT"])
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))
        index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step % count
        if count > 1:
            logger.warning(
                "Slurm array task %d of %d: takes every %d-th of %d slides; --shard 1/1 takes all",
                index + 1,
                count,
                count,
                len(jobs),
            )
    else:
        return jobs
    # 1/N is the first share, and so is 0/N: both ways of counting cover all slides once
    return jobs[index::count] if config.shard is None else jobs[(index - 1) % count :: count]


def plan_table(
    results: Sequence[SegmentResult],
) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Return title, header and rows that tell people what a dry run found."""
    planned = [(result, result.plan) for result in results if result.plan is not None]
    rows: list[tuple[str, ...]] = [
        (
            Path(result.input).name,
            f"{expected.get('mm2', 0):.3g}",
            str(expected["tiles"]),
            str(expected["memory_mb"]),
            f"{expected['disk_mb']:.0f}",
            f"{expected['seconds']:.0f}",
        )
        for result, expected in planned
    ]
    if rows:
        total = [
            sum(expected[name] for _, expected in planned)
            for name in ("tiles", "disk_mb", "seconds")
        ]
        memory = max(expected["memory_mb"] for _, expected in planned)
        rows.append(
            (
                f"{len(rows)} slides",
                "",
                str(total[0]),
                str(memory),
                f"{total[1]:.0f}",
                f"{total[2]:.0f}",
            )
        )
    return (
        "expected",
        ("slide", "mm2 of tissue", "tiles", "MB of memory", "MB of disk", "seconds"),
        rows,
    )


def _find_model(model: Path | None) -> Path:
    """Return the file of a model: a path, the name of one that comes with the package, or nothing
    for the default one.
    """
    if model is not None and (model.exists() or model.suffix or len(model.parts) > 1):
        return model
    shipped = find_box_model(None if model is None else str(model))
    if model is None:
        logger.info(
            "segmenting with %s, which comes with histosynth; a model of the tissue itself finds more",
            shipped.name,
        )
    return shipped.path


@dataclass
class _Loaded:
    """A part that was read, or why it was not."""

    job: _Job
    part: Any = None
    pixels: Any = None
    last: bool = False
    error: BaseException | None = None


@dataclass
class _Flow:
    """What is under way of a job."""

    job: _Job
    unwritten: int = 0
    all_read: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Line:
    """The line that jobs go through; see this module's drawing."""

    def __init__(self, model: LoadedModel, ledger: _Ledger, bar: Bar) -> None:
        self._model, self._ledger, self._bar = model, ledger, bar
        self._ready: queue.Queue[_Loaded | None] = queue.Queue(LOOK_AHEAD)
        self._room = threading.Semaphore(UNWRITTEN_PARTS * len(model.pipelines))
        self._halt = threading.Event()
        self._over = threading.Event()  # nothing is under way any more
        self._fatal: BaseException | None = None
        self._flows: dict[int, _Flow] = {}
        self._lock = threading.Lock()
        self._writers = ThreadPoolExecutor(
            WRITERS * len(model.pipelines), thread_name_prefix="write"
        )
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._tiles: Counter[int] = Counter()

    def run(self, jobs: Sequence[_Job]) -> None:
        reader = threading.Thread(target=self._read, args=(jobs,), name="read", daemon=True)
        reader.start()
        others = [
            threading.Thread(target=self._work, args=(pipeline,), name="network", daemon=True)
            for pipeline in self._model.pipelines[1:]
        ]
        memory = threading.Thread(target=self._watch_memory, name="memory", daemon=True)
        for other in (*others, memory):
            other.start()
        try:
            self._work(self._model.pipelines[0])
        finally:
            self._halt.set()
            self._drain()
            for thread in (*others, reader):
                thread.join()
            # what was found is kept, and whole slides are finished, before the command ends
            self._writers.shutdown(wait=True)
            self._finisher.shutdown(wait=True)
            self._over.set()
            memory.join()
        if self._fatal is not None:
            raise self._fatal

    def _read(self, jobs: Sequence[_Job]) -> None:
        try:
            for job in jobs:
                try:
                    parts = job.parts(self._model)
                    if not parts:  # all was found before
                        self._put(_Loaded(job, last=True))
                    for number, part in enumerate(parts, start=1):
                        if self._halt.is_set():
                            return
                        self._put(_Loaded(job, part, job.load(part), number == len(parts)))
                except BaseException as error:  # the network's thread decides what becomes of it
                    self._put(_Loaded(job, error=error))
        finally:
            self._put(None)

    def _watch_memory(self) -> None:
        """Give freed memory back where it would pass what is expected; not too often, as fresh
        pages cost time.
        """
        while not self._over.wait(LOOK_S):
            if keep_memory_below(GIVE_BACK_ABOVE * self._model.expected_bytes):
                self._over.wait(GIVE_BACK_EVERY_S)

    def _put(self, item: _Loaded | None) -> None:
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

    def _take(self, item: _Loaded, pipeline: Pipeline) -> None:
        job = item.job
        if item.error is not None:
            raise item.error
        if self._ledger.has_failed(job):
            return
        with self._lock:
            flow = self._flows.setdefault(id(job), _Flow(job))
        if item.part is None:
            self._advance(flow, 0, all_read=True)
            return
        while not self._room.acquire(timeout=0.1):
            if self._halt.is_set():
                return
        self._advance(flow, 1, all_read=item.last)
        pending = job.begin(item.part, item.pixels, pipeline)
        self._writers.submit(self._write, flow, item.part, pending)
        job.run(pending, pipeline, lambda n: self._on_tiles(job, n))

    def _write(self, flow: _Flow, part: Any, pending: Any) -> None:
        written = False
        try:
            with self._ledger.failures_of(flow.job):
                flow.job.write(part, pending)
                written = True
        except BaseException as error:
            self._fail(error)
        finally:
            self._room.release()
        if written:
            self._advance(flow, -1)

    def _advance(self, flow: _Flow, change: int, all_read: bool = False) -> None:
        with flow.lock:
            flow.unwritten += change
            flow.all_read |= all_read
            complete = flow.all_read and not flow.unwritten
        if complete and not self._ledger.has_failed(flow.job):
            self._finisher.submit(self._finish, flow.job)

    def _finish(self, job: _Job) -> None:
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

    def _on_tiles(self, job: _Job, n: int) -> None:
        self._tiles[id(job)] += n
        self._bar.advance(0, f"{job.input.path.name}, tile {self._tiles[id(job)]}")
        raise_if_stopped(STOPPED)


def _run(jobs: Sequence[_Job], model: LoadedModel, ledger: _Ledger, track: Track) -> None:
    """Take the jobs through reader, network, decoders and writers."""
    with ExitStack() as stack:
        for job in jobs:
            stack.callback(job.close)
        bar = stack.enter_context(track("segment", len(jobs)))
        ledger.on_result = lambda name: bar.advance(1, name)
        _Line(model, ledger, bar).run(jobs)


class _Ledger:
    """Keeps results in the order of the jobs and reports each as soon as those before it are
    there.
    """

    def __init__(
        self, jobs: Sequence[_Job], keep_going: bool, report: Report, status_file: Path | None
    ) -> None:
        self._jobs = list(jobs)
        self._status_file = status_file
        self._lock = threading.RLock()
        self._keep_going = keep_going
        self._report = report
        self._by_job: dict[int, SegmentResult] = {}
        self._reported = 0
        # moves the progress bar, once there is one
        self.on_result: Callable[[str], None] = lambda name: None

    @property
    def results(self) -> list[SegmentResult]:
        """All results, in order."""
        return [self._by_job[id(job)] for job in self._jobs]

    def has_failed(self, job: _Job) -> bool:
        """Tell whether a job is over because of an error."""
        return id(job) in self._by_job and self._by_job[id(job)].status == "failed"

    def done(self, job: _Job, status: Any, facts: _Facts | None) -> None:
        """Record a job that is there now, or was before."""
        self._record(job, status=status, **({} if facts is None else vars(facts)))

    def planned(self, job: _Job, mpp: float, source: str, expected: Json) -> None:
        """Record what a dry run would make."""
        self._record(job, status="planned", mpp=mpp, mpp_source=source, plan=expected)

    def failures_of(self, job: _Job) -> _Failures:
        """Turn an error within the context into a failed result, if the user wants to go on."""
        return _Failures(self, job)

    def failed(self, job: _Job, error: HistosynthError) -> bool:
        """Record an error unless it ends the command; tell whether it is dealt with."""
        if isinstance(error, OutOfResources | Stopped):
            return False
        if not self._keep_going:
            self._note(self._result(job, status="failed", error=str(error)))
            return False
        with self._lock:
            if not self.has_failed(job):
                self._record(job, status="failed", error=str(error))
        return True

    def _record(self, job: _Job, **values: Any) -> None:
        result = self._result(job, **values)
        with self._lock:
            self._by_job[id(job)] = result
            if result.status in ("done", "failed"):
                self._note(result)
            self.on_result(job.input.path.name)
            while (
                self._reported < len(self._jobs) and id(self._jobs[self._reported]) in self._by_job
            ):
                self._report(self._by_job[id(self._jobs[self._reported])])
                self._reported += 1

    def _result(self, job: _Job, **values: Any) -> SegmentResult:
        outputs = {name: str(path) for name, path in job.outputs.items()}
        return SegmentResult(
            input=str(job.input.path),
            output=next(iter(outputs.values())),
            outputs=outputs,
            seconds=job.watch.seconds,
            **values,
        )

    def _note(self, result: SegmentResult) -> None:
        """Add a line to the status file: one write, so that several processes may share it."""
        if self._status_file is None:
            return
        line = json.dumps(result.to_json() | {"time": now()}) + "\n"
        with disk_errors(self._status_file):
            make_parents(self._status_file)
            with self._status_file.open("ab", buffering=0) as stream:
                stream.write(line.encode("ascii"))


@dataclass(frozen=True)
class _Failures:
    ledger: _Ledger
    job: _Job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return isinstance(error, HistosynthError) and self.ledger.failed(self.job, error)


class SlideJob:
    """A slide or image: a block at a time, and then the files that are wanted."""

    def __init__(
        self,
        given: InputImage,
        outputs: dict[str, Path],
        store: Path,
        config: SegmentConfig,
        execution: Execution,
        model: Json,
    ) -> None:
        self.input = given
        self.outputs = outputs
        self.watch = Stopwatch()
        self.store = store
        """Where the label store is or would be, whether it is wanted or not."""
        self._config = config
        self._execution = execution
        self._model = model
        self.mpp = given.mpp if given.mpp is not None else config.mpp
        self._hash = ""
        self._to_make: list[str] = list(outputs)
        self._store_is_there = False
        self.view: View | None = None
        self.writer: labels.TiledLabelsWriter | None = None

    def decide(self) -> Action:
        """Find which outputs are to be made; the slide itself is read only if something lies at
        their place.
        """
        places = [*self.outputs.values(), self.store]
        if any(os.path.lexists(path) or os.path.lexists(partial_path(path)) for path in places):
            self._identify()
            actions = {name: self._prepare(name, path) for name, path in self.outputs.items()}
            self._to_make = [name for name, action in actions.items() if action != "skip"]
            found = peek(self.store)
            self._store_is_there = (
                "ome-zarr" not in self._to_make
                and found is not None
                and (found.contract, found.config_hash, found.complete)
                == (labels.CONTRACT, self._hash, True)
            )
        return "create" if self._to_make else "skip"

    def check(self, model: LoadedModel | None) -> tuple[float, str, Json]:
        """Open the slide and count."""
        slide = open_slide(self.input.path, mpp=self.mpp)
        try:
            assert model is not None
            factor = labels.overview_factor(shape_of(slide), slide.mpp)
            _, tissue, level = look(
                slide, factor, find_tissue=self._config.tissue == "auto", roi=self._regions()
            )
            view = view_of(slide, model.mpp, level, tissue)
            grid = model.pipelines[0].block_grid(view.shape, model.block_windows)
            wanted = has_tissue(view, grid)
            blocks = [
                block
                for index in range(len(grid))
                if (block := grid.block(index, wanted)) is not None
            ]
            area = labels.looked_at_mm2(tissue, shape_of(slide), slide.mpp)
            pixels = sum(
                (block.pixels[0].stop - block.pixels[0].start)
                * (block.pixels[1].stop - block.pixels[1].start)
                for block in blocks
            )
            expected = {
                "tiles": sum(1 for block in blocks for _ in grid.tiles(block.maps, model.tile_px)),
                "blocks": len(blocks),
                "mm2": round(area, 4),
                "memory_mb": round(model.expected_bytes / 1e6),
                "disk_mb": round(
                    _expected_disk(shape_of(slide), area, slide.mpp, list(self.outputs)) / 1e6, 1
                ),
                "network_px": pixels,
            }
            return slide.mpp, slide.mpp_source, expected
        finally:
            slide.close()

    def parts(self, model: LoadedModel) -> list[Block]:
        """Open the slide, begin the store or take up an unfinished one, and return the blocks that
        are not found yet.
        """
        self.watch = Stopwatch()
        self._workers = model.workers
        if not self._hash:
            self._identify()
        if self._store_is_there:
            return []
        self.open(model.mpp, model.contrast_floor)
        assert self.view is not None
        self.grid = model.pipelines[0].block_grid(self.view.shape, model.block_windows)
        return self.missing_blocks()

    def open(self, model_mpp: float, contrast_floor: float) -> None:
        """Open the slide and begin the store, or take up an unfinished one."""
        slide = open_slide(self.input.path, mpp=self.mpp)
        try:
            if slide.mpp_source == "assumed":
                logger.warning(
                    "%s: records no pixel size; %g um/px is assumed, give another with --mpp",
                    slide.path,
                    ASSUMED_MPP,
                )
            measured: Json = {}

            def look_once(factor: int) -> tuple[RGBImage, Any]:
                overview, tissue, level = look(
                    slide, factor, find_tissue=self._config.tissue == "auto", roi=self._regions()
                )
                contrast = (
                    slide_contrast(slide, model_mpp, level, tissue) if contrast_floor > 0 else None
                )
                measured.update(
                    glass_level=level, contrast=None if contrast is None else contrast.to_json()
                )
                return overview, tissue

            self.writer = labels.TiledLabelsWriter(
                self.store,
                shape=shape_of(slide),
                mpp=slide.mpp,
                mpp_source=slide.mpp_source,
                look=look_once,
                source=self._source,
                model=self._model,
                provenance=self.provenance(labels.CONTRACT),
                note=lambda: measured,
            )
            self.view = view_of(
                slide,
                model_mpp,
                self.writer.facts["glass_level"],
                self.writer.tissue,
                self.contrast,
                contrast_floor,
            )
        except BaseException:
            slide.close()
            raise

    @property
    def contrast(self) -> Contrast | None:
        """How stain is spread over this slide; None where the model does not ask."""
        assert self.writer is not None
        recorded = self.writer.facts.get("contrast")
        return None if recorded is None else Contrast.from_json(recorded)

    def missing_blocks(self) -> list[Block]:
        """Return the blocks that show tissue, less those of whose windows all is kept."""
        assert self.view is not None
        assert self.writer is not None
        wanted = has_tissue(self.view, self.grid)
        every = (self.grid.block(index, wanted) for index in range(len(self.grid)))
        return [
            block
            for block in every
            if block is not None
            and not all(self.writer.has_found(window.index) for window in block.windows)
        ]

    def load(self, part: Block) -> RGBImage:
        """Read the pixels of a block, a strip at a time: what is decoded and resampled on the way
        is gone before the next.
        """
        assert self.view is not None
        rows, columns = part.pixels
        pixels = pages_of_its_own(
            (rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8
        )
        for start in range(rows.start, rows.stop, STRIP_PX):
            strip = slice(start, min(start + STRIP_PX, rows.stop))
            pixels[strip.start - rows.start : strip.stop - rows.start] = self.view.pixels.read(
                strip, columns
            )
        return pixels

    def begin(self, part: Block, loaded: RGBImage, pipeline: Pipeline) -> PendingBlock:
        """Announce a block."""
        assert self.view is not None
        return pipeline.begin_block(part, loaded, self.view.pixels.read)

    def run(
        self, pending: PendingBlock, pipeline: Pipeline, on_tiles: Callable[[int], None]
    ) -> None:
        """Take a block through the network."""
        pipeline.run_block(pending, self.grid, on_tiles)

    def write(self, part: Block, pending: PendingBlock) -> None:
        """Keep what is found in a block."""
        assert self.view is not None
        assert self.writer is not None
        with disk_errors(self.store):
            keep_windows(self.writer.work, self.view, pending)

    def finish(self) -> _Facts:
        """Make the store, and from it the other files."""
        store = self.store if self._store_is_there else self._make_store()
        try:
            opened = labels.open_labels(store)
            for name in self._to_make:
                if name != "ome-zarr":
                    path = self.outputs[name]
                    write_output(
                        name,
                        path,
                        opened,
                        lambda: open_slide(self.input.path, mpp=self.mpp),
                        self.provenance,
                    )
            found = _facts_of(opened.facts)
        finally:
            if self.writer is not None and store != self.store:
                self.writer.discard()
        if found.n_cut:
            logger.warning(
                "%s: %d nuclei reach further than 40 um from the border of their window and may be cut",
                self.input.path,
                found.n_cut,
            )
        return found

    def _make_store(self) -> Path:
        view, writer = self.view, self.writer
        assert view is not None
        assert writer is not None
        wanted = has_tissue(view, self.grid)
        make_store(
            writer,
            self.grid,
            wanted,
            ratio=view.pixels.ratio,
            mpp=view.slide.mpp,
            workers=self._workers,
        )
        return writer.finish(keep_hidden="ome-zarr" not in self.outputs)

    def facts(self) -> _Facts | None:
        """Read what the outputs say about themselves."""
        for name, path in self.outputs.items():
            known: Json | None = (
                labels.open_labels(path).facts if name == "ome-zarr" else read_record(path)
            )
            if known is not None:
                return _facts_of(known)
        return None

    def close(self) -> None:
        """Let go of slide and store."""
        if self.view is not None:
            self.view.slide.close()
        if self.writer is not None:
            self.writer.close()

    def provenance(self, contract: str) -> Provenance:
        """Return who makes an output."""
        config = replace(
            self._config.of_labels(),
            formats=self._config.formats,
            mpp=self._config.mpp,
            roi=self._config.roi,
        )
        return Provenance(
            contract=contract, command="segment", config=as_dict(config), config_hash=self._hash
        )

    def _regions(self) -> Any:
        file = self._roi()
        return None if file is None else read_regions(file)

    def _roi(self) -> Path | None:
        if self.input.roi is not None:
            return self.input.roi
        return (
            None
            if self._config.roi is None
            else find_regions(Path(self._config.roi), slide_stem(self.input.path))
        )

    def _identify(self) -> None:
        self._source = {"name": self.input.path.name, "sha256": content_hash(self.input.path)}
        roi = self._roi()
        more = {} if roi is None else {"roi": content_hash(roi)}
        self._hash = _fingerprint(
            self._config, self._source["sha256"], self._model, self.mpp, **more
        )

    def _prepare(self, name: str, path: Path) -> Action:
        if name == "ome-zarr":
            return prepare_output(
                path,
                contract=labels.CONTRACT,
                config_hash=self._hash,
                resume=not self._execution.overwrite,
                overwrite=self._execution.overwrite,
                dry_run=self._execution.dry_run,
            )
        return prepare_file(
            path,
            contract=FORMATS[name].contract,
            config_hash=self._hash,
            overwrite=self._execution.overwrite,
        )


def _facts_of(known: Json) -> _Facts:
    return _Facts(
        known["n_nuclei"], known["mm2"], known["mpp"], known["mpp_source"], known.get("n_cut", 0)
    )


def _expected_disk(shape: tuple[int, int], mm2: float, mpp: float, formats: Sequence[str]) -> float:
    """Return the bytes that the outputs of a slide are expected to take; measured on tissue with
    3,000 nuclei a square millimetre.
    """
    looked_at = mm2 * 1e6 / mpp**2
    return (
        sum(FORMATS[name].bytes_per_px * looked_at for name in formats)
        + 3e6 * len(formats)
        + shape[0] * shape[1] / 1000
    )


class _PatchJob:
    """A patch store: a part for each of its shards, one label store."""

    def __init__(
        self,
        given: InputImage,
        output: Path,
        config: SegmentConfig,
        execution: Execution,
        model: Json,
    ) -> None:
        self.input = given
        self.outputs = {"ome-zarr": output}
        self.watch = Stopwatch()
        self._config = config
        self._execution = execution
        self._model = model
        self._given_mpp = given.mpp if given.mpp is not None else config.mpp
        self._writer: labels.PatchLabelsWriter | None = None

    def decide(self) -> Action:
        """Open the store and look at the output."""
        self._store = patches.PatchStore.open(self.input.path)
        self._hash = _fingerprint(
            self._config, self._store.content_hash(), self._model, self._given_mpp
        )
        return prepare_output(
            self.outputs["ome-zarr"],
            contract=labels.CONTRACT,
            config_hash=self._hash,
            resume=not self._execution.overwrite,
            overwrite=self._execution.overwrite,
            dry_run=self._execution.dry_run,
        )

    def check(self, model: LoadedModel | None) -> tuple[float, str, Json]:
        """Count the patches."""
        assert model is not None
        pixels = len(self._store) * self._store.patch_px**2
        tiles = len(self._store) * model.pipelines[0].n_tiles(self._shape)
        expected = {
            "tiles": tiles,
            "memory_mb": round(model.expected_bytes / 1e6),
            "disk_mb": round(pixels * 0.1 / 1e6, 1),
            "network_px": pixels,
        }
        return *self._mpp, expected

    def parts(self, model: LoadedModel) -> list[range]:
        """Make or take up the output."""
        self.watch = Stopwatch()
        self._model_mpp, self._contrast_floor = model.mpp, model.contrast_floor
        self._writer = labels.PatchLabelsWriter(
            self.outputs["ome-zarr"],
            n=len(self._store),
            shape=self._shape,
            mpp=self._mpp[0],
            source={"name": self.input.path.name, "sha256": self._store.content_hash()},
            model=self._model,
            provenance=Provenance(
                contract=labels.CONTRACT,
                command="segment",
                config=as_dict(self._config),
                config_hash=self._hash,
            ),
        )
        return self._writer.pending()

    def load(self, part: range) -> list[RGBImage]:
        """Read a batch of patches."""
        images, _ = self._store.read(part)
        levels = patch_glass_levels(self._store, part, images)
        white = [glass_to_white(image, level) for image, level in zip(images, levels, strict=True)]
        if self._contrast_floor > 0:
            white = [
                raise_contrast(image, contrast_of(image), self._contrast_floor) for image in white
            ]
        return [_to_model(image, self._mpp[0], self._model_mpp) for image in white]

    def begin(self, part: range, loaded: list[RGBImage], pipeline: Pipeline) -> list[PendingImage]:
        """Announce a batch."""
        return pipeline.prepare(loaded)

    def run(
        self, pending: list[PendingImage], pipeline: Pipeline, on_tiles: Callable[[int], None]
    ) -> None:
        """Take a batch through the network."""
        pipeline.run(pending, on_tiles)

    def write(self, part: range, pending: Sequence[PendingImage]) -> None:
        """Write the labels of a batch."""
        assert self._writer is not None, "parts comes first"
        found_labels = [
            _to_slide(one.collect(), self._mpp[0], self._model_mpp, self._shape).labels
            for one in pending
        ]
        self._writer.write(part, np.stack(found_labels))

    def finish(self) -> _Facts:
        """Put the store in its place."""
        assert self._writer is not None, "parts comes first"
        return self._known(self._writer.finish())

    def facts(self) -> _Facts | None:
        """Count the nuclei that are there already."""
        return self._known(labels.open_labels(self.outputs["ome-zarr"]).n_nuclei)

    def close(self) -> None:
        """Let go of the output."""
        if self._writer is not None:
            self._writer.close()

    @property
    def _mpp(self) -> tuple[float, str]:
        return (self._store.mpp, "store") if self._given_mpp is None else (self._given_mpp, "given")

    @property
    def _shape(self) -> tuple[int, int]:
        return self._store.patch_px, self._store.patch_px

    def _known(self, nuclei: int) -> _Facts:
        mpp, source = self._mpp
        return _Facts(
            nuclei, len(self._store) * (self._store.patch_px * mpp) ** 2 / 1e6, mpp, source
        )


def _to_model(image: RGBImage, mpp: float, model_mpp: float) -> RGBImage:
    """Bring pixels to the model's pixel size, unless that is theirs."""
    return image if _same(mpp, model_mpp) else resample(image, mpp, model_mpp)


def _to_slide(found: Nuclei, mpp: float, model_mpp: float, shape: tuple[int, int]) -> Nuclei:
    """Bring labels back to the slide's own pixels, and number them there."""
    if _same(mpp, model_mpp):
        return found
    resampled: InstanceLabels = resample_labels(found.labels, model_mpp, mpp, shape)
    # a nucleus below one pixel is gone; anchors move a little
    numbered, ids = renumber_by_anchor(resampled)
    return Nuclei(labels=numbered, probability=found.probability[ids - 1])


def _same(mpp: float, model_mpp: float) -> bool:
    return abs(mpp / model_mpp - 1) <= SAME_MPP


def _fingerprint(
    config: SegmentConfig, sha256: str, model: Json, mpp: float | None, **more: str
) -> str:
    """Identify what decides the labels; the formats do not, so that one can be added later."""
    return config_hash(config.of_labels(), slide=sha256, model=model["sha256"], mpp=mpp, **more)


def _plan(
    inputs: Sequence[InputImage],
    out: Path,
    config: SegmentConfig,
    execution: Execution,
    model: Json,
) -> list[_Job]:
    """Name the outputs of every input; where names would collide, a hash of the path is appended to
    all of them.
    """
    kinds = [
        (found := peek(given.path)) is not None and found.contract_name == "histosynth-patches"
        for given in inputs
    ]
    names = [
        (slide_stem(given.path), is_store) for given, is_store in zip(inputs, kinds, strict=True)
    ]
    # some file systems do not tell A from a
    taken = Counter((stem.casefold(), is_store) for stem, is_store in names)
    jobs: list[_Job] = []
    for given, (stem, is_store) in zip(inputs, names, strict=True):
        unique = stem
        if taken[stem.casefold(), is_store] > 1:
            unique = (
                f"{stem}__{hashlib.sha256(os.path.abspath(given.path).encode()).hexdigest()[:8]}"
            )
        if is_store:
            if config.formats != ("ome-zarr",):
                logger.warning(
                    "%s: the labels of a patch store are written as one store; --format is left aside",
                    given.path,
                )
            jobs.append(_PatchJob(given, out / f"{unique}{PATCH_SUFFIX}", config, execution, model))
        else:
            outputs = {
                name: out / f"{unique}{FORMATS[name].suffix}"
                for name in dict.fromkeys(config.formats)
            }
            jobs.append(
                SlideJob(
                    given,
                    outputs,
                    out / f"{unique}{FORMATS['ome-zarr'].suffix}",
                    config,
                    execution,
                    model,
                )
            )
    return jobs
