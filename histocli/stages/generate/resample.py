"""``--rounds``: tune the variation of synthesis parameters by rounds of judged pilot patches.

This is the cross-entropy method. In each round, *pilot* patches with randomly varied parameters are
drawn, classifiers score how real they look, and the parameters of the next round are drawn around
those of the best pilots. Classifiers never judge patches of references that they learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.device import resolve_precision
from histocli.base.parallel import map_unordered
from histocli.base.progress import Track
from histocli.base.system import resolve_workers
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.model.normalisation import glass_to_white
from histocli.stages.shared.drawing import draw_job, draw_patches, reference_order, variation_of
from histocli.stages.shared.measuring import Region
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import Source
from histocli.synthesis.variation import Spread
from histocli.training.two_sample import TwoSampleSchedule, judge

logger = logging.getLogger(__name__)

PILOTS = 512  # pilot patches in a round
PILOT_BATCH = 16
JUDGED_PX = 128  # classifiers see the middle of each patch, a square of this side in pixels
STOPPED = "generate: stopped while parameters were re-sampled; nothing was drawn yet, run it again"


def resample_parameters(
    regions: Sequence[Region],
    config: GenerateConfig,
    execution: Execution,
    device: torch.device,
    track: Track,
) -> Spread | None:
    """Return the distribution of the factors on measured parameters after ``config.rounds`` rounds.

    Returns None if fewer than two references show nuclei, since one must be held out.
    """
    sources = list({region.source.sha256: region.source for region in regions}.values())
    if len(sources) < 2:
        logger.warning(
            "--rounds needs at least two references, so that a classifier can be asked about "
            "unseen ones"
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
    order = reference_order(config.seed, len(regions), range(PILOTS))
    schedule = TwoSampleSchedule(seed=config.seed, crop_px=side)
    dtype = resolve_precision("auto", device)
    spread = Spread()
    with track("re-sampling parameters", config.rounds) as bar:
        for turn in range(config.rounds):
            purpose = f"pilot {turn}"
            pilots = _draw_pilots(regions, config, execution, side, purpose, spread)
            verdict = judge(real, pilots, real_of, source_of[order], schedule, device, dtype)
            variations = [variation_of(spread, config.seed, purpose, i) for i in range(PILOTS)]
            spread = spread.refit(variations, verdict.synthetic, source_of[order])
            bar.advance(1, f"round {turn + 1}, AUC {verdict.auc:.3f}")
            text = "round %d: held-out AUC of real against synthetic %.3f; %s"
            logger.info(text, turn + 1, verdict.auc, spread.to_json())
    return spread


def _draw_pilots(
    regions: Sequence[Region],
    config: GenerateConfig,
    execution: Execution,
    side: int,
    purpose: str,
    spread: Spread,
) -> npt.NDArray[np.uint8]:
    """Draw pilot patches, and return their middles with glass made white."""
    starts = range(0, PILOTS, PILOT_BATCH)
    batches = [range(start, min(start + PILOT_BATCH, PILOTS)) for start in starts]
    jobs = [draw_job(each, regions, config, purpose=purpose, spread=spread) for each in batches]
    pilots = np.empty((PILOTS, side, side, 3), np.uint8)
    middle = slice((config.patch_px - side) // 2, (config.patch_px - side) // 2 + side)
    workers = resolve_workers(execution.workers)
    for job, drawn in map_unordered(draw_patches, jobs, workers, STOPPED):
        assert drawn.image is not None
        for patch, image, region in zip(job.batch, drawn.image, job.reference, strict=True):
            level = float(regions[region].statistics["appearance"]["white_level"])
            pilots[patch] = glass_to_white(image[middle, middle], level)
    return pilots


def _judged_references(
    sources: Sequence[Source], config: GenerateConfig, execution: Execution, side: int, track: Track
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return patches of the readable references, and the number of each patch's reference."""
    cutting = Cutting(config.mpp, side, max(2, PILOTS // len(sources)), config.seed)
    cut = cut_all(sources, cutting, workers=execution.workers, track=track, stopped=STOPPED)
    none = np.zeros((0, side, side, 3), np.uint8)
    parts = [found.images if isinstance(found, CutPatches) else none for found in cut]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])
