"""``histosynth train``: patch stores become a segmenter, and unlabelled tissue adapts it.

Patches and their targets are held in memory; a share of the synthetic ones is held out and scored
as real images would be. With unlabelled references, rounds of self-training follow: the segmenter
labels them, and goes on learning from what it is sure of together with the patches. A round that
moves the size or the number of nuclei too far is taken back. Beside the model, ``<out>.log/`` holds
``metrics.jsonl``, preview pictures of held-out patches and, until the model is written, the
checkpoint that ``--resume`` goes on from.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from histocli.annotations.sources import LabelSource
from histocli.base.device import prepare_process, resolve_device, resolve_precision
from histocli.base.distributed import Team, local_device, team, weights_digest
from histocli.base.errors import InvalidInput, InvalidOption, InvalidStore, Stopped
from histocli.base.files import content_hash
from histocli.base.inputs import expand_inputs
from histocli.base.interrupts import raise_if_stopped, stop_requested
from histocli.base.progress import Bar, Track, silent
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.base.text import first_line
from histocli.base.types import FloatArray, InstanceLabels, Json, RGBImage
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.train import TrainConfig
from histocli.exports.pictures import write_png
from histocli.figures.sheets import patch_sheet
from histocli.inference.predict import Predictor
from histocli.instances.targets import DEFAULT_THRESHOLDS, Thresholds, contacts, normalised_distance
from histocli.metrics.counts import count
from histocli.metrics.selection import ObjectThresholds, choose_thresholds
from histocli.metrics.summary import summarise
from histocli.metrics.table import shown_in
from histocli.model.normalisation import (
    PIXEL_MEAN,
    PIXEL_STD,
    contrast_from,
    glass_to_white,
    tissue_moments,
)
from histocli.model.segmenter import Segmenter, architecture_of_size, build_segmenter, channels_last
from histocli.slides.slide import slide_stem
from histocli.stages.fresh import FreshPatches
from histocli.stages.hardness import judge_hardness, refiner_hardening
from histocli.stages.shared.labels import LABEL_FINDER
from histocli.stages.shared.references import (
    Source,
    identify_references,
    named_references,
    patch_glass_levels,
)
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stages.shared.session import Clock
from histocli.stages.unlabelled import (
    Findings,
    compare,
    disagreements,
    find_nuclei,
    mixed,
    pseudo_labelled,
    read_unlabelled,
)
from histocli.stores.lock import OutputLock
from histocli.stores.logs import append_metrics, preview_path, start_log
from histocli.stores.models import (
    ModelHeader,
    checkpoint_path,
    prepare_model_output,
    read_checkpoint,
    read_model,
    remove_checkpoint,
    write_checkpoint,
    write_model,
)
from histocli.stores.patches import PatchStore
from histocli.training.hard_examples import (
    AppearanceAscent,
    Hardening,
    Hardness,
    bounds_from_references,
)
from histocli.training.loop import Schedule, StepRecord, Training, start_training, train_steps
from histocli.training.sampling import PatchSet
from histocli.training.self_training import Acceptance, AveragedWeights
from histocli.training.two_sample import effective_share

logger = logging.getLogger(__name__)

SAME_MPP = 0.02  # relative difference of pixel sizes that is rounding
RECORD_EVERY = 20  # steps between two lines of metrics.jsonl
CHECKPOINT_S = 60.0  # seconds between checkpoints
VALIDATIONS = 4  # times the held-out patches are scored in the course of a training
CONTRAST_STEP = 2  # of rows and columns that tell how flat a patch is
MOST_HELD_OUT = 64  # held-out patches; more cost time and tell little more
PREVIEW_PATCHES = 8
# of the same, for each unlabelled patch of 256 px that is looked at after the last round
LABELLING_S = 0.06
SELF_TRAINING = 0.4  # of a training with references, the part that self-training takes
PSEUDO_SHARE = 0.5  # of the crops in a step of self-training
LATER_RATE = 1 / 3  # of the peak learning rate, in self-training
TEACHER_VIEWS = 2  # orientations in which unlabelled tissue is looked at
AVERAGING = 0.99
# of the first teacher's findings: a round that moves them further is taken back
AREA_DRIFT, COUNT_DRIFT = 0.10, 0.15
LEAST_EFFECTIVE = 0.3  # share of the patches that weights must leave effective
# of a time budget, kept for starting the interpreter, the last scoring and writing the model
RESERVE_S = 12.0


@dataclass(frozen=True, kw_only=True)
class TrainResult(StageResult):
    """What training made."""

    schema: ClassVar[str] = "histosynth.train/1"

    patches: int
    """Patches of all stores, held-out ones included."""
    steps: int
    loss: float | None
    """Mean over the last steps."""
    held_out: Json | None
    """Mean scores on the held-out synthetic patches; not an accuracy on tissue."""
    mpp: float
    device: str
    precision: str
    shippable: bool
    effective_share: float | None
    """Effective sample size of the patches' weights over their number; below 0.3, weights are not
    used."""
    rounds: list[Json]
    """What each round of self-training did."""
    hard: Json | None = None
    """How hard the hard examples are on held-out patches, and how far they stray."""
    fresh: Json | None = None
    """How many patches were drawn while training went on, and how long it waited for them."""
    failed: tuple[str, ...] = ()
    """References that could not be read, under ``--on-error continue``."""


@dataclass(frozen=True)
class _Phase:
    """A part of the training, with a learning rate that rises and falls once."""

    name: str
    begin: float
    end: float
    """Of the whole training, 0..1."""
    peak: float


@dataclass(frozen=True)
class _Input:
    store: PatchStore
    weight: float


@dataclass(frozen=True)
class _HeldOut:
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Look:
    """What a segmenter makes of the held-out patches."""

    found: list[InstanceLabels]
    probability: list[FloatArray]


def train(
    stores: Sequence[str],
    out: Path,
    config: TrainConfig,
    execution: Execution,
    *,
    refs: Sequence[str] = (),
    stop_after: int | None = None,
    preview: Path | None = None,
    track: Track = silent,
) -> TrainResult:
    """Train a segmenter on patch stores.

    Parameters
    ----------
    stores : sequence of str
        Patch stores, each with an optional share as in ``labelled.zarr:2``; ``-`` reads them from
        stdin.
    out : Path
        Model file to make.
    config : TrainConfig
    execution : Execution
    refs : sequence of str
        Unlabelled images for self-training: files, folders, globs, ``@list``, manifests.
    stop_after : int, optional
        Save a checkpoint and stop after this many steps in all.
    preview : Path, optional
        PNG to make: the references on which teacher and student disagree most after the last round.
    track : Track
        Shows progress.

    Returns
    -------
    TrainResult

    Raises
    ------
    InvalidStore, InvalidInput
        Stores that cannot be read or do not go together.
    StoreExists
        Something is in the way of ``out``.
    Stopped
        A signal came, or ``stop_after`` was reached; a checkpoint is kept for ``--resume``.
    """
    watch = Stopwatch()
    plan = _plan(stores, refs, out, config, execution)
    result = plan.result
    with team(plan.device) as members:
        action = members.from_leader(
            prepare_model_output(
                out,
                config_hash=plan.fingerprint,
                resume=execution.resume,
                overwrite=execution.overwrite,
                dry_run=execution.dry_run,
            )
            if members.leads
            else None
        )
        if action == "skip" or execution.dry_run:
            return replace(
                result, status="skipped" if action == "skip" else "planned", seconds=watch.seconds
            )
        prepare_process()
        with OutputLock(out) if members.leads else nullcontext():
            if members.leads:
                start_log(out, keep=action == "resume")
            found = _make(
                plan,
                out,
                config,
                execution,
                members,
                watch,
                stop_after,
                preview,
                track,
                resume=action == "resume",
            )
    return replace(found, status="done", seconds=watch.seconds)


@dataclass(frozen=True)
class _Plan:
    """What is known before any work is done."""

    inputs: list[_Input]
    sources: list[Source]
    teacher: list[LabelSource] | None
    """Labels of each source."""
    learnt: tuple[ModelHeader, dict[str, torch.Tensor]] | None
    """The model to start from."""
    data: list[Json]
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    result: TrainResult


def _plan(
    stores: Sequence[str], refs: Sequence[str], out: Path, config: TrainConfig, execution: Execution
) -> _Plan:
    """Open and check everything that goes in."""
    inputs = _open_all(stores)
    data: list[Json] = [
        {"name": item.store.path.name, "sha256": item.store.content_hash(), "weight": item.weight, "origin": item.store.origin,
         "patches": len(item.store)}
        for item in inputs
    ]  # fmt: skip
    learnt = _open_init(config.init, inputs[0].store) if config.init is not None else None
    sources, failed = _identify(refs, inputs[0].store.mpp, config, execution) if refs else ([], [])
    device = resolve_device(execution.device)
    dtype = resolve_precision(execution.precision, device)
    used: Json = {"stores": [[entry["sha256"], entry["weight"]] for entry in data]}
    if sources:
        used["references"] = [[source.sha256, source.mpp] for source in sources]
        data += [
            {"name": source.path.name, "sha256": source.sha256, "origin": "reference"}
            for source in sources
        ]
    teacher = None
    if config.teacher is not None:
        sources, teacher = _match_teacher(config.teacher, sources)
        used["teacher"] = content_hash(Path(config.teacher))
        data.append(
            {"name": Path(config.teacher).name, "sha256": used["teacher"], "origin": "teacher"}
        )
    if config.init is not None:
        used["init"] = content_hash(Path(config.init))
        data.append({"name": Path(config.init).name, "sha256": used["init"], "origin": "model"})
    result = TrainResult(
        output=str(out),
        status="planned",
        seconds=0,
        patches=sum(len(item.store) for item in inputs),
        steps=config.steps,
        loss=None,
        held_out=None,
        mpp=inputs[0].store.mpp,
        device=str(device),
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        shippable=all(item.store.shippable for item in inputs)
        and (config.shippable or not sources)
        and (learnt is None or learnt[0].shippable),
        effective_share=None,
        rounds=[],
        failed=tuple(failed),
    )
    fingerprint = config_hash(replace(config, init=None, teacher=None), **used)
    return _Plan(
        inputs, sources, teacher, learnt, data, fingerprint, local_device(device), dtype, result
    )


def _make(
    plan: _Plan,
    out: Path,
    config: TrainConfig,
    execution: Execution,
    members: Team,
    watch: Stopwatch,
    stop_after: int | None,
    preview: Path | None,
    track: Track,
    *,
    resume: bool,
) -> TrainResult:
    """Train, and write the model."""
    result, learnt, store = plan.result, plan.learnt, plan.inputs[0].store
    architecture = (
        architecture_of_size(config.size, config.targets)
        if learnt is None
        else learnt[0].architecture
    )
    learns_contacts = architecture.get("targets") == "contact"
    patches, held_out, owner, contrast_floor = _load(
        plan.inputs, config, learns_contacts, execution, track
    )
    patches, effective = _use_weights(patches)
    unlabelled = given = None
    if plan.sources:
        unlabelled, given, damaged = read_unlabelled(
            plan.sources, result.mpp, store.patch_px, config.seed, execution, track, plan.teacher
        )
        result = replace(result, failed=(*result.failed, *damaged))
    torch.manual_seed(config.seed)
    segmenter = build_segmenter(architecture)
    if learnt is not None:
        segmenter.load_state_dict(learnt[1])
    segmenter = channels_last(segmenter, plan.device)
    multiple = segmenter.multiple_px  # of the sides that the network takes; patches may have any
    schedule = Schedule(
        batch=config.batch,
        crop_px=min(config.crop_px, *patches.nucleus.shape[1:]) // multiple * multiple,
        learning_rate=config.peak_rate,
        seed=config.seed,
        hard=_hardening(config, plan, execution, members, track, learns_contacts=learns_contacts),
    )
    called = members.wrap(segmenter)
    if config.compile:
        called = _compiled(called, segmenter, schedule, plan)
    training = start_training(segmenter, schedule, called)
    last_look_s = (
        0.0
        if unlabelled is None
        else LABELLING_S * len(unlabelled) * (unlabelled.shape[1] / 256) ** 2
    )
    clock = Clock(config.steps, config.time_budget_s, RESERVE_S + last_look_s, watch)
    run = _Run(
        out,
        plan.fingerprint,
        training,
        clock,
        held_out,
        result.mpp,
        plan.dtype,
        stop_after,
        config.seed,
        members,
    )
    run.given = given
    run.hard = schedule.hard
    run.preview = preview
    if resume:
        run.restore(checkpoint_path(out))
    drawn: Json | None = None
    with _fresh(config, plan, owner, learns_contacts, execution, members, track) as fresh:
        if fresh is not None:
            schedule = replace(schedule, refresh=fresh.refresh)
        loss = run.train(
            patches, unlabelled, schedule, _phases(config, unlabelled is not None), track
        )
        if fresh is not None:
            drawn = fresh.about(clock.trained_s)
    digests = members.gather(weights_digest(segmenter))
    thresholds, chosen_by, scores = (
        run.select() if members.leads else (DEFAULT_THRESHOLDS, None, None)
    )
    found = replace(
        result,
        steps=run.training.step,
        loss=loss,
        held_out=scores,
        effective_share=effective,
        hard=run.judge_hardness(schedule.hard) if members.leads else None,
        fresh=drawn,
        rounds=run.rounds,
    )
    if members.leads:
        if members.size > 1:
            append_metrics(
                out, {"processes": members.size, "processes_agree": len(set(digests)) == 1}
            )
        header = ModelHeader(
            architecture=asdict(segmenter.architecture),
            mpp=result.mpp,
            config_hash=plan.fingerprint,
            normalisation={
                "glass": "white, measured per image",
                "mean": PIXEL_MEAN,
                "std": PIXEL_STD,
                "range": "sRGB 0..1",
                "contrast_floor": contrast_floor,
            },
            thresholds=asdict(thresholds),
            training={
                "steps": found.steps,
                "loss": loss,
                "effective_share": effective,
                "self_training": found.rounds,
                "hard": found.hard,
                "fresh": drawn,
                "held_out": scores,
                "selection": chosen_by,
                "device": result.device,
                "processes": members.size,
                "precision": result.precision,
            },
            data=plan.data,
            shippable=result.shippable,
            config=as_dict(config),
            seed=config.seed,
        )
        write_model(out, segmenter.state_dict(), header)
        remove_checkpoint(out)
    return found


def _compiled(
    called: Callable[[torch.Tensor], torch.Tensor],
    segmenter: Segmenter,
    schedule: Schedule,
    plan: _Plan,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network compiled for the crops of a training; as it was where that is not
    possible.
    """
    shape = (schedule.batch, 3, schedule.crop_px, schedule.crop_px)
    pixels = torch.zeros(shape, device=plan.device).contiguous(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    try:
        faster: Callable[[torch.Tensor], torch.Tensor] = torch.compile(called)
        with torch.autocast(
            plan.device.type, dtype=plan.dtype, enabled=plan.dtype != torch.float32
        ):
            faster(pixels).sum().backward()  # type: ignore[no-untyped-call]
    # no compiler, or none for the device: what is raised differs from version to version
    except Exception as error:
        logger.warning(
            "--compile: not possible here (%s); training goes on without", first_line(error)
        )
        faster = called
    segmenter.load_state_dict(before)  # the trial has left statistics
    segmenter.zero_grad(set_to_none=True)
    return faster


def _fresh(
    config: TrainConfig,
    plan: _Plan,
    owner: npt.NDArray[np.int64],
    learns_contacts: bool,
    execution: Execution,
    members: Team,
    track: Track,
) -> AbstractContextManager[FreshPatches | None]:
    """Return what draws new patches, if anything does; ``owner`` tells which store each patch is
    of.
    """
    if not config.fresh:
        return nullcontext()
    number = next((i for i, item in enumerate(plan.inputs) if item.store.origin == "initial"), 0)
    return FreshPatches(
        plan.inputs[number].store,
        np.flatnonzero(owner == number),
        config.fresh_per_step,
        learns_contacts=learns_contacts,
        execution=execution,
        track=track,
        rank=members.rank,
        size=members.size,
    )


def _phases(config: TrainConfig, self_training: bool) -> list[_Phase]:
    """Return the parts of a training, one after the other."""
    if not self_training:
        return [_Phase("patches", 0, 1, config.peak_rate)]
    edges = np.linspace(1 - SELF_TRAINING, 1, config.rounds + 1).tolist()
    rounds = [
        _Phase(f"self-training {number}", begin, end, LATER_RATE * config.peak_rate)
        for number, (begin, end) in enumerate(pairwise(edges), 1)
    ]
    return [_Phase("patches", 0, edges[0], config.peak_rate), *rounds]


def _open_init(word: str, store: PatchStore) -> tuple[ModelHeader, dict[str, torch.Tensor]]:
    """Read the model to start from, and see that it goes together with the patches."""
    header, tensors = read_model(Path(word))
    if header.kind != "segmenter":
        raise InvalidOption(f"--init {word}: is a {header.kind}, but a segmenter is needed")
    if abs(header.mpp / store.mpp - 1) > SAME_MPP:
        raise InvalidInput(
            f"--init {word}: was trained at {header.mpp:.4g} um/px but {store.path} has {store.mpp:.4g}; "
            "make the store with the model's --mpp"
        )
    return header, tensors


def _match_teacher(word: str, sources: Sequence[Source]) -> tuple[list[Source], list[LabelSource]]:
    """Give each reference the labels of its name; references without any are left out."""
    labels = LABEL_FINDER.find(word)
    matched = [
        (source, labels[slide_stem(source.path)])
        for source in sources
        if slide_stem(source.path) in labels
    ]
    if not matched:
        raise InvalidInput(
            f"--teacher {word}: none of its {len(labels)} label images is named like one of the {len(sources)} references; "
            "labels are matched by the name without its ending"
        )
    if len(matched) < len(sources):
        logger.warning(
            "--teacher %s: %d of %d references have no labels and are left out",
            word,
            len(sources) - len(matched),
            len(sources),
        )
    return [source for source, _ in matched], [each for _, each in matched]


def _identify(
    words: Sequence[str], mpp: float, config: TrainConfig, execution: Execution
) -> tuple[list[Source], list[str]]:
    tolerant = execution.on_error == "continue"
    images = named_references(words, keep_missing=tolerant)
    return identify_references(
        images, mpp=mpp, reference_mpp=config.reference_mpp, tolerant=tolerant, command="train"
    )


def _hardening(
    config: TrainConfig,
    plan: _Plan,
    execution: Execution,
    members: Team,
    track: Track,
    *,
    learns_contacts: bool,
) -> Hardening | None:
    """Return what makes hard examples, if anything does."""
    if config.hard == "none":
        return None
    if config.hard == "appearance":
        records = [record for item in plan.inputs for record in item.store.references]
        return AppearanceAscent(
            bounds_from_references([record.statistics.get("appearance", {}) for record in records])
        )
    refined = next((item.store for item in plan.inputs if item.store.origin == "refined"), None)
    if refined is None:
        raise InvalidInput(
            f"{plan.inputs[0].store.path}: --hard refiner goes on with the networks of a refined store, and none is given; "
            "make one with histosynth refine, or use --hard appearance"
        )
    return refiner_hardening(
        refined,
        [],
        config,
        execution,
        plan.device,
        members.wrap,
        track,
        learns_contacts=learns_contacts,
    )


def _use_weights(patches: PatchSet) -> tuple[PatchSet, float]:
    """Return the patches, and how many of them their weights leave effective; degenerate weights
    are switched off.
    """
    kept = patches.weight > 0
    share = effective_share(patches.weight[kept])
    if share < LEAST_EFFECTIVE:
        logger.warning(
            "the weights leave %.0f %% of the patches effective, less than %.0f %%: they are not used",
            100 * share,
            100 * LEAST_EFFECTIVE,
        )
        patches = replace(patches, weight=kept.astype(np.float32))
    return patches, round(share, 4)


def split_weight(word: str) -> tuple[str, float]:
    """Part ``labelled.zarr:2`` into a path and a share; the share is 1 where none is given.

    Raises
    ------
    InvalidOption
        The share is not a positive number.
    """
    path, colon, share = word.rpartition(":")
    if not colon or not path or "/" in share or "\\" in share:
        return word, 1.0
    try:
        weight = float(share)
    except ValueError:
        return word, 1.0
    if not (weight > 0 and math.isfinite(weight)):
        raise InvalidOption(
            f"{word}: the number after the colon is the store's share and must be positive, got {share}"
        )
    return path, weight


def _open_all(words: Sequence[str]) -> list[_Input]:
    """Open the stores, and see that they go together."""
    inputs: list[_Input] = []
    for word in words:
        path, weight = split_weight(word)
        found = expand_inputs([path], suffixes=(".zarr",), stdin=sys.stdin, what="patch store")
        inputs.extend(_Input(PatchStore.open(store), weight) for store in found)
    first = inputs[0].store
    for item in inputs[1:]:
        if abs(item.store.mpp / first.mpp - 1) > SAME_MPP:
            raise InvalidInput(
                f"{item.store.path}: has {item.store.mpp:.4g} um/px but {first.path} has {first.mpp:.4g}; "
                "a segmenter is trained at one pixel size, so make the stores with the same --mpp"
            )
        if item.store.patch_px != first.patch_px:
            raise InvalidInput(
                f"{item.store.path}: has patches of {item.store.patch_px} px but {first.path} of {first.patch_px}; "
                "make the stores with the same --patch-px"
            )
    if first.patch_px < 32:
        raise InvalidInput(
            f"{first.path}: patches of {first.patch_px} px are too small to train on; at least 32 are needed"
        )
    return inputs


def _load(
    inputs: Sequence[_Input],
    config: TrainConfig,
    learns_contacts: bool,
    execution: Execution,
    track: Track,
) -> tuple[PatchSet, _HeldOut, npt.NDArray[np.int64], float]:
    """Read all patches, part off the held-out ones, and compute the targets of the rest; also tells
    whose each is, and below which spread of red absorbance an image is flatter than most of these.
    """
    side = inputs[0].store.patch_px
    total = sum(len(item.store) for item in inputs)
    images = np.empty((total, side, side, 3), np.uint8)
    labels = np.empty((total, side, side), np.int32)
    distance = np.empty((total, side, side), np.uint8)
    contact = np.empty((total, side, side), bool) if learns_contacts else None
    weight, share = np.empty(total, np.float32), np.empty(total, np.float64)
    synthetic = np.zeros(total, bool)
    owner = np.empty(total, np.int64)
    spans: list[tuple[_Input, range, int]] = []
    moments, reference = np.zeros((total, 7)), np.empty(total, np.int64)
    start = 0
    for number, item in enumerate(inputs):
        size = len(item.store)
        owner[start : start + size] = number
        reference[start : start + size] = item.store.reference
        weight[start : start + size] = item.store.weight
        # the word's weight is the store's, however many patches it has
        share[start : start + size] = item.weight / size
        synthetic[start : start + size] = item.store.origin != "labelled"
        spans += [(item, batch, start) for batch in item.store.batches()]
        start += size

    def read(span: tuple[_Input, range, int]) -> int:
        item, batch, offset = span
        where = slice(offset + batch.start, offset + batch.stop)
        images[where], labels[where] = item.store.read(batch)
        for index, level in zip(
            range(where.start, where.stop),
            patch_glass_levels(item.store, batch, images[where]),
            strict=True,
        ):
            images[index] = glass_to_white(images[index], level)
            moments[index] = tissue_moments(images[index][::CONTRAST_STEP, ::CONTRAST_STEP])
            distance[index] = normalised_distance(labels[index])
            if contact is not None:
                contact[index] = contacts(labels[index], item.store.mpp)
        return len(batch)

    with (
        track("reading patches", total) as bar,
        ThreadPoolExecutor(resolve_workers(execution.workers)) as pool,
    ):
        for count in pool.map(read, spans):
            raise_if_stopped("train: stopped before the first step; run it again")
            bar.advance(count)
    floor = _contrast_floor(moments, owner, reference, config.contrast_quantile)
    held = _choose_held_out(synthetic, config)
    kept = np.setdiff1d(np.arange(total), held)
    if not (weight[kept] > 0).any() or not (labels[kept] > 0).any():
        raise InvalidStore(
            f"{inputs[0].store.path}: there is nothing to learn from: the patches hold no nuclei, or all their weights are 0; "
            "make them from references that show tissue"
        )
    held_out = _HeldOut(images[held], labels[held])
    if len(held):  # a view where nothing is held out, to spare the memory of a copy
        images, labels, distance = images[kept], labels[kept], distance[kept]
        contact = None if contact is None else contact[kept]
    share = share[kept] / share[kept].sum()
    learnt = PatchSet(
        images, labels > 0, labels >= 0, distance, weight[kept], share, contact=contact
    )
    return learnt, held_out, owner[kept], floor


def _contrast_floor(
    moments: npt.NDArray[np.float64],
    owner: npt.NDArray[np.int64],
    reference: npt.NDArray[np.int64],
    quantile: float,
) -> float:
    """Return the spread of red absorbance that a share of the references of all stores stays below;
    0 if none tells it.
    """
    if quantile == 0:
        return 0.0
    of_reference = np.unique(np.stack([owner, reference]), axis=1, return_inverse=True)[1].ravel()
    known = [
        contrast_from(moments[of_reference == number].sum(axis=0))
        for number in range(of_reference.max() + 1)
    ]
    spreads = [contrast.spread for contrast in known if contrast is not None]
    return round(float(np.quantile(spreads, quantile)), 4) if spreads else 0.0


def _choose_held_out(
    synthetic: npt.NDArray[np.bool_], config: TrainConfig
) -> npt.NDArray[np.int64]:
    """Choose patches that are scored and not learnt: synthetic ones, whose number is no loss."""
    candidates = np.flatnonzero(synthetic)
    count = min(MOST_HELD_OUT, round(config.validation * len(candidates)), len(candidates) - 1)
    if count <= 0:
        return np.zeros(0, np.int64)
    return np.sort(rng_for(config.seed, "validation").choice(candidates, count, replace=False))


class _Run:
    """One training with its files: metrics, previews, checkpoints."""

    def __init__(
        self,
        out: Path,
        fingerprint: str,
        training: Training,
        clock: Clock,
        held_out: _HeldOut,
        mpp: float,
        dtype: torch.dtype,
        stop_after: int | None,
        seed: int,
        members: Team,
    ) -> None:
        self.out = out
        self.seed = seed
        self.members = members
        self.fingerprint = fingerprint
        self.training = training
        self.clock = clock
        self.held_out = held_out
        self.mpp = mpp
        self.dtype = dtype
        self.stop_after = stop_after
        self.recent: list[float] = []
        self.hardness: Hardness | None = None
        self.saved_at = time.monotonic()
        self.phase = 0
        self.teacher: dict[str, torch.Tensor] | None = None
        """What labelled the unlabelled patches of this round; None between rounds."""
        self.averaged: AveragedWeights | None = None
        self.smooth = AveragedWeights(training.segmenter, AVERAGING)
        """Over the last steps on patches: a candidate for what is written."""
        self.first: Json | None = None
        """What the first teacher found, and the confidence that all rounds share."""
        self.rounds: list[Json] = []
        self.given: Findings | None = None
        """What the user's own teacher found: the first round learns from it."""
        self.hard: Hardening | None = None
        self.preview: Path | None = None

    def train(
        self,
        patches: PatchSet,
        unlabelled: npt.NDArray[np.uint8] | None,
        schedule: Schedule,
        phases: Sequence[_Phase],
        track: Track,
    ) -> float | None:
        """Train to the end; return the mean of the last losses."""
        timed = self.clock.budget_s is not None
        # a timed training counts thousandths, since its steps are not known
        total = 1000 if timed else self.clock.steps
        findings: Findings | None = None
        for index, phase in enumerate(phases):
            if index < self.phase:
                continue
            data = patches
            if index > 0:
                assert unlabelled is not None
                findings = self._begin_round(index, findings, unlabelled, phase, schedule, track)
                # what a person gives as labels is learnt whole, borders too
                own = findings is self.given
                pseudo, about = pseudo_labelled(
                    unlabelled,
                    findings,
                    self.mpp,
                    Acceptance(share=1.0) if own else Acceptance(),
                    borders=own,
                )
                data = mixed(patches, pseudo, PSEUDO_SHARE)
                logger.info("%s: %s", phase.name, about)
            with track(
                phase.name if index else "training", round((phase.end - phase.begin) * total)
            ) as bar:
                self._train_phase(
                    data, replace(schedule, learning_rate=phase.peak), phase, bar, total
                )
            patches = data.part(slice(0, len(patches)))  # with what was put in place meanwhile
            if index > 0:
                assert unlabelled is not None
                assert findings is not None
                findings = self._end_round(index, findings, about, unlabelled, track)
                if findings is None:
                    break
        return float(np.mean(self.recent)) if self.recent else None

    def _train_phase(
        self, data: PatchSet, schedule: Schedule, phase: _Phase, bar: Bar, total: int
    ) -> None:
        def of_phase(step: int) -> float:
            return (self._progress(step) - phase.begin) / (phase.end - phase.begin)

        shown = 0
        validated = int(max(of_phase(self.training.step), 0) * VALIDATIONS)
        for record in train_steps(
            self.training, data, schedule, of_phase, self.dtype, self.members.rank
        ):
            if self.averaged is not None:
                self.averaged.update(self.training.segmenter)
            if self.phase == 0:
                self.smooth.update(self.training.segmenter)
            self._note(record)
            overall = self._progress(record.step)
            progress = min((overall - phase.begin) / (phase.end - phase.begin), 1.0)
            shown = self._show(bar, shown, round(progress * (phase.end - phase.begin) * total))
            if self.phase == 0 and validated < int(progress * VALIDATIONS) < VALIDATIONS:
                validated = int(progress * VALIDATIONS)
                self._validate()
            self._maybe_stop(min(overall, 1.0))

    def _progress(self, step: int) -> float:
        """Share of the training that is done; all processes go by the first one's clock."""
        return float(self.members.from_leader(self.clock.progress(step)))

    def _agree(self) -> None:
        """Give all processes the first one's weights and statistics: the latter are gathered by
        each on its own.
        """
        if self.members.size > 1:
            state = {
                name: value.cpu() for name, value in self.training.segmenter.state_dict().items()
            }
            self.training.segmenter.load_state_dict(self.members.from_leader(state))

    def _find(self, unlabelled: npt.NDArray[np.uint8], track: Track) -> Findings:
        """Look at unlabelled tissue with the weights as they are."""
        assert self.first is not None
        segmenter = self.training.segmenter
        predictor = Predictor(
            segmenter,
            mpp=self.mpp,
            device=next(segmenter.parameters()).device,
            dtype=self.dtype,
            thresholds=replace(DEFAULT_THRESHOLDS, confidence=self.first["confidence"]),
            views=TEACHER_VIEWS,
        )
        return find_nuclei(
            predictor,
            unlabelled,
            track,
            f"{self.out}: stopped after {self.training.step} steps; run the same command with --resume",
        )

    def _begin_round(
        self,
        index: int,
        findings: Findings | None,
        unlabelled: npt.NDArray[np.uint8],
        phase: _Phase,
        schedule: Schedule,
        track: Track,
    ) -> Findings:
        """Make the present weights the teacher, or take up those of an interrupted round; returns
        what the teacher finds.
        """
        segmenter = self.training.segmenter
        if index == 1 and self.given is not None:
            findings = self.given
        if self.phase == index and self.teacher is not None:  # resumed within this round
            if findings is not None:
                return findings
            student = {name: value.clone() for name, value in segmenter.state_dict().items()}
            segmenter.load_state_dict(self.teacher)
            findings = self._find(unlabelled, track)
            segmenter.load_state_dict(student)
            return findings
        self._save()  # an interruption while tissue is labelled costs no training
        self._agree()
        if self.first is None:
            known = self.members.leads and len(self.held_out.images)
            chosen = (
                self._choose(self._look()).confidence if known else DEFAULT_THRESHOLDS.confidence
            )
            self.first = {"confidence": self.members.from_leader(chosen)}
        if findings is None:
            findings = self._find(unlabelled, track)
        if "count" not in self.first:
            self.first |= {"count": findings.count(), "area": findings.median_area_px()}
        self.phase = index
        self.teacher = {name: value.clone() for name, value in segmenter.state_dict().items()}
        self.averaged = AveragedWeights(segmenter, AVERAGING)
        step = self.training.step
        self.training = start_training(
            segmenter, replace(schedule, learning_rate=phase.peak), self.training.called
        )
        self.training.step = step
        return findings

    def _end_round(
        self,
        index: int,
        before: Findings,
        about: Json,
        unlabelled: npt.NDArray[np.uint8],
        track: Track,
    ) -> Findings | None:
        """Take the averaged weights, and go back to the teacher's where they call something else a
        nucleus; None ends it.
        """
        assert self.first is not None
        assert self.teacher is not None
        assert self.averaged is not None
        self._save()
        segmenter = self.training.segmenter
        if self.averaged.steps:
            segmenter.load_state_dict(self.averaged.values)
        self._agree()
        after = self._find(unlabelled, track)
        agree, each = compare(before, after)
        area = after.median_area_px() / max(self.first["area"], 1e-9) - 1
        number = after.count() / max(self.first["count"], 1) - 1
        drifted = abs(area) > AREA_DRIFT or abs(number) > COUNT_DRIFT
        found: Json = about | {
            "round": index,
            "agreement": round(agree, 4),
            "area_drift": round(area, 4),
            "count_drift": round(number, 4),
            "kept": not drifted,
        }
        self.rounds.append(found)
        if self.members.leads:
            append_metrics(self.out, {"step": self.training.step, "self_training": found})
            images, labels = disagreements(unlabelled, before, after, each, PREVIEW_PATCHES)
            name = preview_path(self.out, self.training.step)
            sheet = patch_sheet(images, labels, columns=2)
            write_png(name.with_name(f"disagreement-{index}.png"), sheet)
            if self.preview is not None:
                write_png(self.preview, sheet)
        self.averaged = None
        if drifted:
            logger.warning(
                "round %d of self-training moved the median area of nuclei by %+.0f %% and their number by %+.0f %%; "
                "the weights before it are kept",
                index,
                100 * area,
                100 * number,
            )
            segmenter.load_state_dict(self.teacher)
        self.teacher = None
        return None if drifted else after

    def _note(self, record: StepRecord) -> None:
        if not math.isfinite(record.loss):
            raise InvalidInput(
                f"{self.out}: the loss is not a number at step {record.step}; lower --learning-rate, or use --precision fp32"
            )
        self.recent = [*self.recent[-(RECORD_EVERY - 1) :], record.loss]
        self.hardness = record.hardness or self.hardness
        if record.step % RECORD_EVERY == 0 and self.members.leads:
            append_metrics(
                self.out,
                {
                    "step": record.step,
                    "loss": float(np.mean(self.recent)),
                    "learning_rate": record.learning_rate,
                    "seconds": self.clock.trained_s,
                }
                | ({} if self.hardness is None else {"hard": asdict(self.hardness)}),
            )

    def _show(self, bar: Bar, shown: int, now: int) -> int:
        if now > shown:
            bar.advance(now - shown, f"step {self.training.step}, loss {np.mean(self.recent):.3f}")
        return max(shown, now)

    def _maybe_stop(self, progress: float) -> None:
        asked = stop_requested() or (
            self.stop_after is not None and self.training.step >= self.stop_after
        )
        asked = any(self.members.gather(asked))
        if (asked and progress < 1) or time.monotonic() - self.saved_at > CHECKPOINT_S:
            self._save()
        if asked and progress < 1:
            raise Stopped(
                f"{self.out}: stopped after {self.training.step} steps, the checkpoint is saved; "
                "run the same command with --resume"
            )

    def _save(self) -> None:
        """Write a checkpoint; weights that are no numbers do not replace an earlier one that is
        good.
        """
        finite = all(
            bool(torch.isfinite(value).all()) for value in self.training.segmenter.parameters()
        )
        if not self.members.leads or not finite:
            return
        state = {
            "segmenter": self.training.segmenter.state_dict(),
            "optimizer": self.training.optimizer.state_dict(),
            "step": self.training.step,
            "trained_s": self.clock.trained_s,
            "recent": self.recent,
            "phase": self.phase,
            "teacher": self.teacher,
            "averaged": None if self.averaged is None else self.averaged.state(),
            "smooth": self.smooth.state(),
            "first": self.first,
            "hard": {} if self.hard is None else self.hard.state(),
            "rounds": self.rounds,
        }
        write_checkpoint(checkpoint_path(self.out), state, config_hash=self.fingerprint)
        self.saved_at = time.monotonic()

    def restore(self, path: Path) -> None:
        """Take up the state of a checkpoint."""
        state: dict[str, Any] = read_checkpoint(path).state
        try:
            self.training.segmenter.load_state_dict(state["segmenter"])
            self.training.optimizer.load_state_dict(state["optimizer"])
            self.training.step = int(state["step"])
            self.clock.earlier_s = float(state["trained_s"])
            self.recent = [float(loss) for loss in state["recent"]]
            self.phase, self.first, self.rounds = (
                int(state["phase"]),
                state["first"],
                list(state["rounds"]),
            )
            self.teacher = state["teacher"]
            if state["averaged"] is not None:
                self.averaged = AveragedWeights(self.training.segmenter, AVERAGING)
                self.averaged.restore(state["averaged"])
            self.smooth.restore(state["smooth"])
            if self.hard is not None:
                self.hard.restore(state["hard"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidStore(
                f"{path}: the checkpoint does not fit this training ({first_line(error)}); start anew with --overwrite"
            ) from error

    def judge_hardness(self, hard: Hardening | None) -> Json | None:
        """Say how hard the hard examples are by now, and show some: each held-out patch, and what
        it became.
        """
        if hard is None or not len(self.held_out.images):
            return None
        about, ordinary, harder = judge_hardness(
            hard, self._predictor(), self.held_out.images, self.held_out.labels, self.seed
        )
        append_metrics(self.out, {"step": self.training.step, "hard": about})
        pictures = [picture for pair in zip(ordinary, harder, strict=True) for picture in pair][
            : 2 * PREVIEW_PATCHES
        ]
        empty = [np.zeros(picture.shape[:2], np.int32) for picture in pictures]
        name = preview_path(self.out, self.training.step)
        write_png(name.with_name("hard.png"), patch_sheet(pictures, empty, columns=4))
        return about

    def _predictor(self) -> Predictor:
        segmenter = self.training.segmenter
        return Predictor(
            segmenter, mpp=self.mpp, device=next(segmenter.parameters()).device, dtype=self.dtype
        )

    def _look(self) -> _Look:
        """See what the weights as they are make of the held-out patches."""
        predictor = self._predictor()
        maps = predict_maps(predictor, self.held_out.images)
        found = [predictor.instances(each) for each in maps]
        self.training.segmenter.train()
        return _Look(found, [each[..., 0] for each in maps])

    def _choose(self, look: _Look) -> ObjectThresholds:
        """Choose what objects are dropped, from held-out synthetic patches: no label is needed."""
        return choose_thresholds(list(self.held_out.labels), look.found, look.probability, self.mpp)

    def select(self) -> tuple[Thresholds, Json | None, Json | None]:
        """Choose among the last weights and those averaged over the last steps, and choose
        thresholds, without a label.

        Returns
        -------
        thresholds : Thresholds
        about : dict or None
            What was chosen, by what and with which score; None where nothing is held out.
        held_out : dict or None
            Scores of what was chosen on the held-out patches, without its thresholds.
        """
        if not len(self.held_out.images):
            return DEFAULT_THRESHOLDS, None, None
        segmenter = self.training.segmenter
        candidates = {
            "last": {name: value.clone() for name, value in segmenter.state_dict().items()}
        }
        # rounds of self-training end with averaged weights anyway
        if self.smooth.steps and self.phase == 0:
            candidates["averaged"] = self.smooth.values
        looks, chosen = {}, {}
        for name, state in candidates.items():
            segmenter.load_state_dict(state)
            looks[name] = self._look()
            chosen[name] = self._choose(looks[name])
        # the first of equals: the last weights
        best = max(chosen, key=lambda name: chosen[name].score)
        segmenter.load_state_dict(candidates[best])
        picked = chosen[best]
        about: Json = {
            "by": "AJI + PQ, mean of patches and pooled, held-out synthetic",
            "weights": best,
            "score": round(picked.score, 4),
            "scores": {name: round(each.score, 4) for name, each in chosen.items()},
        }
        thresholds = replace(
            DEFAULT_THRESHOLDS, confidence=picked.confidence, smallest_um2=picked.smallest_um2
        )
        return thresholds, about, self._validate(looks[best])

    def _validate(self, look: _Look | None = None) -> Json | None:
        """Score the held-out patches, and show some of them."""
        if not len(self.held_out.images) or not self.members.leads:
            return None
        found = (look or self._look()).found
        counts = [
            count(truth, labels) for truth, labels in zip(self.held_out.labels, found, strict=True)
        ]
        mean = summarise(counts, bootstrap=0).mean
        scores: Json = {name: round(mean[name], 4) for name in shown_in("training")}
        append_metrics(
            self.out,
            {"step": self.training.step, "held_out": scores, "seconds": self.clock.trained_s},
        )
        shown = slice(0, PREVIEW_PATCHES)
        images: list[RGBImage] = list(self.held_out.images[shown])
        labels: list[InstanceLabels] = list(found[shown])
        write_png(
            preview_path(self.out, self.training.step), patch_sheet(images, labels, columns=4)
        )
        return scores


def predict_maps(predictor: Predictor, images: npt.NDArray[np.uint8]) -> list[FloatArray]:
    """Return the maps of patches (n, H, W, 3) one by one; sides are mirrored up to what the network
    takes.
    """
    height, width = images.shape[1:3]
    multiple = predictor.multiple_px
    more_y, more_x = -height % multiple, -width % multiple
    found = []
    for image in images:
        padded = cv2.copyMakeBorder(image, 0, more_y, 0, more_x, cv2.BORDER_REFLECT)
        found.append(np.ascontiguousarray(predictor.maps(padded[None])[0, :height, :width]))
    return found
