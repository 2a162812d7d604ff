"""Repainting all patches of a store, and a check of their labels against roughly found nuclei."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.interrupts import raise_if_stopped
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.types import InstanceLabels, RGBImage
from histocli.model.refiner import Refiner, RefinerArchitecture
from histocli.stages.refine.plan import Refinement
from histocli.stages.refine.styles import Styles
from histocli.stages.shared.real_patches import label_agreement
from histocli.stages.shared.session import Session
from histocli.stores.patches import PatchStoreWriter
from histocli.training.adversarial.repaint import refine_patches

logger = logging.getLogger(__name__)

TRIAL_PATCHES = 4  # patches on which the time of repainting is measured


@dataclass(frozen=True)
class Agreement:
    """Mean AJI of labels with the rough nuclei of the patch, before and after refinement."""

    initial: float
    refined: float


@dataclass(frozen=True)
class Repainted:
    """The result of repainting."""

    rejected: int  # number of patches whose labels no longer fit; their weight is 0
    agreement: Agreement | None  # means over the patches repainted by this command


def repaint(
    job: Refinement, styles: Styles, refiner: Refiner, writer: PatchStoreWriter, session: Session
) -> Repainted:
    """Repaint and write all patches that are not written yet."""
    refiner.eval()
    fits: list[tuple[float, float]] = []
    pending, n = writer.pending(), len(job.initial)
    with (
        job.track("refining patches", n) as bar,
        ThreadPoolExecutor(resolve_workers(job.execution.workers)) as pool,
    ):
        bar.advance(n - sum(len(batch) for batch in pending))
        for batch in pending:
            raise_if_stopped(
                f"{job.out}: stopped; the patches refined so far are kept, "
                "run the same command again to go on"
            )
            fits += _repaint_batch(job, styles, refiner, writer, batch, pool)
            bar.advance(len(batch))
    rejected = int((writer.weights() == 0).sum())
    agreement = None
    if fits:
        before, after = np.mean(fits, axis=0)
        agreement = Agreement(round(float(before), 4), round(float(after), 4))
    if rejected > 0.2 * n:
        logger.warning(
            "%d of %d patches no longer fit their labels and get the weight 0; raise --identity",
            rejected,
            n,
        )
    session.log({"agreement": agreement and vars(agreement), "rejected": rejected})
    return Repainted(rejected, agreement)


def seconds_per_patch(job: Refinement, styles: Styles) -> float:
    """Return how long a patch takes to be repainted and checked here, measured on a few patches."""
    refiner = job.trained or Refiner(RefinerArchitecture(edits=job.config.edits)).eval()
    few = range(min(TRIAL_PATCHES, len(job.initial)))
    with ThreadPoolExecutor(resolve_workers(job.execution.workers)) as pool:
        _paint(job, styles, refiner.to(job.device), few[:1], pool)  # libraries get ready
        start = time.perf_counter()
        _paint(job, styles, refiner, few, pool)
    return (time.perf_counter() - start) / len(few)


def _repaint_batch(
    job: Refinement,
    styles: Styles,
    refiner: Refiner,
    writer: PatchStoreWriter,
    batch: range,
    pool: ThreadPoolExecutor,
) -> list[tuple[float, float]]:
    """Repaint and write a batch; returns each patch's label agreement before and after."""
    images, labels, fits = _paint(job, styles, refiner, batch, pool)
    lost = 0.1  # largest loss of AJI at which a patch keeps its weight
    kept = np.array([after >= before - lost for before, after in fits], np.float32)
    writer.write(batch, images, labels, kept, styles.record_of[batch.start : batch.stop])
    return fits


def _paint(
    job: Refinement, styles: Styles, refiner: Refiner, batch: range, pool: ThreadPoolExecutor
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], list[tuple[float, float]]]:
    """Return repainted patches, their labels, and the label agreement before and after."""
    mpp = job.initial.mpp
    read, labels = job.initial.read(batch)
    white = styles.whiten(batch, read)
    crops = styles.crops(batch)
    seeds = [rng_for(job.config.seed, "noise", patch) for patch in batch]
    refined, closed = refine_patches(refiner, white, labels, crops, seeds, mpp, job.dtype)

    def fit(label: InstanceLabels, before: RGBImage, after: RGBImage) -> tuple[float, float]:
        return label_agreement(label, before, mpp), label_agreement(label, after, mpp)

    fits = list(pool.map(fit, labels, white, refined))
    return styles.darken(batch, refined, closed, read), labels, fits
