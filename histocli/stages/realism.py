"""Realism: the patches of a store beside real ones cut from references."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.errors import InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.rng import rng_for
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict
from histocli.config.evaluate import EvaluateConfig
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES
from histocli.instances.measurements import measure
from histocli.model.normalisation import glass_to_white
from histocli.realism.judgement import Histograms, Judgement, judge_patches
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import (
    identify_references,
    named_references,
    patch_glass_levels,
    recorded_references,
)
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.patches import PatchStore
from histocli.training.two_sample import TwoSampleSchedule

log = logging.getLogger(__name__)

SIDE_PX = 128
STOPPED = "evaluation stopped; nothing was written, run it again"


@dataclass(frozen=True, kw_only=True)
class RealismResult(StageResult):
    """How real the patches of a store look."""

    schema: ClassVar[str] = "histosynth.realism/1"

    input: str
    """The patch store."""
    patch_px: int
    """Side of the compared patches."""
    mpp: float
    judgement: Judgement | None
    """None for a dry run."""
    references: int
    settings: Json

    @property
    def title(self) -> str:
        """What was compared, in one line."""
        if self.judgement is None:
            return f"would judge {self.input} against {self.references} references"
        found = self.judgement
        return f"{found.synthetic} synthetic patches beside {found.real} real ones of {found.images} images"

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``."""
        judged = {} if self.judgement is None else self.judgement.to_json()
        return {
            "schema": self.schema,
            "input": self.input,
            "output": None,
            "status": self.status,
            **judged,
            "patch_px": self.patch_px,
            "mpp": self.mpp,
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "error": None,
        }


def judge_realism(
    store: str,
    refs: Sequence[str],
    config: EvaluateConfig,
    execution: Execution,
    *,
    track: Track = silent,
) -> RealismResult:
    """Judge the patches of a store against its references.

    Parameters
    ----------
    store : str
        Patch store.
    refs : sequence of str
        Reference images as ``generate`` takes them; empty takes those that the store records.
    config : EvaluateConfig
        How many patches are judged, the seed, and the pixel size of references that record none.
    execution : Execution
        Device and workers.
    track : Track

    Raises
    ------
    InputNotFound, InvalidInput
        The store or references cannot be read, or show fewer than two images.
    """
    watch = Stopwatch()
    patches = PatchStore.open(Path(store))
    images = named_references(refs, what="reference") if refs else recorded_references(patches)
    sources, _ = identify_references(
        images,
        mpp=patches.mpp,
        reference_mpp=config.mpp,
        tolerant=execution.on_error == "continue",
        command="evaluate",
    )
    side = min(SIDE_PX, patches.patch_px)
    result = RealismResult(
        input=store,
        output="",
        status="planned",
        seconds=watch.seconds,
        patch_px=side,
        mpp=patches.mpp,
        judgement=None,
        references=len(sources),
        settings={**as_dict(config), "refs": list(refs)},
    )
    if len(sources) < 2:
        raise InvalidInput(
            f"--refs: {len(sources)} reference; at least two images are needed, so that one can be held out"
        )
    if execution.dry_run:
        return result
    prepare_process()
    most = -(-config.realism_patches // len(sources))
    cut = cut_all(
        sources,
        Cutting(patches.mpp, side, most, config.seed),
        workers=execution.workers,
        track=track,
        stopped=STOPPED,
    )
    found: list[npt.NDArray[np.uint8]] = []
    for each in cut:
        if isinstance(each, CutPatches):
            found.append(each.images)
            continue
        if execution.on_error == "stop":
            raise each
        log.warning("%s", each)
        found.append(np.zeros((0, side, side, 3), np.uint8))
    real_images = np.repeat(np.arange(len(found)), [len(each) for each in found])
    if len(np.unique(real_images)) < 2:
        raise InvalidInput(
            "--refs: fewer than two references show nuclei; at least two are needed, so that one can be held out"
        )
    number_of = {source.sha256: number for number, source in enumerate(sources)}
    followed_by_record = np.array(
        [
            number_of.get(record.sha256, len(sources) + number)
            for number, record in enumerate(patches.references)
        ]
    )
    chosen = np.sort(
        rng_for(config.seed, "realism").permutation(len(patches))[: config.realism_patches]
    )
    synthetic, labels = _read_patches(patches, chosen, side, track)
    followed = followed_by_record[patches.reference[chosen]]
    device = resolve_device(execution.device)
    with track("judging", None) as bar:
        judgement = judge_patches(
            np.concatenate(found),
            real_images,
            synthetic,
            followed,
            device=device,
            dtype=resolve_precision(execution.precision, device),
            morphology=_morphology(patches, followed_by_record, labels),
            schedule=TwoSampleSchedule(seed=config.seed),
            seed=config.seed,
        )
        bar.advance()
    return replace(result, judgement=judgement, status="done", seconds=watch.seconds)


def _read_patches(
    store: PatchStore, chosen: npt.NDArray[np.int64], side: int, track: Track
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.int32]]]:
    """Return the middles of some patches, glass made white, and their labels."""
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


def _morphology(
    store: PatchStore,
    followed_by_record: npt.NDArray[np.int64],
    labels: Sequence[npt.NDArray[np.int32]],
) -> dict[str, Histograms]:
    """Return histograms of what the store's references were measured to hold, and of the nuclei
    that were drawn.
    """
    known = [record.statistics.get("morphology") or {} for record in store.references]
    if not all(each.get("area_shares") and each.get("elongation_shares") for each in known):
        return {}
    nuclei = [measure(patch, store.mpp) for patch in labels]
    result = {}
    for name, key, edges, values, width in (
        # two bins an octave
        ("area", "area_shares", AREA_EDGES_UM2, [each.area_um2 for each in nuclei], 0.5),
        (
            "elongation",
            "elongation_shares",
            ELONGATION_EDGES,
            [each.elongation for each in nuclei],
            1.0,
        ),
    ):
        drawn = np.array(
            [
                np.histogram(np.clip(value[~each.touches_border], edges[0], edges[-1]), edges)[0]
                for value, each in zip(values, nuclei, strict=True)
            ]
        )
        real = np.zeros((int(followed_by_record.max()) + 1, len(edges) - 1))
        for number, each in zip(followed_by_record, known, strict=True):
            real[number] += each.get("n_nuclei", 0) * np.asarray(each[key], np.float64)
        result[name] = Histograms(real, drawn, width)
    return result
