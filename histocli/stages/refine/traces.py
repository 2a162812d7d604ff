"""How far refinement left traces: what the edits alone tell, and what a strong classifier tells."""

from dataclasses import dataclass

import numpy as np

from histocli.base.rng import rng_for
from histocli.model.normalisation import glass_to_white
from histocli.realism.features import trunk_features
from histocli.realism.leakage import residual_auc
from histocli.stages.refine.plan import Refinement
from histocli.stages.refine.styles import Styles
from histocli.stages.shared.networks import public_trunk
from histocli.stages.shared.session import Session
from histocli.stores.patches import PatchStoreWriter
from histocli.training.two_sample import judge_features

MOST_PATCHES = 96
"""Patches of a store that are looked at."""
SIDE_PX = 128


@dataclass(frozen=True)
class Traces:
    """Areas under ROC curves; None where they cannot be measured."""

    residual_auc: float | None
    """Of a classifier that sees the edits alone, nuclei against background; 0.5: no trace."""
    auc_trunk: float | None
    """Of a linear classifier on features of photographs, real against refined patches."""


def find_traces(
    job: Refinement, styles: Styles, writer: PatchStoreWriter, session: Session
) -> Traces:
    """Measure traces on some patches of the refined store."""
    n = len(job.initial)
    chosen = np.sort(rng_for(job.config.seed, "traces").permutation(n)[:MOST_PATCHES])
    with job.track("looking for traces", None) as bar:
        before = styles.read_white(chosen)
        refined = _refined(styles, writer, chosen)
        residual = residual_auc(
            list(before.images), list(refined), list(before.labels), styles.style_of[chosen]
        )
        side = min(SIDE_PX, job.initial.patch_px)
        start = (job.initial.patch_px - side) // 2
        middle = slice(start, start + side)
        told = float("nan")
        if styles.n_references > 1 and side >= 16:
            trunk = public_trunk().to(job.device)
            real, made = (
                trunk_features(images[:, middle, middle], trunk, job.device)
                for images in (styles.real.images, refined)
            )
            told = judge_features(
                real, made, styles.real.image_of, styles.style_of[chosen], folds=3, seed=0
            ).auc
        bar.advance()
    found = Traces(*(None if np.isnan(each) else round(each, 4) for each in (residual, told)))
    session.log({"traces": vars(found)})
    return found


def _refined(styles: Styles, writer: PatchStoreWriter, chosen: np.ndarray) -> np.ndarray:
    """Return refined patches with white glass, uint8, shape (n, H, W, 3)."""
    wanted, found = set(chosen.tolist()), []
    for batch in writer.batches():
        if not wanted & set(batch):
            continue
        images, _ = writer.read_back(batch)
        found += [
            glass_to_white(image, styles.glass_level(patch, image))
            for patch, image in zip(batch, images, strict=True)
            if patch in wanted
        ]
    return np.stack(found)
