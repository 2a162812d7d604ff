"""The training loop of the segmenter: one record per step, no files, no bars, no clock of its own.

Each step draws from a generator of its own number, so that a resumed training sees the same batches
as an uninterrupted one.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from histocli.base.rng import rng_for
from histocli.model.segmenter import Segmenter
from histocli.training.augmentation import Augmentation
from histocli.training.hard_examples import Hardening, Hardness
from histocli.training.losses import segmentation_loss
from histocli.training.sampling import Batch, PatchSet, draw_batch

WARM_UP = 0.1  # share of the schedule in which the learning rate rises
WEIGHT_DECAY = 1e-3
LARGEST_GRADIENT = 5.0
MEASURE_EVERY = 20  # steps between two looks at how hard hard examples are


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a training goes."""

    batch: int
    crop_px: int
    learning_rate: float
    """Peak."""
    seed: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    hard: Hardening | None = None
    """Makes a part of each batch harder."""
    refresh: Callable[[PatchSet, int], None] | None = None
    """Puts new patches into the set; called with the number of steps done before each."""


@dataclass(frozen=True)
class StepRecord:
    """What one step reports."""

    step: int
    """Steps done, this one included."""
    loss: float
    learning_rate: float
    hardness: Hardness | None = None
    """Of the hard examples, where that was measured."""


@dataclass
class Training:
    """A segmenter with its optimiser and the number of steps it has behind it."""

    segmenter: Segmenter
    optimizer: torch.optim.AdamW
    called: Callable[[torch.Tensor], torch.Tensor]
    """The segmenter as it is called when it learns: with several processes, in a wrapper that
    averages gradients."""
    step: int = 0


def start_training(
    segmenter: Segmenter,
    schedule: Schedule,
    called: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Training:
    """Give a segmenter an optimiser.

    Parameters
    ----------
    segmenter : Segmenter
    schedule : Schedule
    called : callable, optional
        The segmenter in a wrapper that averages gradients over processes.
    """
    optimizer = torch.optim.AdamW(
        segmenter.parameters(), lr=schedule.learning_rate, weight_decay=WEIGHT_DECAY
    )
    return Training(segmenter, optimizer, called or segmenter)


def learning_rate_at(progress: float, peak: float) -> float:
    """One cycle (Smith and Topin 2019): up in the first tenth, then down to nothing along half a
    cosine.

    Parameters
    ----------
    progress : float
        Share of the training that is done, 0..1.
    peak : float
    """
    if progress < WARM_UP:
        return peak * (0.04 + 0.96 * progress / WARM_UP)
    return peak * max(0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))), 1e-3)


def train_steps(
    training: Training,
    patches: PatchSet,
    schedule: Schedule,
    progress: Callable[[int], float],
    dtype: torch.dtype,
    rank: int = 0,
) -> Iterator[StepRecord]:
    """Train until the progress is 1.

    Parameters
    ----------
    training : Training
        Changed in place; stop iterating at any record and it is consistent.
    patches : PatchSet
    schedule : Schedule
    progress : callable
        Tells from the number of steps done which share of the training is behind us; >= 1 ends it.
        The caller decides whether steps or seconds count.
    dtype : torch.dtype
        Number format of the convolutions.
    rank : int
        Of several processes, each of which draws batches of its own.

    Yields
    ------
    StepRecord
    """
    segmenter = training.segmenter
    device = next(segmenter.parameters()).device
    segmenter.train()
    while (done := progress(training.step)) < 1:
        rate = learning_rate_at(done, schedule.learning_rate)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        if schedule.refresh is not None:
            schedule.refresh(patches, training.step)
        rng = rng_for(schedule.seed, f"train {rank}" if rank else "train", training.step)
        batch = draw_batch(
            patches, schedule.batch, schedule.crop_px, schedule.augmentation, rng, device
        )
        hardness = None
        if schedule.hard is not None:
            measure = training.step % MEASURE_EVERY == 0
            batch, hardness = schedule.hard.harden(
                segmenter, batch, rng, done, dtype, measure=measure
            )
        loss = train_step(training, batch, dtype)
        training.step += 1
        yield StepRecord(training.step, loss, rate, hardness)


def train_step(training: Training, batch: Batch, dtype: torch.dtype) -> float:
    """Take one step and return its loss."""
    pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
    with torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = training.called(pixels)
    loss = segmentation_loss(
        logits,
        batch.nucleus,
        batch.distance,
        batch.valid,
        batch.weight,
        batch.borders,
        batch.contact,
    )
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(training.segmenter.parameters(), LARGEST_GRADIENT)
    training.optimizer.step()
    return float(loss.detach())
