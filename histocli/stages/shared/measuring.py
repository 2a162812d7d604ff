"""References measured in worker processes, before synthetic patches imitate them.

A large reference is cut into regions. The measurements of each region (``reference.statistics``)
go to a scratch folder as plain arrays. Nuclei are found by a rough method that needs no model, or
by the model of ``--priors``, whose errors are measured first (calibration).
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
from histocli.stores.box import model_path
from histocli.stores.models import read_model
from histocli.stores.scratch import load_arrays, save_arrays
from histocli.synthesis.patch import draw_patch, paint_patches

logger = logging.getLogger(__name__)

REGION_PX = 1024  # longest side of a region
MOST_REGIONS = 512  # regions measured in one run, equally many of each reference
LEAST_TISSUE = 0.05  # share of tissue below which a region is not used, unless all are below
CALIBRATION_REFERENCES = 32  # references that calibration patches imitate
CALIBRATION_PATCHES = 64  # synthetic patches on which a model's errors are measured


@dataclass(frozen=True)
class Region:
    """One measured part of a reference file."""

    source: Source
    index: int  # number of the source among the references
    box: tuple[int, int, int, int]  # top, left, bottom, right, in pixels of the resampled image
    folder: Path  # with the region's arrays
    statistics: Json
    tissue_fraction: float

    @property
    def name(self) -> str:
        """File name with the box: ``name[top:bottom,left:right]``."""
        top, left, bottom, right = self.box
        return f"{self.source.path.name}[{top}:{bottom},{left}:{right}]"


@dataclass(frozen=True)
class MeasureJob:
    """One reference to measure."""

    source: Source
    index: int  # number of the source among the references
    config: GenerateConfig
    scratch: Path
    most_regions: int
    tolerant: bool  # whether a reference that cannot be decoded is left out
    calibration: Calibration  # corrects the errors of the model of --priors


def measure_references(
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
) -> tuple[list[Region], list[str]]:
    """Measure the references, and write the arrays of their regions to the folder ``scratch``.

    Returns the regions and, under ``--on-error continue``, the paths of references that cannot be
    decoded. Raises ``InputNotFound`` if none can be read.
    """
    calibration = UNCALIBRATED
    if config.priors is not None:
        calibration = _calibrate_priors(sources, config, execution, scratch / "rough", track)
    return _take_apart(sources, config, execution, scratch, track, calibration)


def _take_apart(
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
    calibration: Calibration = UNCALIBRATED,
) -> tuple[list[Region], list[str]]:
    """Measure references: a random part of them if there are more than patches or MOST_REGIONS."""
    used = np.arange(len(sources))
    limit = min(config.n, MOST_REGIONS)
    if len(sources) > limit:
        used = np.sort(rng_for(config.seed, "sources").choice(len(sources), limit, replace=False))
        text = "%d of %d references are used: no more than there are patches, and at most %d"
        logger.warning(text, limit, len(sources), MOST_REGIONS)
    most, tolerant = max(1, limit // len(used)), execution.on_error == "continue"
    rest = config, scratch, most, tolerant, calibration
    jobs = [MeasureJob(sources[i], i, *rest) for i in used.tolist()]
    found: list[Region] = []
    damaged: list[str] = []
    # a process takes seconds to start, so each gets at least four jobs
    workers = min(resolve_workers(execution.workers), max(1, len(jobs) // 4))
    stopped = (
        "generate: stopped while references were measured; nothing was drawn yet, run it again"
    )
    with track("measuring references", len(jobs)) as bar, disk_errors(scratch):
        for job, regions in map_unordered(_measure, jobs, workers, stopped):
            if isinstance(regions, str):
                logger.warning("%s", regions)
                damaged.append(str(job.source.path))
            else:
                found.extend(regions)
            bar.advance()
    if not found:
        n = len(jobs)
        raise InputNotFound(f"none of the {n} references can be read; see the messages above")
    found.sort(key=lambda region: (region.index, region.box))
    with_tissue = [region for region in found if region.tissue_fraction >= LEAST_TISSUE]
    if not with_tissue:
        logger.warning("the references show no tissue; the patches will be empty")
    return with_tissue or found, sorted(damaged)


def _measure(job: MeasureJob) -> list[Region] | str:
    """Return the regions of a reference or, if tolerated, the message of its error; in a worker."""
    source, config = job.source, job.config
    try:
        image = source.read()
    except HistosynthError as error:
        if not job.tolerant:
            raise
        return str(error)
    pixels = resample(image, source.mpp, config.mpp)
    height, width = pixels.shape[:2]
    rows, columns = _parts(height, REGION_PX), _parts(width, REGION_PX)
    boxes = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    if len(boxes) > job.most_regions:
        rng = rng_for(config.seed, f"regions of {source.sha256}")
        boxes = [boxes[i] for i in np.sort(rng.choice(len(boxes), job.most_regions, replace=False))]
    regions = []
    priors = config.priors
    for number, box in enumerate(boxes):
        part = np.ascontiguousarray(pixels[box[0] : box[2], box[1] : box[3]])
        reference = analyse_reference(
            part,
            config.mpp,
            source.path.name,
            rng_for(config.seed, source.sha256, number),
            predicted=None if priors is None else _predict(model_path(priors), part, config.mpp),
            calibration=job.calibration,
        )
        folder = job.scratch / f"{job.index}-{number}"
        save_arrays(folder, *reference.to_arrays())
        statistics = reference.statistics
        tissue = statistics.appearance.tissue_fraction
        regions.append(Region(source, job.index, box, folder, statistics.to_json(), tissue))
    return regions


def _predict(model: Path, image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.int32]:
    """Return the labels that a model finds in an image, computed at the model's pixel size."""
    facts = model.stat()
    predictor = _load_predictor(model, facts.st_mtime_ns, facts.st_size)
    pixels = resample(glass_to_white(image, white_level(image)), mpp, predictor.mpp)
    labels = predictor.segment(pixels)
    return resample_labels(labels, predictor.mpp, mpp, image.shape[:2]).astype(np.int32)


@lru_cache(maxsize=1)
def _load_predictor(path: Path, modified_ns: int, size: int) -> Predictor:
    """Load a model once per process, and again when the file was rewritten."""
    header, tensors = read_model(path)
    segmenter = build_segmenter(header.architecture)
    segmenter.load_state_dict(tensors)
    device = torch.device("cpu")  # several worker processes predict at the same time
    return Predictor(
        segmenter,
        mpp=header.mpp,
        device=device,
        dtype=resolve_precision("auto", device),
        thresholds=Thresholds(**header.thresholds),
    )


def _calibrate_priors(
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
) -> Calibration:
    """Measure the errors of the model of ``config.priors`` on synthetic patches with known labels.

    These patches imitate the same references, with nuclei from the rough method. Without the
    correction, each round of measuring a model's nuclei and drawing new ones would make nuclei
    smaller, since models miss their uncertain borders.
    """
    assert config.priors is not None
    model = model_path(config.priors)
    most = min(len(sources), CALIBRATION_REFERENCES)
    few = [sources[int(i)] for i in np.linspace(0, len(sources) - 1, most).astype(int)]
    rough = replace(config, n=len(few), priors=None)
    regions, _ = _take_apart(few, rough, replace(execution, on_error="continue"), scratch, track)
    ratios: list[float] = []
    found = drawn = 0
    with track("calibrating priors", CALIBRATION_PATCHES) as bar:
        for index in range(CALIBRATION_PATCHES):
            raise_if_stopped("generate: stopped before anything was drawn; run it again")
            reference = Reference.from_arrays(*load_arrays(regions[index % len(regions)].folder))
            rng = rng_for(config.seed, "calibration", index)
            drawing = draw_patch(reference, config.patch_px, rng)
            image = paint_patches([drawing], torch.device("cpu"))[0]
            predicted = _predict(model, image, config.mpp)
            areas, n_found, n_drawn = compare_areas(drawing.instance_labels, predicted)
            ratios += areas
            found, drawn = found + n_found, drawn + n_drawn
            bar.advance()
    calibration = calibration_of(ratios, found, drawn)
    text = (
        "on synthetic patches the model's nuclei have %.2f of the true area and it finds %.2f of "
        "them; both are corrected"
    )
    logger.info(text, calibration.area_factor, calibration.recall)
    return calibration


def _parts(length: int, longest: int) -> list[tuple[int, int]]:
    """Cut 0..length into equal parts of at most ``longest``."""
    edges = np.linspace(0, length, -(-length // longest) + 1).round().astype(int)
    return [(int(start), int(stop)) for start, stop in pairwise(edges)]
