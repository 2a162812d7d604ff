"""``histosynth segment``: slides and a model -> labels of all nuclei, in pixels of the slides.

Slides are read, labelled and written in blocks, so memory does not grow with the slide. Reading,
the network, decoding and writing run at the same time (:mod:`histocli.stages.segment.line`).

The labels of a slide depend on the slide, the model and the settings only: not on workers, order,
memory or interruptions. Finished slides are skipped. An interrupted slide keeps its finished
blocks; the same command does the rest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from histocli.base.errors import InvalidOption
from histocli.base.files import content_hash
from histocli.base.inputs import InputImage, expand_with_mpp
from histocli.base.progress import Track, silent
from histocli.config.common import Execution
from histocli.config.drawing import OUTLINES, Drawing
from histocli.config.segment import SegmentConfig
from histocli.exports.registry import check_packages
from histocli.inference.pipeline import Pipeline, collect, whole_image
from histocli.slides.open import SLIDE_SUFFIXES
from histocli.stages.segment.backend import by_backend, check_backend
from histocli.stages.segment.cluster import run_on_cluster
from histocli.stages.segment.job import Job
from histocli.stages.segment.ledger import STATUS_FILE, Ledger
from histocli.stages.segment.line import run_line
from histocli.stages.segment.loaded import LoadedModel, load_model
from histocli.stages.segment.plan import (
    find_model,
    own_share,
    plan_jobs,
    warn_of_assumed,
    without_outputs,
)
from histocli.stages.segment.results import SegmentResult
from histocli.stages.segment.slide_job import SlideJob
from histocli.stores.models import ModelHeader, read_model_header

PROBE_PX = 512  # side of the tile that a dry run times the network with


def segment(
    slides: Sequence[str],
    model: Path | None,
    out: Path,
    config: SegmentConfig,
    execution: Execution,
    *,
    drawing: Drawing = OUTLINES,
    track: Track = silent,
    report: Callable[[SegmentResult], None] = lambda result: None,
) -> list[SegmentResult]:
    """Label every nucleus of slides, images or the patches of a patch store.

    Parameters
    ----------
    slides : sequence of str
        Words as in :mod:`histocli.base.inputs`; a manifest may give pixel sizes and regions.
    model : Path, optional
        Model file, or the name of a model of the package; None takes the default model.
    out : Path
        Folder for the results, named after the slides, and for the status file.
    drawing, report
        The look of overlays; what is called with each result, in order, in any thread.

    Returns
    -------
    list of SegmentResult
        One for each input, in order.

    Raises
    ------
    InvalidOption, OutOfResources, Stopped
        Always end the command; finished slides stay.
    InputNotFound, InvalidInput, StoreExists
        With ``on_error="continue"``, an error of one slide goes into its result instead.
    """
    model = find_model(model)
    header = segmenter_header(model)
    check_packages(config.formats)
    check_backend(config, execution)
    keep_going = execution.on_error == "continue"
    inputs = _slides_named(slides, keep_going)
    facts = {"name": model.name, "sha256": content_hash(model)}
    jobs = own_share(plan_jobs(inputs, out, config, execution, facts, drawing), config)
    ledger = Ledger(jobs, keep_going, report, None if execution.dry_run else out / STATUS_FILE)
    todo = _undone(jobs, ledger)
    if todo:
        warn_of_assumed(todo)
    for settings, group in by_backend(todo, config, execution, ledger.failures_of):
        here = group
        if config.scheduler is not None and not execution.dry_run:
            slide_jobs = [job for job in group if isinstance(job, SlideJob)]
            run_on_cluster(slide_jobs, model, header, *settings, ledger, track)
            here = [job for job in group if not isinstance(job, SlideJob)]
        if here:
            with ExitStack() as stack:
                loaded = load_model(model, header, *settings, stack)
                work = _check if execution.dry_run else partial(run_line, track=track)
                work(here, loaded, ledger)
    return ledger.results


def _slides_named(words: Sequence[str], keep_missing: bool) -> list[InputImage]:
    """Return the slides that words name, without results of earlier runs among them."""
    inputs = expand_with_mpp(
        words, suffixes=SLIDE_SUFFIXES, stdin=sys.stdin, what="slide", keep_missing=keep_missing
    )
    return without_outputs(inputs, words)


def segmenter_header(model: Path) -> ModelHeader:
    """Read the header of a segmenter; ``InvalidOption`` for a model of another kind."""
    header = read_model_header(model)
    if header.kind != "segmenter":
        raise InvalidOption(f"--model {model}: is a {header.kind}, but a segmenter is needed")
    return header


def _undone(jobs: Sequence[Job], ledger: Ledger) -> list[Job]:
    """Return the jobs that are to be done; conflicts of outputs are found before any work."""
    todo = []
    for job in jobs:
        with ledger.failures_of(job):
            if job.decide() == "skip":
                ledger.done(job, "skipped", job.facts())
            else:
                todo.append(job)
    return todo


def _check(jobs: Sequence[Job], model: LoadedModel, ledger: Ledger) -> None:
    """Record the expected work for the jobs."""
    rate = _network_rate(model.pipelines[0]) * len(model.pipelines)
    for job in jobs:
        with ledger.failures_of(job):
            expected = job.check(model)
            ledger.planned(job, expected, expected.network_px / rate)


def _network_rate(pipeline: Pipeline) -> float:
    """Return how many pixels a second go through the pipeline, timed on a tile."""
    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_PX, PROBE_PX, 3), np.uint8)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        image = whole_image(pixels, pipeline.block_grid((PROBE_PX, PROBE_PX)))
        pipeline.run([image])
        collect(image, 1.0)
        seconds.append(time.perf_counter() - start)
    return PROBE_PX * PROBE_PX / min(seconds)
