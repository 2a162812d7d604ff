"""The plan of ``segment``: find the model, name the outputs and share the inputs out."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from histocli.base.formats import FORMATS
from histocli.base.inputs import InputImage
from histocli.base.types import Json
from histocli.base.units import ASSUMED_MPP
from histocli.config.common import Execution
from histocli.config.drawing import Drawing
from histocli.config.segment import SegmentConfig, parse_shard
from histocli.exports.registry import read_record
from histocli.slides.slide import slide_stem
from histocli.stages.segment.job import Job
from histocli.stages.segment.patch_job import PatchJob
from histocli.stages.segment.slide_job import SlideJob
from histocli.stores.box import find_box_model, model_named
from histocli.stores.provenance import peek

logger = logging.getLogger(__name__)

PATCH_SUFFIX = ".labels.zarr"
RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")  # kinds that record no pixel size


def find_model(model: Path | None) -> Path:
    """Return the file of a model, given a path or the name of a model that comes with the package.

    None gives the default model.
    """
    if model is not None and (model.exists() or model.suffix or len(model.parts) > 1):
        return model
    if model is not None and (named := model_named(str(model))) is not None:
        return named
    shipped = find_box_model(None if model is None else str(model))
    if model is None:
        logger.info(
            "segmenting with %s, which comes with histosynth; a model of the tissue itself finds "
            "more",
            shipped.name,
        )
    return shipped.path


def without_outputs(inputs: Sequence[InputImage], words: Sequence[str]) -> list[InputImage]:
    """Return the inputs without results of histosynth that lie in a folder of slides.

    Results often lie among the slides; a second run must not take them for slides. What the user
    names as a file stays, and is refused later if it is no slide.
    """
    named = set(words)
    kept: list[InputImage] = []
    left_out: list[InputImage] = []
    for given in inputs:
        ours = str(given.path) not in named and _is_output(given.path)
        (left_out if ours else kept).append(given)
    if left_out and kept:
        text = "%d results of histosynth among the slides are left out, %s first"
        logger.info(text, len(left_out), left_out[0].path)
    return kept or list(inputs)


def _is_output(path: Path) -> bool:
    """Tell whether histosynth wrote a file or store; patch stores are inputs."""
    if not path.exists():
        return False
    found = peek(path) if path.is_dir() else None
    if found is not None:
        return found.contract_name == "histosynth-labels"
    return read_record(path) is not None


def plan_jobs(
    inputs: Sequence[InputImage],
    out: Path,
    config: SegmentConfig,
    execution: Execution,
    model: Json,
    drawing: Drawing,
) -> list[Job]:
    """Name the outputs of every input; where names would collide, a hash of the path is appended to
    all of them.
    """
    names = [(slide_stem(given.path), _is_patch_store(given.path)) for given in inputs]
    # some file systems do not distinguish upper and lower case
    taken = Counter((stem.casefold(), is_store) for stem, is_store in names)
    jobs: list[Job] = []
    for given, (stem, is_store) in zip(inputs, names, strict=True):
        unique = stem
        if taken[stem.casefold(), is_store] > 1:
            path = os.path.abspath(given.path)
            unique = f"{stem}__{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        if is_store:
            if config.formats != ("ome-zarr",):
                logger.warning(
                    "%s: the labels of a patch store are written as one store; "
                    "--format is left aside",
                    given.path,
                )
            outputs = {"ome-zarr": out / f"{unique}{PATCH_SUFFIX}"}
            jobs.append(PatchJob(given, outputs, config, execution, model))
        else:
            paths = {name: out / f"{unique}{form.suffix}" for name, form in FORMATS.items()}
            outputs = {name: paths[name] for name in dict.fromkeys(config.formats)}
            place = paths["ome-zarr"]
            jobs.append(SlideJob(place, drawing, given, outputs, config, execution, model))
    return jobs


def _is_patch_store(path: Path) -> bool:
    found = peek(path)
    return found is not None and found.contract_name == "histosynth-patches"


def warn_of_assumed(jobs: Sequence[Job]) -> None:
    """Say once, before the work begins, which images get an assumed pixel size."""
    plain = [
        job
        for job in jobs
        if isinstance(job, SlideJob)
        and job.given_mpp is None
        and job.input.path.suffix.lower() in RASTER_SUFFIXES
    ]
    for job in plain:
        job.said_mpp = True
    if plain:
        first = plain[0].input.path
        several = f"{len(plain)} images ({first} first) record"
        text = "%s no pixel size; %g um/px is assumed, give another with --mpp"
        logger.warning(text, several if len(plain) > 1 else f"{first}: records", ASSUMED_MPP)


def own_share(jobs: list[Job], config: SegmentConfig) -> list[Job]:
    """Return this process's share of the jobs: every N-th job, by ``--shard`` or a Slurm array."""
    if config.shard is not None:
        index, count = parse_shard(config.shard)
        # shares may be counted 1..N or 0..N-1; either way, each slide is in one share
        return jobs[(index - 1) % count :: count]
    environment = os.environ
    if (
        len(jobs) < 2
        or "SLURM_ARRAY_TASK_ID" not in environment
        or not environment.get("SLURM_ARRAY_TASK_COUNT", "").isdecimal()
    ):
        return jobs
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
    return jobs[index::count]
