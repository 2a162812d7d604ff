"""The weights of refined patches: a classifier's odds that a patch is real."""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.interrupts import raise_if_stopped
from histocli.base.rng import rng_for
from histocli.model.normalisation import glass_to_white
from histocli.stages.refine.learn import rounded
from histocli.stages.refine.plan import Refinement
from histocli.stages.refine.styles import Styles
from histocli.stages.shared.session import Session
from histocli.stores.patches import PatchStoreWriter
from histocli.training.two_sample import (
    TwoSampleSchedule,
    effective_share,
    importance_weights,
    judge,
    weights_of_kept,
)

logger = logging.getLogger(__name__)

LEAST_S = 3.0  # seconds below which a classifier cannot learn enough to weigh patches
WRITING_S = 2.0  # seconds of a time budget that are kept to write networks and attributes
TRAINING_SHARE = 0.75  # share of the time for weighing in which the classifiers learn


@dataclass(frozen=True)
class Weighed:
    """The result of weighing."""

    auc: float | None  # of new classifiers, real against refined; None if none was trained
    effective_share: float | None  # effective sample size of the weights over the number of patches


def weigh(job: Refinement, styles: Styles, writer: PatchStoreWriter, session: Session) -> Weighed:
    """Weigh each patch by a classifier of real against refined that has not seen its reference."""
    kept = (writer.weights() > 0).astype(np.float32)
    if job.config.weights and styles.n_references < 2:
        logger.warning(
            "weights need at least two references, so that a classifier can be asked about unseen "
            "ones"
        )
    left_s = session.clock.left_s
    spent = left_s is not None and left_s < LEAST_S + WRITING_S
    if spent and job.config.weights:
        logger.warning(
            "the time budget was spent before the patches could be weighed; all that fit their "
            "labels have the weight 1"
        )
    if spent or not job.config.weights or styles.n_references < 2 or not kept.any():
        writer.replace_weights(kept)
        return Weighed(None, rounded(effective_share(kept)))
    n, seed = len(job.initial), job.config.seed
    chosen = np.arange(n)
    most = 20_000
    if n > most:
        chosen = np.sort(rng_for(seed, "judged").choice(n, most, replace=False))
    side = min(128, job.initial.patch_px)
    start = (job.initial.patch_px - side) // 2
    middle = slice(start, start + side)  # classifiers see only the middle of each patch
    crops = _middles(styles, writer, middle)
    stopped = f"{job.out}: stopped; the patches are kept, run the same command again to go on"
    raise_if_stopped(stopped)
    # of what is left of a time budget, the trained classifiers need a part to judge all patches
    left_s = session.clock.left_s
    time_s = None if left_s is None else max(TRAINING_SHARE * (left_s - WRITING_S), 0.1)
    schedule = TwoSampleSchedule(seed=seed, crop_px=side, time_s=time_s)
    with job.track("weighing patches", 1.0) as bar:
        done = 0.0

        def on_share(share: float) -> None:
            nonlocal done
            raise_if_stopped(stopped)
            bar.advance(share - done)
            done = share

        scores = judge(
            styles.real.images[:, middle, middle],
            crops[chosen],
            styles.real.image_of,
            styles.style_of[chosen],
            schedule,
            job.device,
            job.dtype,
            on_share,
        )
    # weights are flattened until their effective share is at least one half
    weights = importance_weights(scores, least_effective=0.5)
    writer.replace_weights(weights_of_kept(weights, chosen, kept))
    effective = effective_share(weights)
    session.log({"auc": scores.auc, "ci95": scores.interval(), "effective_share": effective})
    return Weighed(rounded(scores.auc), rounded(effective))


def _middles(styles: Styles, writer: PatchStoreWriter, middle: slice) -> npt.NDArray[np.uint8]:
    """Return the middle of each refined patch (n, side, side, 3), with white glass."""
    parts = []
    for batch in writer.batches():
        images, _ = writer.read_back(batch)
        for patch, image in zip(batch, images, strict=True):
            white = glass_to_white(image[middle, middle], styles.glass_level(patch, image))
            parts.append(white)
    return np.stack(parts)
