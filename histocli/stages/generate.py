"""``histosynth generate``: reference images become a store of synthetic patches with nucleus labels.

Two rounds. First every reference that will be used is read, resampled, taken apart and measured, and what synthesis needs of
it goes to a scratch folder as plain arrays. Then patches are drawn batch by batch from memory-mapped references, so that memory
does not grow with their number. Patch i depends on the seed, the references and i only.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.device import resolve_device, resolve_precision
from histocli.base.errors import HistosynthError, InputNotFound
from histocli.base.interrupts import raise_if_stopped
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track, silent
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.generate import GenerateConfig
from histocli.inference.predict import Predictor
from histocli.instances.targets import Thresholds
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.reference.calibration import UNCALIBRATED, Calibration, calibration_of, compare_areas
from histocli.reference.statistics import Reference, analyse_reference
from histocli.stages.common import Source, StageResult, Stopwatch, content_hash, identify_references
from histocli.stages.real_patches import cut_each
from histocli.stores.inputs import expand_with_mpp
from histocli.stores.models import read_model, read_model_header
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance, disk_errors, prepare_output
from histocli.stores.scratch import load_arrays, save_arrays
from histocli.stores.slides import IMAGE_SUFFIXES, read_image, resample, resample_labels
from histocli.synthesis.patch import Drawing, draw_patch, paint_patches
from histocli.synthesis.variation import AS_MEASURED, Spread, Variation
from histocli.training.two_sample import TwoSampleSchedule, judge

logger = logging.getLogger(__name__)

REGION_PX = 1024  # larger references are cut into regions of about this side, each measured on its own
MOST_REGIONS = 512  # regions taken apart in one run; evenly spread over the references
LEAST_TISSUE = 0.05  # regions with less tissue teach nothing and are left out, unless there is nothing else
CALIBRATION_REFERENCES = 32
CALIBRATION_PATCHES = 64
PILOTS = 512  # patches that are judged in a round of re-sampling
PILOT_BATCH = 16
JUDGED_PX = 128  # side of the middle of a patch that is judged


@dataclass(frozen=True, kw_only=True)
class GenerateResult(StageResult):
    """What synthesis made."""

    schema: ClassVar[str] = "histosynth.generate/1"

    patches: int
    references: int
    """Reference files that patches follow."""
    nuclei: int | None
    """Labelled nuclei in all patches; None where nothing was drawn or read."""
    mpp: float
    failed: tuple[str, ...] = ()
    """References that could not be read, under ``--on-error continue``."""


@dataclass(frozen=True)
class _Region:
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
class _AnalyseJob:
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
class _BatchJob:
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
class _BatchResult:
    instance_labels: npt.NDArray[np.int32]
    image: npt.NDArray[np.uint8] | None
    drawings: list[Drawing] | None


def generate(
    references: Sequence[str], out: Path, config: GenerateConfig, execution: Execution, *, track: Track = silent
) -> GenerateResult:
    """Draw a patch store in the likeness of reference images.

    Parameters
    ----------
    references : sequence of str
        Files, folders, globs, ``@list``, manifests or ``-``.
    out : Path
        Patch store to make.
    config : GenerateConfig
    execution : Execution
    track : Track
        Shows progress.

    Returns
    -------
    GenerateResult

    Raises
    ------
    InputNotFound, InvalidInput
        References that are missing or cannot be read.
    StoreExists
        Something is in the way of ``out``.
    Stopped
        A signal came; what is drawn is kept for ``--resume``.
    """
    watch = Stopwatch()
    images = expand_with_mpp(
        references,
        suffixes=IMAGE_SUFFIXES,
        stdin=sys.stdin,
        what="reference image",
        keep_missing=execution.on_error == "continue",
    )
    sources, failed = identify_references(
        images, mpp=config.mpp, reference_mpp=config.reference_mpp, tolerant=execution.on_error == "continue", command="generate"
    )
    priors = Path(config.priors) if config.priors is not None else None
    used: dict[str, object] = {"references": [[source.sha256, source.mpp] for source in sources]}
    if priors is not None:
        read_model_header(priors)  # refuses what is no model before any work is done
        used["priors"] = content_hash(priors)
    fingerprint = config_hash(replace(config, priors=None), **used)  # its content counts, not where it lies
    result = GenerateResult(
        output=str(out),
        status="planned",
        seconds=0,
        patches=config.n,
        references=len(sources),
        nuclei=None,
        mpp=config.mpp,
        failed=tuple(failed),
    )
    action = prepare_output(
        out,
        contract=CONTRACT,
        config_hash=fingerprint,
        resume=execution.resume,
        overwrite=execution.overwrite,
        dry_run=execution.dry_run,
    )
    if action == "skip":
        return replace(result, status="skipped", seconds=watch.seconds, nuclei=_count_nuclei(out))
    device = resolve_device(execution.device)
    if execution.dry_run:
        return replace(result, seconds=watch.seconds)
    with tempfile.TemporaryDirectory(prefix="histosynth-") as scratch:
        calibration = UNCALIBRATED
        if priors is not None:
            calibration = _calibrate(sources, priors, config, execution, Path(scratch) / "rough", track)
        regions, damaged = _analyse(sources, config, execution, Path(scratch), track, priors, calibration)
        result = replace(result, references=len(sources) - len(damaged), failed=(*failed, *damaged))
        provenance = Provenance(
            contract=CONTRACT, command="generate", config=as_dict(config), config_hash=fingerprint, seed=config.seed
        )
        records = [
            ReferenceRecord(
                name=region.name,
                sha256=region.source.sha256,
                mpp=region.source.mpp,
                mpp_source=region.source.mpp_source,
                statistics=region.statistics,
                path=str(region.source.path.absolute()),
            )
            for region in regions
        ]
        with PatchStoreWriter.create(
            out,
            n=config.n,
            patch_px=config.patch_px,
            mpp=config.mpp,
            origin="initial",
            references=records,
            provenance=provenance,
            resume=action == "resume",
            shippable=config.shippable,
        ) as writer:
            spread = _resample_parameters(regions, config, execution, device, track) if config.rounds else None
            if spread is not None:
                writer.add_attributes({"variation": spread.to_json()})
            _draw_all(writer, regions, config, execution, device, track, spread)
            writer.finish()
    return replace(result, status="done", seconds=watch.seconds, nuclei=_count_nuclei(out))


def _count_nuclei(path: Path) -> int:
    store = PatchStore.open(path)
    return sum(int(labels.max()) for batch in store.batches() for labels in store.read(batch)[1])  # ids are 1..n


def reference_order(seed: int, n_references: int, n: int) -> npt.NDArray[np.int32]:
    """Return which reference each of ``n`` patches follows: all once in a random order, then all again in another.

    Entry i depends on the seed, the number of references and i only.
    """
    rounds = -(-n // n_references)
    orders = [rng_for(seed, "reference", turn).permutation(n_references) for turn in range(rounds)]
    return np.concatenate(orders)[:n].astype(np.int32)


def _analyse(
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    scratch: Path,
    track: Track,
    priors: Path | None = None,
    calibration: Calibration = UNCALIBRATED,
) -> tuple[list[_Region], list[str]]:
    """Take the references apart that patches will follow; the others of a long list are not needed.

    Returns their regions, and the references that turned out to be damaged.
    """
    used = np.arange(len(sources))
    limit = min(config.n, MOST_REGIONS)
    if len(sources) > limit:
        used = np.sort(rng_for(config.seed, "sources").choice(len(sources), limit, replace=False))
        logger.warning(
            "%d of %d references are used: no more than there are patches, and at most %d", limit, len(sources), MOST_REGIONS
        )
    most_regions = max(1, limit // len(used))
    tolerant = execution.on_error == "continue"
    jobs = [
        _AnalyseJob(sources[int(i)], int(i), config.mpp, config.seed, scratch, most_regions, tolerant, priors, calibration)
        for i in used
    ]
    found: list[_Region] = []
    damaged: list[str] = []
    workers = min(resolve_workers(execution.workers), max(1, len(jobs) // 4))  # a process takes seconds to start
    with track("measuring references", len(jobs)) as bar, disk_errors(scratch):
        stopped = "generate: stopped while references were measured; nothing was drawn yet, run it again"
        for job, regions in map_unordered(_analyse_source, jobs, workers, stopped):
            if isinstance(regions, str):
                logger.warning("%s", regions)
                damaged.append(str(job.source.path))
            else:
                found.extend(regions)
            bar.advance()
    if not found:
        raise InputNotFound(f"none of the {len(jobs)} references can be read; see the messages above")
    found.sort(key=lambda region: (region.index, region.box))
    with_tissue = [region for region in found if region.tissue_fraction >= LEAST_TISSUE]
    if not with_tissue:
        logger.warning("the references show no tissue; the patches will be empty")
    return with_tissue or found, sorted(damaged)


def _analyse_source(job: _AnalyseJob) -> list[_Region] | str:
    """Return the regions of a reference, or why it cannot be decoded when that is tolerated."""
    try:
        image = read_image(job.source.path, mpp=job.source.mpp)
    except HistosynthError as error:
        if not job.tolerant:
            raise
        return str(error)
    pixels = resample(image.pixels, job.source.mpp, job.mpp)
    height, width = pixels.shape[:2]
    boxes = [(top, left, bottom, right) for top, bottom in _parts(height, REGION_PX) for left, right in _parts(width, REGION_PX)]
    if len(boxes) > job.most_regions:
        rng = rng_for(job.seed, f"regions of {job.source.sha256}")
        boxes = [boxes[i] for i in np.sort(rng.choice(len(boxes), job.most_regions, replace=False))]
    regions = []
    for number, (top, left, bottom, right) in enumerate(boxes):
        rng = rng_for(job.seed, job.source.sha256, number)
        part = np.ascontiguousarray(pixels[top:bottom, left:right])
        predicted = None if job.priors is None else _predict(job.priors, part, job.mpp)
        reference = analyse_reference(part, job.mpp, job.source.path.name, rng, predicted=predicted, calibration=job.calibration)
        folder = job.scratch / f"{job.index}-{number}"
        save_arrays(folder, *reference.to_arrays())
        statistics = reference.statistics
        regions.append(
            _Region(
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
    return Predictor(segmenter, mpp=header.mpp, device=device, dtype=dtype, thresholds=Thresholds(**header.thresholds))


def _predict(model: Path, image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.int32]:
    """Segment an image by a model, at the model's pixel size."""
    predictor = _predictor(model)
    pixels = resample(glass_to_white(image, white_level(image)), mpp, predictor.mpp)
    return resample_labels(predictor.segment(pixels), predictor.mpp, mpp, image.shape[:2]).astype(np.int32)


def _calibrate(
    sources: Sequence[Source], model: Path, config: GenerateConfig, execution: Execution, scratch: Path, track: Track
) -> Calibration:
    """Learn how a model errs in area and number from patches whose truth is known.

    They follow the same references by rough priors. Without this, each round of measuring a model's nuclei and drawing new ones
    would shrink them to what models are sure of.
    """
    few = [sources[int(i)] for i in np.linspace(0, len(sources) - 1, min(len(sources), CALIBRATION_REFERENCES)).astype(int)]
    regions, _ = _analyse(few, replace(config, n=len(few)), replace(execution, on_error="continue"), scratch, track)
    ratios: list[float] = []
    found = drawn = 0
    with track("calibrating priors", CALIBRATION_PATCHES) as bar:
        for index in range(CALIBRATION_PATCHES):
            raise_if_stopped("generate: stopped before anything was drawn; run it again")
            reference = Reference.from_arrays(*load_arrays(regions[index % len(regions)].folder))
            drawing = draw_patch(reference, config.patch_px, rng_for(config.seed, "calibration", index))
            image = paint_patches([drawing], torch.device("cpu"))[0]
            areas, n_found, n_drawn = compare_areas(drawing.instance_labels, _predict(model, image, config.mpp))
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


def _resample_parameters(
    regions: Sequence[_Region], config: GenerateConfig, execution: Execution, device: torch.device, track: Track
) -> Spread | None:
    """Draw pilot patches, let classifiers that have not seen them tell how real they look, and draw the next around the best."""
    sources = list({region.source.sha256: region.source for region in regions}.values())
    if len(sources) < 2:
        logger.warning("--rounds needs at least two references, so that a classifier can be asked about unseen ones")
        return None
    number = {source.sha256: index for index, source in enumerate(sources)}
    source_of = np.array([number[region.source.sha256] for region in regions])
    side = min(JUDGED_PX, config.patch_px)
    real, real_of = _judged_references(sources, config, execution, side, track)
    if len(np.unique(real_of)) < 2:
        logger.warning("--rounds needs at least two references that show nuclei; parameters stay as measured")
        return None
    dtype = resolve_precision("auto", device)
    spread = Spread()
    with track("re-sampling parameters", config.rounds) as bar:
        for turn in range(config.rounds):
            purpose = f"pilot {turn}"
            order = reference_order(config.seed, len(regions), PILOTS)
            jobs = [
                _BatchJob(
                    range(start, min(start + PILOT_BATCH, PILOTS)),
                    tuple(regions[k].folder for k in order[start : start + PILOT_BATCH]),
                    config.patch_px,
                    config.seed,
                    paint=True,
                    purpose=purpose,
                    spread=spread,
                )
                for start in range(0, PILOTS, PILOT_BATCH)
            ]
            stopped = "generate: stopped while parameters were re-sampled; nothing was drawn yet, run it again"
            pilots = np.empty((PILOTS, side, side, 3), np.uint8)
            middle = slice((config.patch_px - side) // 2, (config.patch_px - side) // 2 + side)
            for job, drawn in map_unordered(_draw_batch, jobs, resolve_workers(execution.workers), stopped):
                assert drawn.image is not None
                for index, image, region in zip(job.batch, drawn.image, order[job.batch.start : job.batch.stop], strict=True):
                    level = float(regions[region].statistics["appearance"]["white_level"])
                    pilots[index] = glass_to_white(image[middle, middle], level)
            verdict = judge(
                real, pilots, real_of, source_of[order], TwoSampleSchedule(seed=config.seed, crop_px=side), device, dtype
            )
            variations = [_variation(spread, config.seed, purpose, index) for index in range(PILOTS)]
            spread = spread.refit(variations, verdict.synthetic, source_of[order])
            bar.advance(1, f"round {turn + 1}, AUC {verdict.auc:.3f}")
            logger.info("round %d: held-out AUC of real against synthetic %.3f; %s", turn + 1, verdict.auc, spread.to_json())
    return spread


def _judged_references(
    sources: Sequence[Source], config: GenerateConfig, execution: Execution, side: int, track: Track
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return patches of the references that can be read, and which of them each shows."""
    most = max(2, PILOTS // len(sources))
    stopped = "generate: stopped while parameters were re-sampled; nothing was drawn yet, run it again"
    cut = cut_each(sources, config.mpp, side, most, config.seed, workers=execution.workers, track=track, stopped=stopped)
    parts = [found if isinstance(found, np.ndarray) else np.zeros((0, side, side, 3), np.uint8) for found in cut]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _draw_all(
    writer: PatchStoreWriter,
    regions: Sequence[_Region],
    config: GenerateConfig,
    execution: Execution,
    device: torch.device,
    track: Track,
    spread: Spread | None = None,
) -> None:
    order = reference_order(config.seed, len(regions), config.n)
    pending = writer.pending()
    paint_here = device.type != "cpu"
    jobs = (
        _BatchJob(
            batch,
            tuple(regions[k].folder for k in order[batch.start : batch.stop]),
            config.patch_px,
            config.seed,
            not paint_here,
            spread=spread,
        )
        for batch in pending
    )
    workers = min(resolve_workers(execution.workers), max(1, len(pending) // 4))
    stopped = f"{writer.target}: stopped; the patches drawn so far are kept, run the same command with --resume"
    with track("drawing patches", config.n) as bar:
        bar.advance(config.n - sum(len(batch) for batch in pending))
        for job, drawn in map_unordered(_draw_batch, jobs, workers, stopped):
            image = drawn.image if drawn.image is not None else paint_patches(drawn.drawings or [], device)
            size = len(job.batch)
            reference = order[job.batch.start : job.batch.stop]
            writer.write(job.batch, image, drawn.instance_labels, np.ones(size, np.float32), reference)
            bar.advance(size)


def _variation(spread: Spread | None, seed: int, purpose: str, index: int) -> Variation:
    return AS_MEASURED if spread is None else spread.draw(rng_for(seed, f"variation of {purpose}", index))


def _draw_batch(job: _BatchJob) -> _BatchResult:
    loaded: dict[Path, Reference] = {}
    drawings = []
    for index, folder in zip(job.batch, job.folders, strict=True):
        if folder not in loaded:
            loaded[folder] = Reference.from_arrays(*load_arrays(folder))
        variation = _variation(job.spread, job.seed, job.purpose, index)
        drawings.append(draw_patch(loaded[folder], job.patch_px, rng_for(job.seed, job.purpose, index), variation=variation))
    labels = np.stack([drawing.instance_labels for drawing in drawings])
    if job.paint:
        return _BatchResult(labels, paint_patches(drawings, torch.device("cpu")), None)
    return _BatchResult(labels, None, drawings)
