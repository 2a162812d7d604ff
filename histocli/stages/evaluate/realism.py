"""Realism: how far the patches of a store are from real patches.

Real patches are cut from references, the unlabelled images that a synthesis imitates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.errors import InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.rng import rng_for
from histocli.base.types import InstanceLabels, IntArray, Json, RGBImage
from histocli.config.common import Execution, as_dict
from histocli.config.evaluate import EvaluateConfig
from histocli.model.normalisation import glass_to_white
from histocli.realism.judgement import Judgement, Patches, judge_patches
from histocli.realism.morphology import morphology_histograms
from histocli.stages.evaluate.pairs import STOPPED
from histocli.stages.shared.networks import public_trunk
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import (
    Source,
    identify_references,
    named_references,
    patch_glass_levels,
    recorded_references,
)
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.patches import PatchStore
from histocli.training.two_sample import TwoSampleSchedule

logger = logging.getLogger(__name__)

SIDE_PX = 128
"""Side of the compared patches in pixels; of larger patches the middle is compared."""


@dataclass(frozen=True, kw_only=True)
class RealismResult(StageResult):
    """Measures of how real the patches of a store look."""

    schema: ClassVar[str] = "histosynth.realism/1"

    input: str
    output: str = ""
    patch_px: int
    """Side of the compared patches, in pixels."""
    mpp: float
    judgement: Judgement | None
    """None for a dry run."""
    references: int
    settings: Json

    @property
    def title(self) -> str:
        """The number of compared patches and images, in one line."""
        found = self.judgement
        if found is None:
            return f"would judge {self.input} against {self.references} references"
        return (
            f"{found.synthetic} synthetic patches beside {found.real} real ones "
            f"of {found.images} images"
        )

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``."""
        return {
            "schema": self.schema,
            "input": self.input,
            "output": None,
            "status": self.status,
            **({} if self.judgement is None else self.judgement.to_json()),
            "patch_px": self.patch_px,
            "mpp": self.mpp,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }


def judge_realism(
    store: str,
    refs: Sequence[str],
    config: EvaluateConfig,
    execution: Execution,
    *,
    track: Track = silent,
) -> RealismResult:
    """Compare the patches of a store with the references in ``refs``, else with its recorded ones.

    Raises
    ------
    InputNotFound, InvalidInput
        The store or a reference cannot be read, or fewer than two references show nuclei.
    """
    watch = Stopwatch()
    patches = PatchStore.open(Path(store))
    sources, _ = identify_references(
        named_references(refs, what="reference") if refs else recorded_references(patches),
        mpp=patches.mpp,
        reference_mpp=config.mpp,
        tolerant=execution.on_error == "continue",
        command="evaluate",
    )
    if len(sources) < 2:
        raise InvalidInput(
            f"--refs: {len(sources)} reference; at least two images are needed, "
            "so that one can be held out"
        )
    side = min(SIDE_PX, patches.patch_px)
    judgement = None
    if not execution.dry_run:
        judgement = _judge(patches, sources, side, config, execution, track)
    return RealismResult(
        input=store,
        status="done" if judgement else "planned",
        seconds=watch.seconds,
        patch_px=side,
        mpp=patches.mpp,
        judgement=judgement,
        references=len(sources),
        settings={**as_dict(config), "refs": list(refs)},
    )


def _judge(
    store: PatchStore,
    sources: Sequence[Source],
    side: int,
    config: EvaluateConfig,
    execution: Execution,
    track: Track,
) -> Judgement:
    """Cut real patches, read synthetic ones, and compare them."""
    prepare_process()
    real = _cut_references(sources, store.mpp, side, config, execution, track)
    # references of the store that are not among ``sources`` are numbered after them
    number_of = {source.sha256: number for number, source in enumerate(sources)}
    recorded = enumerate(store.references, len(sources))
    numbers = np.array([number_of.get(record.sha256, number) for number, record in recorded])
    order = rng_for(config.seed, "realism").permutation(len(store))
    chosen = np.sort(order[: config.realism_patches])
    images, labels = _read_patches(store, chosen, side, track)
    measured = [record.statistics.get("morphology") or {} for record in store.references]
    device = resolve_device(execution.device)
    with track("judging", None) as bar:
        judgement = judge_patches(
            real,
            Patches(images, numbers[store.reference[chosen]]),
            schedule=TwoSampleSchedule(seed=config.seed),
            device=device,
            dtype=resolve_precision(execution.precision, device),
            morphology=morphology_histograms(measured, numbers, labels, store.mpp),
            trunk=public_trunk(),
        )
        bar.advance()
    return judgement


def _cut_references(
    sources: Sequence[Source],
    mpp: float,
    side: int,
    config: EvaluateConfig,
    execution: Execution,
    track: Track,
) -> Patches:
    """Cut patches from the references, at most about ``realism_patches`` in all."""
    most = -(-config.realism_patches // len(sources))
    cut = cut_all(
        sources,
        Cutting(mpp, side, most, config.seed),
        workers=execution.workers,
        track=track,
        stopped=STOPPED,
    )
    found: list[RGBImage] = []
    for each in cut:
        if isinstance(each, CutPatches):
            found.append(each.images)
            continue
        if execution.on_error == "stop":
            raise each
        logger.warning("%s", each)
        found.append(np.zeros((0, side, side, 3), np.uint8))
    if sum(len(each) > 0 for each in found) < 2:
        raise InvalidInput(
            "--refs: fewer than two references show nuclei; at least two are needed, "
            "so that one can be held out"
        )
    of_each = np.repeat(np.arange(len(found)), [len(each) for each in found])
    return Patches(np.concatenate(found), of_each)


def _read_patches(
    store: PatchStore, chosen: IntArray, side: int, track: Track
) -> tuple[RGBImage, list[InstanceLabels]]:
    """Return the middles of patches, with white glass, and the labels of the whole patches."""
    first = (store.patch_px - side) // 2
    middle = slice(first, first + side)
    images, labels = np.empty((len(chosen), side, side, 3), np.uint8), []
    with track("reading patches", len(chosen)) as bar:
        for index, patch in enumerate(map(int, chosen)):
            raise_if_stopped(STOPPED)
            image, label = store.read(range(patch, patch + 1))
            (level,) = patch_glass_levels(store, range(patch, patch + 1), image)
            images[index] = glass_to_white(image[0][middle, middle], level)
            labels.append(label[0])
            bar.advance()
    return images, labels
