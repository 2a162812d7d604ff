"""``histosynth train``: from patch stores to a model file.

Patches and their targets are held in memory; a share of the synthetic ones is held out and scored.
Beside the model, ``<out>.log/`` holds ``metrics.jsonl``, learning curves, preview pictures of
held-out patches and, until the model is written, the checkpoint for a later command.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from histocli.base.device import autocast, prepare_process
from histocli.base.distributed import Team, local_device, team, weights_digest
from histocli.base.progress import Track, silent
from histocli.base.text import first_line
from histocli.config.common import Execution, as_dict
from histocli.config.train import TrainConfig
from histocli.model.normalisation import PIXEL_MEAN, PIXEL_STD
from histocli.model.segmenter import Segmenter, build_segmenter, channels_last
from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.journal import check_tracking
from histocli.stages.shared.results import Stopwatch
from histocli.stages.shared.session import Clock, Session, refuse_short_budget
from histocli.stages.train.bench import Bench, Joined, join
from histocli.stages.train.fresh import fresh_patches
from histocli.stages.train.hard import hard_examples
from histocli.stages.train.patches import load_patches
from histocli.stages.train.plan import Request, TrainResult, open_request, plan_of
from histocli.stages.train.selection import Examiner, Selection
from histocli.stages.train.teacher import self_training
from histocli.stores.box import read_trunk_weights
from histocli.stores.models import ModelHeader, write_model
from histocli.training.augmentation import augmentation_for
from histocli.training.loop import (
    Extra,
    Phase,
    Schedule,
    StepRecord,
    Training,
    start_training,
    train_steps,
)
from histocli.training.sampling import PatchSet
from histocli.training.self_training import AveragedWeights

logger = logging.getLogger(__name__)
Network: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

VALIDATIONS = 4  # equal parts of the training on patches, between which held-out patches are scored
RESERVE_S = 12.0  # seconds of a time budget for the last scoring and for writing, until measured
WRITING_S = 1.5  # seconds of a time budget to write the model
# At the end two sets of weights are scored, and thresholds are chosen for both, which takes about
# as long as one and a half more.
ENDING_SCORINGS = 3.5


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
        Paths, each with an optional share as in ``labelled.zarr:2``; ``-`` reads them from stdin.
    out : Path
        Model file to make.
    refs : sequence of str
        Unlabelled images for self-training: files, folders, globs, ``@list`` or manifests.
    stop_after : int, optional
        Save a checkpoint and stop after this many steps in all.
    preview : Path, optional
        PNG to make, of the reference patches on which teacher and student of the last round
        disagree most.

    Raises
    ------
    InvalidStore, InvalidInput
        Stores cannot be read or do not fit together.
    StoreExists
        An output of other settings, finished or not, exists at ``out``.
    Stopped
        A signal came, or ``stop_after`` steps are done. A checkpoint is kept for a later command.
    """
    watch = Stopwatch.of_command()
    check_tracking(execution)
    request = open_request(
        stores, refs, config, execution, stop_after=stop_after, preview=preview, track=track
    )
    plan = plan_of(request, out, watch)
    with team(local_device(request.device)) as members:
        return carry_out(plan, execution, lambda work: _make(request, plan, work), members)


def _make(request: Request, plan: Plan[TrainResult], work: Work[TrainResult]) -> TrainResult:
    """Train, choose weights and thresholds, and write the model."""
    prepare_process()
    config = request.config
    patches = load_patches(request)
    training, schedule = _start(request, patches.learnt, work.members)
    clock = Clock(config.steps, config.time_budget_s, RESERVE_S, plan.watch)
    text = f"opening the inputs took {plan.watch.seconds:.0f} s"
    refuse_short_budget(clock, work.members, WRITING_S, text)
    session = Session(
        plan,
        work,
        clock,
        stop_after=request.stop_after,
        track=request.track,
        tensorboard=request.execution.tensorboard,
    )
    session.register("training", training)
    examiner = Examiner(patches.held_out, training, session, request.store.mpp, request.dtype)
    with ExitStack() as stack:
        bench = Bench(request, patches, training, session, examiner, stack)
        joined = [each for extra in EXTRAS if (each := extra(bench)) is not None]
        _learn(bench, schedule, [each.extra for each in joined])
    digests = work.members.gather(weights_digest(training.segmenter))
    selection = examiner.select(_candidates(training, joined))
    too_short = session.was_too_short(training.step)
    reports = {each.extra.name: each.report() for each in joined}
    made = replace(
        work.planned,
        steps=training.step,
        loss=session.mean("loss"),
        held_out=selection.held_out,
        effective_share=patches.effective_share,
        rounds=reports.get("self-training", []),
        hard=reports.get("hard"),
        fresh=reports.get("fresh"),
        failed=tuple(request.failed),
        too_short=too_short,
    )
    if work.members.leads:
        if work.members.size > 1:
            session.log({"processes": len(digests), "processes_agree": len(set(digests)) == 1})
        header = _header(bench, made, selection)
        write_model(plan.out, training.segmenter.state_dict(), header)
        session.journal.draw()
        session.checkpoint.remove()
    return made


def _start(request: Request, patches: PatchSet, members: Team) -> tuple[Training, Schedule]:
    """Build the segmenter, its optimiser and the settings of its training."""
    config = request.config
    torch.manual_seed(config.seed)
    segmenter = build_segmenter(request.architecture)
    if request.start is not None:
        segmenter.load_state_dict(request.start.tensors)
    elif isinstance(segmenter, TrunkSegmenter):
        segmenter.trunk.load_state_dict(read_trunk_weights())
    segmenter = channels_last(segmenter, local_device(request.device))
    multiple = segmenter.multiple_px  # the sides of crops must be multiples of this
    schedule = Schedule(
        augmentation=augmentation_for(segmenter),
        batch=config.batch,
        crop_px=min(config.crop_px, *patches.nucleus.shape[1:]) // multiple * multiple,
        learning_rate=config.peak_rate,
        seed=config.seed,
    )
    called = members.wrap(segmenter)
    if config.compile:
        called = _compiled(called, segmenter, schedule, request.dtype)
    return start_training(segmenter, schedule, called), schedule


def _compiled(
    called: Network, segmenter: Segmenter, schedule: Schedule, dtype: torch.dtype
) -> Network:
    """Return the network compiled for the training's crops, or unchanged if that fails."""
    device = next(segmenter.parameters()).device
    shape = (schedule.batch, 3, schedule.crop_px, schedule.crop_px)
    pixels = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    try:
        faster: Network = torch.compile(called)
        with autocast(device, dtype):
            faster(pixels).sum().backward()  # type: ignore[no-untyped-call]
    # without a compiler for the device; the class of the error depends on the version of torch
    except Exception as error:
        cause = first_line(error)
        logger.warning("--compile: not possible here (%s); training goes on without", cause)
        faster = called
    segmenter.load_state_dict(before)  # the trial changed running statistics
    segmenter.zero_grad(set_to_none=True)
    return faster


def _averaged_weights(bench: Bench) -> Joined | None:
    """Join averaged weights, which may be written instead of the last ones.

    With self-training they are not needed, since each round ends with averaged weights.
    """
    if bench.request.sources:
        return None
    return join(bench, AveragedWeights(bench.training.segmenter), lambda: None)


# functions that join an optional part to a training, or return None
EXTRAS = (_averaged_weights, self_training, hard_examples, fresh_patches)


def _learn(bench: Bench, schedule: Schedule, extras: Sequence[Extra]) -> None:
    """Take the steps of all phases; score held-out patches during the training on patches."""
    session, training = bench.session, bench.training
    reserved_s = RESERVE_S  # seconds reserved for the last scorings, until one was timed

    def note(record: StepRecord) -> str:
        return f"step {record.step}, loss {session.mean('loss'):.3f}"

    for phase in _phases(bench.patches.learnt, schedule.learning_rate, extras):
        adapted = replace(schedule, learning_rate=phase.learning_rate)
        stepping = partial(
            train_steps,
            training,
            phase.patches,
            adapted,
            dtype=bench.request.dtype,
            rank=session.members.rank,
            extras=extras,
        )
        begin, end = phase.begin, phase.end
        for _ in session.steps(stepping, name=phase.name, note=note, begin=begin, end=end):
            if phase.begin == 0 and session.passed(VALIDATIONS) and session.done < 1:
                start = time.perf_counter()
                bench.examiner.score()
                needed_s = ENDING_SCORINGS * (time.perf_counter() - start) + WRITING_S
                session.clock.reserve(needed_s - reserved_s)
                reserved_s = needed_s


def _phases(patches: PatchSet, learning_rate: float, extras: Sequence[Extra]) -> Iterator[Phase]:
    """Yield the phase on patches, and then the phases of the extras."""
    if not any(extra.begun for extra in extras):
        end = min((extra.begins for extra in extras), default=1.0)
        if end > 0:
            yield Phase("training", patches, 0.0, end, learning_rate)
    for extra in extras:
        yield from extra.phases(patches)


def _candidates(training: Training, joined: Sequence[Joined]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the weights that may be written, by name."""
    averaged = [each.extra for each in joined if isinstance(each.extra, AveragedWeights)]
    return {"last": training.weights()} | {one.name: one.values for one in averaged if one.steps}


def _header(bench: Bench, made: TrainResult, selection: Selection) -> ModelHeader:
    """Return the header of the model file."""
    request, config = bench.request, bench.request.config
    edges, known = bench.patches.stain_range, bench.patches.known_stains
    return ModelHeader(
        architecture=asdict(bench.training.segmenter.architecture),
        pretrained="imagenet" if isinstance(bench.training.segmenter, TrunkSegmenter) else "none",
        mpp=made.mpp,
        config_hash=request.fingerprint,
        normalisation={
            "glass": "white, measured per image",
            "mean": PIXEL_MEAN,
            "std": PIXEL_STD,
            "range": "sRGB 0..1",
            "stain_range": None if edges is None else edges.to_json(),
            "known_stains": None if known is None else known.to_json(),
        },
        thresholds=asdict(selection.thresholds),
        training={
            "steps": made.steps,
            "loss": made.loss,
            "effective_share": made.effective_share,
            "self_training": made.rounds,
            "hard": made.hard,
            "fresh": made.fresh,
            "held_out": made.held_out,
            "selection": selection.about,
            "device": made.device,
            "processes": bench.session.members.size,
            "precision": made.precision,
        },
        data=request.data,
        shippable=made.shippable,
        config=as_dict(config),
        seed=config.seed,
    )
