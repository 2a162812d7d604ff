"""``histosynth segment``: slides and a model -> nuclei that lie over the slides.

Each slide is read, brought to the model's pixel size on a grid that is locked to its origin, labelled, and brought back to its
own pixels. Reading the next slide, the network, decoding and writing the one before go on at the same time::

    reader thread ──> network (this thread) ──> decoding threads ──> writer threads
     1 slide ahead     tile by tile              window by window     a bounded number of slides

What is written for a slide depends on the slide, the model and the settings only. Slides that are done are skipped, and what a
stopped run has finished is kept, so running the same command again goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histocli.base.device import resolve_device, resolve_precision
from histocli.base.errors import HistosynthError, InvalidOption, OutOfResources, Stopped
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Bar, Track, silent
from histocli.base.system import resolve_workers
from histocli.base.types import InstanceLabels, Json, RGBImage
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.segment import SegmentConfig
from histocli.figures.overlays import outline_overlay
from histocli.inference.pipeline import Nuclei, PendingImage, Pipeline
from histocli.inference.predict import Predictor
from histocli.inference.tiling import renumber_by_anchor
from histocli.instances.measurements import measure
from histocli.instances.targets import Thresholds
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.stages.common import StageResult, Stopwatch, content_hash, patch_glass_levels, prepare_process
from histocli.stores import exports, labels, patches
from histocli.stores.box import find_box_model
from histocli.stores.inputs import InputImage, expand_with_mpp
from histocli.stores.models import read_model, read_model_header
from histocli.stores.provenance import Action, Provenance, partial_path, peek, prepare_output
from histocli.stores.slides import (
    ASSUMED_MPP,
    IMAGE_SUFFIXES,
    SlideImage,
    read_image,
    read_pixel_size,
    resample,
    resample_labels,
    slide_stem,
)

logger = logging.getLogger(__name__)

SAME_MPP = 0.02  # relative; within this a slide goes to the network as it is: scanners differ by more than a model notices
OVERLAY_LINE_UM = 0.5  # width of outlines
LOOK_AHEAD = 2  # parts that are read while the network works
WRITERS = 3  # writing waits for the disk more than it computes
UNWRITTEN_PX = 64_000_000  # pixels of slides that have left the network and are not yet written; one slide always may
UNWRITTEN_PARTS = 8
CUDA_BATCH_PX = 16_000_000
SUFFIXES = {"ome-zarr": ".ome.zarr", "tiff": ".tif", "overlay": ".overlay.png"}
PATCH_SUFFIX = ".labels.zarr"

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


@dataclass(frozen=True)
class _Facts:
    """What is known about a slide once it is done."""

    nuclei: int
    mm2: float
    mpp: float
    mpp_source: str


class _Job(Protocol):
    """One input on its way; ``parts`` and ``finish`` run in the main thread, ``load`` and ``write`` in others."""

    input: InputImage
    outputs: dict[str, Path]
    watch: Stopwatch

    def decide(self) -> Action:
        """Apply the rerun rule to all outputs: skip only when none is to be made."""

    def check(self) -> tuple[float, str]:
        """Look at the input without decoding it; return its pixel size and the source."""

    def parts(self) -> list[range]:
        """Begin; return what goes through the network together."""

    def load(self, part: range, mpp: float) -> list[RGBImage]:
        """Read a part and bring it to the model's pixel size."""

    def write(self, part: range, found: Sequence[PendingImage], mpp: float) -> None:
        """Wait for what is found in a part and write it."""

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
        Words as in :mod:`histocli.stores.inputs`; a manifest may give pixel sizes.
    model : Path or None
        Model file that ``histosynth train`` made, or the name of one that comes with the package; None takes the default one.
    out : Path
        Folder for the results, named after the slides.
    config : SegmentConfig
    execution : Execution
        ``resume`` changes nothing: what is finished is skipped and the rest is made.
    track : Track
        Shows progress.
    report : callable
        Hears of each result as soon as it and those before it are there.

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
    keep_going = execution.on_error == "continue"
    inputs = expand_with_mpp(slides, suffixes=IMAGE_SUFFIXES, stdin=sys.stdin, what="slide", keep_missing=keep_going)
    jobs = _plan(inputs, out, config, execution, {"name": model.name, "sha256": content_hash(model)})
    ledger = _Ledger(jobs, keep_going, report)
    todo = []
    for job in jobs:  # what is in the way is found before any work is done
        with ledger.failures_of(job):
            if job.decide() == "skip":
                ledger.done(job, "skipped", job.facts())
            elif execution.dry_run:
                mpp, source = job.check()
                ledger.planned(job, mpp, source)
            else:
                todo.append(job)
    if todo:
        device = resolve_device(execution.device)
        dtype = resolve_precision(execution.precision, device)
        prepare_process()
        _, tensors = read_model(model)
        segmenter = build_segmenter(header.architecture)
        segmenter.load_state_dict(tensors)
        predictor = Predictor(segmenter, mpp=header.mpp, device=device, dtype=dtype, thresholds=Thresholds(**header.thresholds))
        batch = {"batch_px": CUDA_BATCH_PX} if device.type == "cuda" else {}
        workers = resolve_workers(execution.workers)
        with Pipeline(predictor, tile_px=config.tile_px, workers=workers, **batch) as pipeline:
            _run(todo, pipeline, header.mpp, ledger, track)
    return ledger.results


def _find_model(model: Path | None) -> Path:
    """Return the file of a model: a path, the name of one that comes with the package, or nothing for the default one."""
    if model is not None and (model.exists() or model.suffix or len(model.parts) > 1):
        return model
    shipped = find_box_model(None if model is None else str(model))
    if model is None:
        logger.info("segmenting with %s, which comes with histosynth; a model of the tissue itself finds more", shipped.name)
    return shipped.path


def _run(jobs: Sequence[_Job], pipeline: Pipeline, mpp: float, ledger: _Ledger, track: Track) -> None:
    """Take the jobs through reader, network, decoders and writers."""
    unwritten: deque[_Unwritten] = deque()
    with ExitStack() as stack:
        for job in jobs:
            stack.callback(job.close)
        bar = stack.enter_context(track("segment", len(jobs)))
        ledger.on_result = lambda name: bar.advance(1, name)
        reader = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="read"))
        stack.callback(reader.shutdown, wait=False, cancel_futures=True)  # what was read ahead is not wanted after an error
        writers = stack.enter_context(ThreadPoolExecutor(WRITERS, thread_name_prefix="write"))

        def settle() -> None:
            """Wait for the oldest part to be written."""
            part = unwritten.popleft()
            with ledger.failures_of(part.job):
                part.written.result()
                if part.last and not ledger.has_failed(part.job):
                    ledger.done(part.job, "done", part.job.finish())

        try:
            for job, part, last, loading in _read_ahead(jobs, mpp, reader, ledger):
                if ledger.has_failed(job):
                    loading.cancel()
                    continue
                images: list[RGBImage] = []
                with ledger.failures_of(job):
                    images = loading.result()
                if not images:
                    continue
                px = sum(image.shape[0] * image.shape[1] for image in images)
                while unwritten and (len(unwritten) >= UNWRITTEN_PARTS or px + sum(u.px for u in unwritten) > UNWRITTEN_PX):
                    settle()
                pending = pipeline.prepare(images)
                unwritten.append(_Unwritten(job, px, last, writers.submit(job.write, part, pending, mpp)))
                pipeline.run(pending, _watch_for_stop(bar, job, part))
                while unwritten and unwritten[0].written.done():
                    settle()
        except Exception:
            while unwritten:  # what was found is written and reported before the command ends
                with suppress(Exception):
                    settle()
            raise
        while unwritten:
            settle()


@dataclass(frozen=True)
class _Unwritten:
    """A part that has left the network."""

    job: _Job
    px: int
    last: bool
    written: Future[None]


def _read_ahead(
    jobs: Sequence[_Job], mpp: float, reader: ThreadPoolExecutor, ledger: _Ledger
) -> Iterator[tuple[_Job, range, bool, Future[list[RGBImage]]]]:
    """Yield the parts of all jobs in order, with the reading of the next ones already under way."""
    ahead: deque[tuple[_Job, range, bool, Future[list[RGBImage]]]] = deque()
    for job in jobs:
        parts: list[range] = []
        with ledger.failures_of(job):
            parts = job.parts()
            if not parts:  # an earlier run was stopped between the last part and the end
                ledger.done(job, "done", job.finish())
        for number, part in enumerate(parts, start=1):
            ahead.append((job, part, number == len(parts), reader.submit(job.load, part, mpp)))
            if len(ahead) > LOOK_AHEAD:
                yield ahead.popleft()
    yield from ahead


def _watch_for_stop(bar: Bar, job: _Job, part: range) -> Callable[[int], None]:
    seen = 0

    def on_tiles(n: int) -> None:
        nonlocal seen
        seen += n
        bar.advance(0, f"{job.input.path.name}, tile {seen}" if len(part) == 1 else f"{job.input.path.name}, patch {part.start}")
        raise_if_stopped("segment: stopped; slides that were finished are kept, the same command goes on with the others")

    return on_tiles


class _Ledger:
    """Keeps results in the order of the jobs and reports each as soon as those before it are there."""

    def __init__(self, jobs: Sequence[_Job], keep_going: bool, report: Report) -> None:
        self._jobs = list(jobs)
        self._keep_going = keep_going
        self._report = report
        self._by_job: dict[int, SegmentResult] = {}
        self._reported = 0
        self.on_result: Callable[[str], None] = lambda name: None  # moves the progress bar, once there is one

    @property
    def results(self) -> list[SegmentResult]:
        """All results, in order."""
        return [self._by_job[id(job)] for job in self._jobs]

    def has_failed(self, job: _Job) -> bool:
        """Tell whether a job is over because of an error."""
        return id(job) in self._by_job and self._by_job[id(job)].status == "failed"

    def done(self, job: _Job, status: Any, facts: _Facts | None) -> None:
        """Record a job that is there now, or was before."""
        known = (
            {} if facts is None else {"nuclei": facts.nuclei, "mm2": facts.mm2, "mpp": facts.mpp, "mpp_source": facts.mpp_source}
        )
        self._record(job, status=status, **known)

    def planned(self, job: _Job, mpp: float, source: str) -> None:
        """Record what a dry run would make."""
        self._record(job, status="planned", mpp=mpp, mpp_source=source)

    def failures_of(self, job: _Job) -> _Failures:
        """Turn an error within the context into a failed result, if the user wants to go on."""
        return _Failures(self, job)

    def failed(self, job: _Job, error: HistosynthError) -> bool:
        """Record an error unless it ends the command; tell whether it is dealt with."""
        if isinstance(error, OutOfResources | Stopped) or not self._keep_going:
            return False
        if not self.has_failed(job):
            self._record(job, status="failed", error=str(error))
        return True

    def _record(self, job: _Job, **values: Any) -> None:
        outputs = {name: str(path) for name, path in job.outputs.items()}
        self._by_job[id(job)] = SegmentResult(
            input=str(job.input.path),
            output=next(iter(outputs.values())),
            outputs=outputs,
            seconds=job.watch.seconds,
            **values,
        )
        self.on_result(job.input.path.name)
        while self._reported < len(self._jobs) and id(self._jobs[self._reported]) in self._by_job:
            self._report(self._by_job[id(self._jobs[self._reported])])
            self._reported += 1


@dataclass(frozen=True)
class _Failures:
    ledger: _Ledger
    job: _Job

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        return isinstance(error, HistosynthError) and self.ledger.failed(self.job, error)


class _SlideJob:
    """A slide or image that fits in memory: one part, up to three outputs."""

    def __init__(
        self, given: InputImage, outputs: dict[str, Path], config: SegmentConfig, execution: Execution, model: Json
    ) -> None:
        self.input = given
        self.outputs = outputs
        self.watch = Stopwatch()
        self._config = config
        self._execution = execution
        self._model = model
        self._mpp = given.mpp if given.mpp is not None else config.mpp
        self._hash = ""
        self._to_make: list[str] = list(outputs)
        self._image: SlideImage | None = None
        self._facts: _Facts | None = None

    def decide(self) -> Action:
        """Find which outputs are to be made; the slide itself is read only if something lies at their place."""
        if any(os.path.lexists(path) or os.path.lexists(partial_path(path)) for path in self.outputs.values()):
            self._identify()
            actions = {name: self._prepare(name, path) for name, path in self.outputs.items()}
            self._to_make = [name for name, action in actions.items() if action != "skip"]
        return "create" if self._to_make else "skip"

    def check(self) -> tuple[float, str]:
        """Read the pixel size."""
        return read_pixel_size(self.input.path, mpp=self._mpp)

    def parts(self) -> list[range]:
        """Return the one part."""
        return [range(1)]

    def load(self, part: range, mpp: float) -> list[RGBImage]:
        """Read the slide and resample it."""
        self.watch = Stopwatch()
        if not self._hash:
            self._identify()
        image = read_image(self.input.path, mpp=self._mpp)
        if image.mpp_source == "assumed":
            logger.warning("%s: records no pixel size; %g um/px is assumed, give another with --mpp", image.path, ASSUMED_MPP)
        self._image = image
        pixels = _to_model(image.pixels, image.mpp, mpp)
        return [glass_to_white(pixels, white_level(pixels))]

    def write(self, part: range, found: Sequence[PendingImage], mpp: float) -> None:
        """Bring the labels to the slide's pixels, measure the nuclei and write what is wanted."""
        image = self._image
        assert image is not None, "load comes first"
        shape = (image.pixels.shape[0], image.pixels.shape[1])
        with ExitStack() as stack:
            store = None
            if "ome-zarr" in self._to_make:  # what does not need the labels is written while the network works
                store = stack.enter_context(self._begin_store(image))
            nuclei = _to_slide(found[0].collect(), image.mpp, mpp, shape)
            if store is not None:
                store.write(nuclei.labels, functools.partial(nucleus_table, nuclei, image.mpp))
                store.finish()
        facts = _Facts(len(nuclei.probability), shape[0] * shape[1] * image.mpp**2 / 1e6, image.mpp, image.mpp_source)
        recorded = {"mpp": facts.mpp, "mpp_source": facts.mpp_source, "n_nuclei": facts.nuclei, "mm2": facts.mm2}
        recorded |= {"source": self._source, "model": self._model}
        for name in self._to_make:
            path = self.outputs[name]
            if name == "tiff":
                provenance = self._provenance(exports.LABEL_IMAGE)
                exports.write_label_tiff(path, nuclei.labels, mpp=image.mpp, provenance=provenance, facts=recorded)
            elif name == "overlay":
                picture = outline_overlay(image.pixels, nuclei.labels, thickness_px=max(1, round(OVERLAY_LINE_UM / image.mpp)))
                exports.write_overlay(path, picture, provenance=self._provenance(exports.OVERLAY), facts=recorded)
        self._facts = facts
        self._image = None  # its memory

    def finish(self) -> _Facts:
        """Return what was found."""
        assert self._facts is not None, "write comes first"
        return self._facts

    def facts(self) -> _Facts | None:
        """Read what the outputs say about themselves."""
        for name, path in self.outputs.items():
            if name == "ome-zarr":
                known: Json | None = labels.open_labels(path).facts
            else:
                known = exports.read_facts(path)
            if known is not None:
                return _Facts(known["n_nuclei"], known["mm2"], known["mpp"], known["mpp_source"])
        return None

    def close(self) -> None:
        """Hold nothing."""
        self._image = None

    def _begin_store(self, image: SlideImage) -> labels.SlideLabelsWriter:
        return labels.SlideLabelsWriter(
            self.outputs["ome-zarr"],
            image=image.pixels,
            mpp=image.mpp,
            mpp_source=image.mpp_source,
            source=self._source,
            model=self._model,
            provenance=self._provenance(labels.CONTRACT),
        )

    def _identify(self) -> None:
        self._source = {"name": self.input.path.name, "sha256": content_hash(self.input.path)}
        self._hash = _fingerprint(self._config, self._source["sha256"], self._model, self._mpp)

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
        contract = exports.LABEL_IMAGE if name == "tiff" else exports.OVERLAY
        return exports.prepare_file(path, contract=contract, config_hash=self._hash, overwrite=self._execution.overwrite)

    def _provenance(self, contract: str) -> Provenance:
        return Provenance(contract=contract, command="segment", config=as_dict(self._config), config_hash=self._hash)


class _PatchJob:
    """A patch store: a part for each of its shards, one label store."""

    def __init__(self, given: InputImage, output: Path, config: SegmentConfig, execution: Execution, model: Json) -> None:
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
        self._hash = _fingerprint(self._config, self._store.content_hash(), self._model, self._given_mpp)
        return prepare_output(
            self.outputs["ome-zarr"],
            contract=labels.CONTRACT,
            config_hash=self._hash,
            resume=not self._execution.overwrite,
            overwrite=self._execution.overwrite,
            dry_run=self._execution.dry_run,
        )

    def check(self) -> tuple[float, str]:
        """Return the store's pixel size."""
        return self._mpp

    def parts(self) -> list[range]:
        """Make or take up the output."""
        self.watch = Stopwatch()
        self._writer = labels.PatchLabelsWriter(
            self.outputs["ome-zarr"],
            n=len(self._store),
            shape=self._shape,
            mpp=self._mpp[0],
            source={"name": self.input.path.name, "sha256": self._store.content_hash()},
            model=self._model,
            provenance=Provenance(
                contract=labels.CONTRACT, command="segment", config=as_dict(self._config), config_hash=self._hash
            ),
        )
        return self._writer.pending()

    def load(self, part: range, mpp: float) -> list[RGBImage]:
        """Read a batch of patches."""
        images, _ = self._store.read(part)
        levels = patch_glass_levels(self._store, part, images)
        return [_to_model(glass_to_white(image, level), self._mpp[0], mpp) for image, level in zip(images, levels, strict=True)]

    def write(self, part: range, found: Sequence[PendingImage], mpp: float) -> None:
        """Write the labels of a batch."""
        assert self._writer is not None, "parts comes first"
        found_labels = [_to_slide(one.collect(), self._mpp[0], mpp, self._shape).labels for one in found]
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
        return _Facts(nuclei, len(self._store) * (self._store.patch_px * mpp) ** 2 / 1e6, mpp, source)


def nucleus_table(nuclei: Nuclei, mpp: float) -> dict[str, npt.NDArray[Any]]:
    """Measure nuclei at the slide's resolution.

    Parameters
    ----------
    nuclei : Nuclei
        Labels (H, W) 1..n, and a probability for each.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    dict of ndarray
        The columns of ``tables/nuclei`` of a label store, n rows.
    """
    measured = measure(nuclei.labels, mpp)
    boxes = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(nuclei.labels)]
    return {
        "id": measured.id,
        "y_um": measured.y_px * mpp,
        "x_um": measured.x_px * mpp,
        "box": np.asarray(boxes, np.int32).reshape(-1, 4),
        "area_um2": measured.area_um2,
        "probability": nuclei.probability,
        "elongation": measured.elongation,
        "orientation_rad": measured.orientation_rad,
        "major_um": measured.major_um,
        "minor_um": measured.minor_um,
    }


def _to_model(image: RGBImage, mpp: float, model_mpp: float) -> RGBImage:
    """Bring pixels to the model's pixel size, unless that is theirs."""
    return image if _same(mpp, model_mpp) else resample(image, mpp, model_mpp)


def _to_slide(found: Nuclei, mpp: float, model_mpp: float, shape: tuple[int, int]) -> Nuclei:
    """Bring labels back to the slide's own pixels, and number them there."""
    if _same(mpp, model_mpp):
        return found
    resampled: InstanceLabels = resample_labels(found.labels, model_mpp, mpp, shape)
    numbered, ids = renumber_by_anchor(resampled)  # a nucleus below one pixel is gone; anchors move a little
    return Nuclei(labels=numbered, probability=found.probability[ids - 1])


def _same(mpp: float, model_mpp: float) -> bool:
    return abs(mpp / model_mpp - 1) <= SAME_MPP


def _fingerprint(config: SegmentConfig, sha256: str, model: Json, mpp: float | None) -> str:
    """Identify what decides the labels; the formats do not, so that one can be added later."""
    alike = replace(config, formats=("ome-zarr",), mpp=None)
    return config_hash(alike, slide=sha256, model=model["sha256"], mpp=mpp)


def _plan(inputs: Sequence[InputImage], out: Path, config: SegmentConfig, execution: Execution, model: Json) -> list[_Job]:
    """Name the outputs of every input; where names would collide, a hash of the path is appended to all of them."""
    kinds = [(found := peek(given.path)) is not None and found.contract_name == "histosynth-patches" for given in inputs]
    names = [(slide_stem(given.path), is_store) for given, is_store in zip(inputs, kinds, strict=True)]
    taken = Counter((stem.casefold(), is_store) for stem, is_store in names)  # some file systems do not tell A from a
    jobs: list[_Job] = []
    for given, (stem, is_store) in zip(inputs, names, strict=True):
        unique = stem
        if taken[stem.casefold(), is_store] > 1:
            unique = f"{stem}__{hashlib.sha256(os.path.abspath(given.path).encode()).hexdigest()[:8]}"
        if is_store:
            if config.formats != ("ome-zarr",):
                logger.warning("%s: the labels of a patch store are written as one store; --format is left aside", given.path)
            jobs.append(_PatchJob(given, out / f"{unique}{PATCH_SUFFIX}", config, execution, model))
        else:
            outputs = {name: out / f"{unique}{SUFFIXES[name]}" for name in dict.fromkeys(config.formats)}
            jobs.append(_SlideJob(given, outputs, config, execution, model))
    return jobs
