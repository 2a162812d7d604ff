"""The training loop of the segmenter: one record per step, no files, no bars, no clock of its own.

Each step draws from a generator of its own number, so that a resumed training sees the same batches
as an uninterrupted one. What is not on this straight path joins as an :class:`Extra`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from histocli.base.device import autocast
from histocli.base.rng import rng_for
from histocli.base.types import Json
from histocli.model.segmenter import Segmenter
from histocli.training.augmentation import Augmentation
from histocli.training.losses import segmentation_loss
from histocli.training.sampling import Batch, PatchSet, draw_crops

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
MEASURE_EVERY = 20
"""Steps between two looks at how hard hard examples are."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a training goes."""

    batch: int
    """Crops in a step."""
    crop_px: int
    """Side of a crop."""
    learning_rate: float
    """The largest one of the schedule."""
    seed: int
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Phase:
    """A part of a training, in which the learning rate rises and falls once."""

    name: str
    patches: PatchSet
    """What is learnt."""
    begin: float
    """Share of the whole training that lies before the phase."""
    end: float
    """Share of the whole training that lies behind its end."""
    learning_rate: float
    """The largest one of the phase."""


@dataclass(frozen=True)
class Moment:
    """What is particular to one step."""

    rng: np.random.Generator
    progress: float
    """Share of the phase that is done."""
    dtype: torch.dtype
    """Number format of the convolutions."""
    measure: bool
    """Whether hardness is measured in this step."""


class Extra:
    """What joins a training besides its patches: each method does nothing unless overridden."""

    name = ""
    """Under which a checkpoint keeps its state, and the result its report."""
    begins = 1.0
    """Share of the training that lies before its phases; 1 where it has none."""

    @property
    def begun(self) -> bool:
        """Whether one of its phases has begun, so that those before are over."""
        return False

    def before_step(self, patches: PatchSet, step: int) -> None:
        """Change the patches in place; ``step`` steps are done."""

    def harden(self, segmenter: Segmenter, batch: Batch, moment: Moment) -> Batch:
        """Return a batch with hard examples in it, and leave the segmenter as it is."""
        return batch

    def after_step(self, segmenter: Segmenter) -> None:
        """See what a step has made of the segmenter."""

    def phases(self, patches: PatchSet) -> Iterator[Phase]:
        """Yield the phases that follow the one on patches; each is over when the next is asked."""
        return iter(())

    def latest(self) -> Json:
        """Return what is logged beside the loss."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""


@dataclass(frozen=True)
class StepRecord:
    """What one step reports."""

    step: int
    """Steps done, this one included."""
    loss: float
    learning_rate: float
    extras: Json = field(default_factory=dict)
    """What the extras say."""

    def averaged(self) -> dict[str, float | None]:
        """Return the values whose means over the last steps are logged."""
        return {"loss": self.loss}

    def latest(self) -> Json:
        """Return the values that are logged as they are."""
        return {"learning_rate": self.learning_rate, **self.extras}


@dataclass
class Training:
    """A segmenter with its optimiser and the number of steps it has behind it."""

    segmenter: Segmenter
    optimizer: torch.optim.AdamW
    called: Callable[[torch.Tensor], torch.Tensor]
    """The segmenter as it is called when it learns: with several processes, in a wrapper that
    averages gradients."""
    step: int = 0

    @property
    def device(self) -> torch.device:
        """Where the segmenter is."""
        return next(self.segmenter.parameters()).device

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the parameters and statistics as they are now."""
        return {name: value.clone() for name, value in self.segmenter.state_dict().items()}

    def restart(self, learning_rate: float) -> None:
        """Forget the momentum of the steps so far."""
        self.optimizer = make_optimizer(self.segmenter, learning_rate)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {
            "segmenter": self.segmenter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.segmenter.load_state_dict(state["segmenter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def make_optimizer(segmenter: Segmenter, learning_rate: float) -> torch.optim.AdamW:
    """Return a new optimiser of a segmenter's parameters."""
    return torch.optim.AdamW(segmenter.parameters(), lr=learning_rate, weight_decay=1e-3)


def start_training(
    segmenter: Segmenter,
    schedule: Schedule,
    called: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Training:
    """Give a segmenter an optimiser; ``called`` is the segmenter in a wrapper, where it has one."""
    optimizer = make_optimizer(segmenter, schedule.learning_rate)
    return Training(segmenter, optimizer, called or segmenter)


def learning_rate_at(progress: float, peak: float) -> float:
    """One cycle (Smith and Topin 2019): up in the first tenth, then down along half a cosine.

    Parameters
    ----------
    progress : float
        Share of the steps that is done, 0..1.
    peak : float
        The largest learning rate.
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
    extras: Sequence[Extra] = (),
) -> Iterator[StepRecord]:
    """Train until the progress is 1.

    Parameters
    ----------
    training : Training
        Changed in place; stop iterating at any record and it is consistent.
    patches : PatchSet
    schedule : Schedule
    progress : callable
        Returns from the number of steps done which share of the steps lies behind; 1 and more ends
        them. The caller decides whether steps or seconds count.
    dtype : torch.dtype
        Number format of the convolutions.
    rank : int
        Of this process among several, each of which draws batches of its own.
    extras : sequence of Extra

    Yields
    ------
    StepRecord
    """
    segmenter = training.segmenter
    segmenter.train()
    while (done := progress(training.step)) < 1:
        rate = learning_rate_at(done, schedule.learning_rate)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        for extra in extras:
            extra.before_step(patches, training.step)
        rng = rng_for(schedule.seed, f"train {rank}" if rank else "train", training.step)
        batch = draw_crops(
            patches, schedule.batch, schedule.crop_px, schedule.augmentation, rng, training.device
        )
        moment = Moment(rng, done, dtype, training.step % MEASURE_EVERY == 0)
        for extra in extras:
            batch = extra.harden(segmenter, batch, moment)
        loss = train_step(training, batch, dtype)
        training.step += 1
        said: Json = {}
        for extra in extras:
            extra.after_step(segmenter)
            said |= extra.latest()
        yield StepRecord(training.step, loss, rate, said)


def train_step(training: Training, batch: Batch, dtype: torch.dtype) -> float:
    """Take one step and return its loss."""
    pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
    with autocast(pixels.device, dtype):
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
    torch.nn.utils.clip_grad_norm_(training.segmenter.parameters(), max_norm=5.0)
    training.optimizer.step()
    return float(loss.detach())
