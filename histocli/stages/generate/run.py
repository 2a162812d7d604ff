"""``histosynth generate``: from reference images (real tissue) to a store of synthetic patches.

First the references are read, resampled, cut into regions and measured; the measurements go to a
scratch folder as plain arrays. Then patches are drawn in batches from memory-mapped arrays, so that
memory does not grow with the number of patches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from histocli.base.device import resolve_device
from histocli.base.files import content_hash
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track, silent
from histocli.base.system import resolve_workers
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.generate import GenerateConfig
from histocli.stages.generate.resample import resample_parameters
from histocli.stages.shared.drawing import draw_job, draw_patches
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.measuring import Region, measure_references
from histocli.stages.shared.references import Source, identify_references, named_references
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.box import model_path
from histocli.stores.models import read_model_header
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance
from histocli.synthesis.patch import paint_patches
from histocli.synthesis.variation import Spread


@dataclass(frozen=True, kw_only=True)
class GenerateResult(StageResult):
    """The result of ``generate``."""

    schema: ClassVar[str] = "histosynth.generate/1"
    patches: int
    references: int  # number of reference files that patches imitate
    nuclei: int | None = None  # labelled nuclei in all patches; None in a dry run
    mpp: float
    failed: tuple[str, ...] = ()  # references that could not be read, under ``--on-error continue``


def generate(
    references: Sequence[str],
    out: Path,
    config: GenerateConfig,
    execution: Execution,
    *,
    track: Track = silent,
) -> GenerateResult:
    """Draw a store of synthetic patches that imitate reference images.

    Parameters
    ----------
    references : sequence of str
        Files, folders, globs, ``@list``, manifests or ``-``.
    out : Path
        Patch store to make.

    Raises
    ------
    InputNotFound, InvalidInput
        References, or the file of priors, are missing or cannot be read.
    StoreExists
        An output of other settings, finished or not, exists at ``out``.
    Stopped
        A signal came. The drawn patches are kept for a later command.
    """
    watch = Stopwatch.of_command()
    tolerant = execution.on_error == "continue"
    sources, failed = identify_references(
        named_references(references, keep_missing=tolerant),
        mpp=config.mpp,
        reference_mpp=config.reference_mpp,
        tolerant=tolerant,
        command="generate",
    )
    used: dict[str, object] = {"references": [[each.sha256, each.mpp] for each in sources]}
    if config.priors is not None:
        priors = model_path(config.priors)
        read_model_header(priors)  # raises if the file is not a model, before any work is done
        used["priors"] = content_hash(priors)
    n, lost = len(sources), tuple(failed)
    result = GenerateResult(
        output=str(out), patches=config.n, references=n, mpp=config.mpp, failed=lost
    )

    def planned() -> GenerateResult:
        resolve_device(execution.device)  # raises if there is no such device
        return result

    plan = Plan(
        out=out,
        contract=CONTRACT,
        # the hash depends on the content of the priors' file, not on its path
        fingerprint=config_hash(replace(config, priors=None), **used),
        planned=planned,
        found=lambda: replace(result, nuclei=_count_nuclei(out)),
        watch=watch,
    )
    settings = config, execution, track
    return carry_out(plan, execution, lambda work: _make(plan, work, sources, *settings))


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
    with tempfile.TemporaryDirectory(prefix="histosynth-") as scratch:
        regions, damaged = measure_references(sources, config, execution, Path(scratch), track)
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
            spread = None
            if config.rounds:
                spread = resample_parameters(regions, config, execution, device, track)
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
    # labels of a patch are 1..n, so the largest is the number of nuclei
    return sum(int(labels.max()) for batch in store.batches() for labels in store.read(batch)[1])


def _draw_all(
    writer: PatchStoreWriter,
    regions: Sequence[Region],
    config: GenerateConfig,
    execution: Execution,
    device: torch.device,
    track: Track,
    spread: Spread | None,
) -> None:
    """Draw and write the patches that are not in the store yet."""
    pending = writer.pending()
    paint = device.type == "cpu"  # workers paint only there; otherwise this process does
    jobs = (draw_job(each, regions, config, paint=paint, spread=spread) for each in pending)
    workers = min(resolve_workers(execution.workers), max(1, len(pending) // 4))
    stopped = (
        f"{writer.target}: stopped; the patches drawn so far are kept, run the same "
        "command again to go on"
    )
    with track("drawing patches", config.n) as bar:
        bar.advance(config.n - sum(len(batch) for batch in pending))
        for job, drawn in map_unordered(draw_patches, jobs, workers, stopped):
            image = paint_patches(drawn.drawings, device) if drawn.image is None else drawn.image
            weight = np.ones(len(job.batch), np.float32)
            writer.write(job.batch, image, drawn.instance_labels, weight, job.reference)
            bar.advance(len(job.batch))
