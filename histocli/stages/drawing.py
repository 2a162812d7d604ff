"""Reference images taken apart, and patches drawn after them, in worker processes: what
``generate`` and ``train --fresh`` share.

What synthesis needs of a reference goes to a scratch folder as plain arrays, which workers map into
memory, so that memory does not grow with the number of patches. Patch i depends on the seed, the
references and i only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.device import resolve_precision
from histocli.base.errors import HistosynthError, InputNotFound
from histocli.base.files import disk_errors
from histocli.base.interrupts import raise_if_stopped
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.inference.predict import Predictor
from histocli.instances.targets import Thresholds
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.reference.calibration import UNCALIBRATED, Calibration, calibration_of, compare_areas
from histocli.reference.statistics import Reference, analyse_reference
from histocli.slides.resampling import resample, resample_labels
from histocli.stages.shared.references import Source
from histocli.stores.models import read_model
from histocli.stores.scratch import load_arrays, save_arrays
from histocli.synthesis.patch import Drawing, draw_patch, paint_patches
from histocli.synthesis.variation import AS_MEASURED, Spread, Variation

logger = logging.getLogger(__name__)

# larger references are cut into regions of about this side, each measured on its own
REGION_PX = 1024
MOST_REGIONS = 512  # regions taken apart in one run; evenly spread over the references
# regions with less tissue teach nothing and are left out, unless there is nothing else
LEAST_TISSUE = 0.05
CALIBRATION_REFERENCES = 32
CALIBRATION_PATCHES = 64


@dataclass(frozen=True)
class Region:
    """One part of a reference file, taken apart."""

    source: Source
    index: int
    """Of the source."""
    box: tuple[int, int, int, int]
    """Top, left, bottom, right, in pixels of the resampled image."""
    folder: Path
    """Where its arrays are."""
    statistics: Json
    tissue_fraction: float

    @property
    def name(self) -> str:
        """File name, with the part of it that was used."""
        top, left, bottom, right = self.box
        return f"{self.source.path.name}[{top}:{bottom},{left}:{right}]"


@dataclass(frozen=True)
class AnalyseJob:
    """One reference to take apart."""

    source: Source
    index: int
    mpp: float
    seed: int
    scratch: Path
    most_regions: int
    tolerant: bool
    """Leave the reference out if it cannot be decoded."""
    priors: Path | None = None
    """Model whose nuclei are measured instead of the rough ones."""
    calibration: Calibration = UNCALIBRATED


@dataclass(frozen=True)
class BatchJob:
    """Patches to draw at a time."""

    batch: range
    folders: tuple[Path, ...]
    """Of the reference of each patch."""
    patch_px: int
    seed: int
    paint: bool
    """Paint in the worker too; False where a GPU in the parent does it."""
    purpose: str = "patch"
    """Of the random numbers: patches of different purposes differ."""
    spread: Spread | None = None
    """How parameters vary from patch to patch; None leaves them as measured."""


@dataclass(frozen=True)
class BatchResult:
    """Patches as drawn, painted or to be painted."""

    instance_labels: npt.NDArray[np.int32]
    image: npt.NDArray[np.uint8] | None
    drawings: list[Drawing] | None


def reference_order(seed: int, n_references: int, n: int) -> npt.NDArray[np.int32]:
    """Return which reference each of ``n`` patches follows: all once in a random order, then all
    again in another.

    Entry i depends on the seed, the number of references and i only.
    """
    rounds = -(-n // n_references)
    orders = [rng_for(seed, "reference", turn).permutation(n_references) for turn in range(rounds)]
    return np.concatenate(orders)[:n].astype(np.int32)


def take_apart(
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
    priors: Path | None = None,
    calibration: Calibration = UNCALIBRATED,
) -> tuple[list[Region], list[str]]:
    """Take the references apart that patches will follow; the others of a long list are not needed.

    Returns their regions, and the references that turned out to be damaged.
    """
    used = np.arange(len(sources))
    limit = min(config.n, MOST_REGIONS)
    if len(sources) > limit:
        used = np.sort(rng_for(config.seed, "sources").choice(len(sources), limit, replace=False))
        logger.warning(
            "%d of %d references are used: no more than there are patches, and at most %d",
            limit,
            len(sources),
            MOST_REGIONS,
        )
    most_regions = max(1, limit // len(used))
    tolerant = execution.on_error == "continue"
    jobs = [
        AnalyseJob(
            sources[int(i)],
            int(i),
            config.mpp,
            config.seed,
            scratch,
            most_regions,
            tolerant,
            priors,
            calibration,
        )
        for i in used
    ]
    found: list[Region] = []
    damaged: list[str] = []
    # a process takes seconds to start
    workers = min(resolve_workers(execution.workers), max(1, len(jobs) // 4))
    with track("measuring references", len(jobs)) as bar, disk_errors(scratch):
        stopped = (
            "generate: stopped while references were measured; nothing was drawn yet, run it again"
        )
        for job, regions in map_unordered(_analyse_source, jobs, workers, stopped):
            if isinstance(regions, str):
                logger.warning("%s", regions)
                damaged.append(str(job.source.path))
            else:
                found.extend(regions)
            bar.advance()
    if not found:
        raise InputNotFound(
            f"none of the {len(jobs)} references can be read; see the messages above"
        )
    found.sort(key=lambda region: (region.index, region.box))
    with_tissue = [region for region in found if region.tissue_fraction >= LEAST_TISSUE]
    if not with_tissue:
        logger.warning("the references show no tissue; the patches will be empty")
    return with_tissue or found, sorted(damaged)


def _analyse_source(job: AnalyseJob) -> list[Region] | str:
    """Return the regions of a reference, or why it cannot be decoded when that is tolerated."""
    try:
        image = job.source.read()
    except HistosynthError as error:
        if not job.tolerant:
            raise
        return str(error)
    pixels = resample(image, job.source.mpp, job.mpp)
    height, width = pixels.shape[:2]
    boxes = [
        (top, left, bottom, right)
        for top, bottom in _parts(height, REGION_PX)
        for left, right in _parts(width, REGION_PX)
    ]
    if len(boxes) > job.most_regions:
        rng = rng_for(job.seed, f"regions of {job.source.sha256}")
        boxes = [boxes[i] for i in np.sort(rng.choice(len(boxes), job.most_regions, replace=False))]
    regions = []
    for number, (top, left, bottom, right) in enumerate(boxes):
        rng = rng_for(job.seed, job.source.sha256, number)
        part = np.ascontiguousarray(pixels[top:bottom, left:right])
        predicted = None if job.priors is None else _predict(job.priors, part, job.mpp)
        reference = analyse_reference(
            part,
            job.mpp,
            job.source.path.name,
            rng,
            predicted=predicted,
            calibration=job.calibration,
        )
        folder = job.scratch / f"{job.index}-{number}"
        save_arrays(folder, *reference.to_arrays())
        statistics = reference.statistics
        regions.append(
            Region(
                job.source,
                job.index,
                (top, left, bottom, right),
                folder,
                statistics.to_json(),
                statistics.appearance.tissue_fraction,
            )
        )
    return regions


def _predictor(path: Path) -> Predictor:
    """Load a model once per process, and again when the file was rewritten."""
    facts = path.stat()
    return _load_predictor(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1)
def _load_predictor(path: Path, modified_ns: int, size: int) -> Predictor:
    header, tensors = read_model(path)
    segmenter = build_segmenter(header.architecture)
    segmenter.load_state_dict(tensors)
    device = torch.device("cpu")  # in worker processes, beside each other
    dtype = resolve_precision("auto", device)
    return Predictor(
        segmenter,
        mpp=header.mpp,
        device=device,
        dtype=dtype,
        thresholds=Thresholds(**header.thresholds),
    )


def _predict(model: Path, image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.int32]:
    """Segment an image by a model, at the model's pixel size."""
    predictor = _predictor(model)
    pixels = resample(glass_to_white(image, white_level(image)), mpp, predictor.mpp)
    return resample_labels(predictor.segment(pixels), predictor.mpp, mpp, image.shape[:2]).astype(
        np.int32
    )


def calibrate(
    sources: Sequence[Source],
    model: Path,
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
) -> Calibration:
    """Learn how a model errs in area and number from patches whose truth is known.

    They follow the same references by rough priors. Without this, each round of measuring a model's
    nuclei and drawing new ones would shrink them to what models are sure of.
    """
    few = [
        sources[int(i)]
        for i in np.linspace(0, len(sources) - 1, min(len(sources), CALIBRATION_REFERENCES)).astype(
            int
        )
    ]
    regions, _ = take_apart(
        few, replace(config, n=len(few)), replace(execution, on_error="continue"), scratch, track
    )
    ratios: list[float] = []
    found = drawn = 0
    with track("calibrating priors", CALIBRATION_PATCHES) as bar:
        for index in range(CALIBRATION_PATCHES):
            raise_if_stopped("generate: stopped before anything was drawn; run it again")
            reference = Reference.from_arrays(*load_arrays(regions[index % len(regions)].folder))
            drawing = draw_patch(
                reference, config.patch_px, rng_for(config.seed, "calibration", index)
            )
            image = paint_patches([drawing], torch.device("cpu"))[0]
            areas, n_found, n_drawn = compare_areas(
                drawing.instance_labels, _predict(model, image, config.mpp)
            )
            ratios += areas
            found, drawn = found + n_found, drawn + n_drawn
            bar.advance()
    calibration = calibration_of(ratios, found, drawn)
    logger.info(
        "on synthetic patches the model's nuclei have %.2f of the true area and it finds %.2f of them; both are corrected",
        calibration.area_factor,
        calibration.recall,
    )
    return calibration


def _parts(length: int, longest: int) -> list[tuple[int, int]]:
    """Cut 0..length into equal parts of at most ``longest``."""
    edges = np.linspace(0, length, -(-length // longest) + 1).round().astype(int)
    return [(int(start), int(stop)) for start, stop in pairwise(edges)]


def variation_of(spread: Spread | None, seed: int, purpose: str, index: int) -> Variation:
    """Return the factors on what was measured that a patch has."""
    return (
        AS_MEASURED
        if spread is None
        else spread.draw(rng_for(seed, f"variation of {purpose}", index))
    )


def draw_batch(job: BatchJob) -> BatchResult:
    """Draw a batch of patches; runs in a worker."""
    loaded: dict[Path, Reference] = {}
    drawings = []
    for index, folder in zip(job.batch, job.folders, strict=True):
        if folder not in loaded:
            loaded[folder] = Reference.from_arrays(*load_arrays(folder))
        variation = variation_of(job.spread, job.seed, job.purpose, index)
        drawings.append(
            draw_patch(
                loaded[folder],
                job.patch_px,
                rng_for(job.seed, job.purpose, index),
                variation=variation,
            )
        )
    labels = np.stack([drawing.instance_labels for drawing in drawings])
    if job.paint:
        return BatchResult(labels, paint_patches(drawings, torch.device("cpu")), None)
    return BatchResult(labels, None, drawings)
