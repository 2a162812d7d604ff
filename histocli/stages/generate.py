"""``histosynth generate``: reference images become a store of synthetic patches with nucleus
labels.

Two rounds. First every reference that will be used is read, resampled, taken apart and measured,
and what synthesis needs of it goes to a scratch folder as plain arrays. Then patches are drawn
batch by batch from memory-mapped references, so that memory does not grow with their number. Patch
i depends on the seed, the references and i only.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.device import resolve_device, resolve_precision
from histocli.base.files import content_hash
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track, silent
from histocli.base.system import resolve_workers
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.generate import GenerateConfig
from histocli.model.normalisation import glass_to_white
from histocli.reference.calibration import UNCALIBRATED
from histocli.stages.drawing import (
    BatchJob,
    Region,
    calibrate,
    draw_batch,
    reference_order,
    take_apart,
    variation_of,
)
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import Source, identify_references, named_references
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.models import read_model_header
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance
from histocli.synthesis.patch import paint_patches
from histocli.synthesis.variation import Spread
from histocli.training.two_sample import TwoSampleSchedule, judge

logger = logging.getLogger(__name__)

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


def generate(
    references: Sequence[str],
    out: Path,
    config: GenerateConfig,
    execution: Execution,
    *,
    track: Track = silent,
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
    images = named_references(references, keep_missing=execution.on_error == "continue")
    sources, failed = identify_references(
        images,
        mpp=config.mpp,
        reference_mpp=config.reference_mpp,
        tolerant=execution.on_error == "continue",
        command="generate",
    )
    priors = Path(config.priors) if config.priors is not None else None
    used: dict[str, object] = {"references": [[source.sha256, source.mpp] for source in sources]}
    if priors is not None:
        read_model_header(priors)  # refuses what is no model before any work is done
        used["priors"] = content_hash(priors)
    result = GenerateResult(
        output=str(out),
        patches=config.n,
        references=len(sources),
        nuclei=None,
        mpp=config.mpp,
        failed=tuple(failed),
    )

    def planned() -> GenerateResult:
        resolve_device(execution.device)  # refuses a device that is not there
        return result

    plan = Plan(
        out=out,
        contract=CONTRACT,
        # the content of the priors counts, not where they lie
        fingerprint=config_hash(replace(config, priors=None), **used),
        planned=planned,
        found=lambda: replace(result, nuclei=_count_nuclei(out)),
        watch=watch,
    )
    return carry_out(
        plan, execution, lambda work: _make(plan, work, sources, config, execution, track)
    )


def _make(
    plan: Plan[GenerateResult],
    work: Work[GenerateResult],
    sources: Sequence[Source],
    config: GenerateConfig,
    execution: Execution,
    track: Track,
) -> GenerateResult:
    """Measure the references, draw the patches and write the store."""
    device = resolve_device(execution.device)
    priors = Path(config.priors) if config.priors is not None else None
    with tempfile.TemporaryDirectory(prefix="histosynth-") as scratch:
        calibration = UNCALIBRATED
        if priors is not None:
            calibration = calibrate(
                sources, priors, config, execution, Path(scratch) / "rough", track
            )
        regions, damaged = take_apart(
            sources, config, execution, Path(scratch), track, priors, calibration
        )
        provenance = Provenance(
            contract=CONTRACT,
            command="generate",
            config=as_dict(config),
            config_hash=plan.fingerprint,
            seed=config.seed,
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
        with PatchStoreWriter(
            plan.out,
            n=config.n,
            patch_px=config.patch_px,
            mpp=config.mpp,
            origin="initial",
            references=records,
            provenance=provenance,
            shippable=config.shippable,
        ) as writer:
            spread = (
                _resample_parameters(regions, config, execution, device, track)
                if config.rounds
                else None
            )
            if spread is not None:
                writer.add_attributes({"variation": spread.to_json()})
            _draw_all(writer, regions, config, execution, device, track, spread)
            writer.finish()
    return replace(
        work.planned,
        references=len(sources) - len(damaged),
        nuclei=_count_nuclei(plan.out),
        failed=(*work.planned.failed, *damaged),
    )


def _count_nuclei(path: Path) -> int:
    store = PatchStore.open(path)
    # ids are 1..n
    return sum(int(labels.max()) for batch in store.batches() for labels in store.read(batch)[1])


def _resample_parameters(
    regions: Sequence[Region],
    config: GenerateConfig,
    execution: Execution,
    device: torch.device,
    track: Track,
) -> Spread | None:
    """Draw pilot patches, let classifiers that have not seen them tell how real they look, and draw
    the next around the best.
    """
    sources = list({region.source.sha256: region.source for region in regions}.values())
    if len(sources) < 2:
        logger.warning(
            "--rounds needs at least two references, so that a classifier can be asked about unseen ones"
        )
        return None
    number = {source.sha256: index for index, source in enumerate(sources)}
    source_of = np.array([number[region.source.sha256] for region in regions])
    side = min(JUDGED_PX, config.patch_px)
    real, real_of = _judged_references(sources, config, execution, side, track)
    if len(np.unique(real_of)) < 2:
        logger.warning(
            "--rounds needs at least two references that show nuclei; parameters stay as measured"
        )
        return None
    dtype = resolve_precision("auto", device)
    spread = Spread()
    with track("re-sampling parameters", config.rounds) as bar:
        for turn in range(config.rounds):
            purpose = f"pilot {turn}"
            order = reference_order(config.seed, len(regions), PILOTS)
            jobs = [
                BatchJob(
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
            for job, drawn in map_unordered(
                draw_batch, jobs, resolve_workers(execution.workers), stopped
            ):
                assert drawn.image is not None
                for index, image, region in zip(
                    job.batch, drawn.image, order[job.batch.start : job.batch.stop], strict=True
                ):
                    level = float(regions[region].statistics["appearance"]["white_level"])
                    pilots[index] = glass_to_white(image[middle, middle], level)
            verdict = judge(
                real,
                pilots,
                real_of,
                source_of[order],
                TwoSampleSchedule(seed=config.seed, crop_px=side),
                device,
                dtype,
            )
            variations = [
                variation_of(spread, config.seed, purpose, index) for index in range(PILOTS)
            ]
            spread = spread.refit(variations, verdict.synthetic, source_of[order])
            bar.advance(1, f"round {turn + 1}, AUC {verdict.auc:.3f}")
            logger.info(
                "round %d: held-out AUC of real against synthetic %.3f; %s",
                turn + 1,
                verdict.auc,
                spread.to_json(),
            )
    return spread


def _judged_references(
    sources: Sequence[Source], config: GenerateConfig, execution: Execution, side: int, track: Track
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return patches of the references that can be read, and which of them each shows."""
    most = max(2, PILOTS // len(sources))
    stopped = (
        "generate: stopped while parameters were re-sampled; nothing was drawn yet, run it again"
    )
    cut = cut_all(
        sources,
        Cutting(config.mpp, side, most, config.seed),
        workers=execution.workers,
        track=track,
        stopped=stopped,
    )
    parts = [
        found.images if isinstance(found, CutPatches) else np.zeros((0, side, side, 3), np.uint8)
        for found in cut
    ]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _draw_all(
    writer: PatchStoreWriter,
    regions: Sequence[Region],
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
        BatchJob(
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
        for job, drawn in map_unordered(draw_batch, jobs, workers, stopped):
            image = (
                drawn.image
                if drawn.image is not None
                else paint_patches(drawn.drawings or [], device)
            )
            size = len(job.batch)
            reference = order[job.batch.start : job.batch.stop]
            writer.write(
                job.batch, image, drawn.instance_labels, np.ones(size, np.float32), reference
            )
            bar.advance(size)
