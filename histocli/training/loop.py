"""The training loop of the segmenter, which yields a record for each step and touches no files.

The random generator of a step is made from the step's number, so that a resumed training sees the
same batches as an uninterrupted one. Optional parts of a training, such as hard examples, are each
an :class:`Extra`.
"""

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

WARM_UP = 0.1  # share of the steps in which the learning rate rises
MEASURE_EVERY = 20  # steps between two measurements of the loss of hard examples


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Settings of a training."""

    batch: int  # crops in a step
    crop_px: int  # side of a crop
    learning_rate: float  # peak of the learning rate
    seed: int
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Phase:
    """A part of a training, in which the learning rate rises and falls once."""

    name: str
    patches: PatchSet  # the patches that the phase learns from
    begin: float  # share of the whole training that is done when the phase begins
    end: float  # share of the whole training that is done when the phase ends
    learning_rate: float  # peak of the learning rate


@dataclass(frozen=True)
class Moment:
    """The circumstances of one step, for the extras."""

    rng: np.random.Generator
    progress: float  # share of the phase that is done
    dtype: torch.dtype  # number format of the convolutions
    measure: bool  # whether hardness is measured in this step


class Extra:
    """An optional part of a training; each method does nothing unless a subclass overrides it."""

    name = ""  # key of its state in checkpoints, and of its report in the result
    begins = 1.0  # share of the training done when its first phase begins; 1 if it has no phases

    @property
    def begun(self) -> bool:
        """Whether one of its phases has begun, so that the phase on patches is over."""
        return False

    def before_step(self, patches: PatchSet, step: int) -> None:
        """Change the patches in place; called when ``step`` steps are done."""

    def harden(self, segmenter: Segmenter, batch: Batch, moment: Moment) -> Batch:
        """Return the batch with some crops replaced by hard ones; leave the segmenter unchanged."""
        return batch

    def after_step(self, segmenter: Segmenter) -> None:
        """Read the segmenter's weights after a step."""

    def phases(self, patches: PatchSet) -> Iterator[Phase]:
        """Yield phases that follow the one on patches; asking for the next ends the last one."""
        return iter(())

    def latest(self) -> Json:
        """Return values that are logged with the loss."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint that a resumed training restores."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""


@dataclass(frozen=True)
class StepRecord:
    """The report of one step."""

    step: int  # steps done, this one included
    loss: float
    learning_rate: float
    extras: Json = field(default_factory=dict)  # logged values of the extras

    def averaged(self) -> dict[str, float | None]:
        """Return the values whose means over the last steps are logged."""
        return {"loss": self.loss}

    def latest(self) -> Json:
        """Return the values that are logged as they are."""
        return {"learning_rate": self.learning_rate, **self.extras}


@dataclass
class Training:
    """A segmenter with its optimiser and the number of steps done."""

    segmenter: Segmenter
    optimizer: torch.optim.AdamW
    called: Callable[[torch.Tensor], torch.Tensor]
    """The callable for steps that compute gradients: the segmenter, its compiled form or, with
    several processes, a wrapper that averages gradients."""
    step: int = 0

    @property
    def device(self) -> torch.device:
        """Device of the segmenter."""
        return next(self.segmenter.parameters()).device

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the present parameters and running statistics."""
        return {name: value.clone() for name, value in self.segmenter.state_dict().items()}

    def restart(self, learning_rate: float) -> None:
        """Replace the optimiser by a new one, without momentum from earlier steps."""
        self.optimizer = make_optimizer(self.segmenter, learning_rate)

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        return {
            "segmenter": self.segmenter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
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
    """Return a segmenter with an optimiser; for ``called`` see :class:`Training`."""
    optimizer = make_optimizer(segmenter, schedule.learning_rate)
    return Training(segmenter, optimizer, called or segmenter)


def learning_rate_at(progress: float, peak: float) -> float:
    """Return the rate of one cycle (Smith and Topin 2019): linear rise, then half a cosine down.

    ``progress`` is the share of the cycle that is done, 0..1. During the first ``WARM_UP`` the rate
    rises from 4 % of its peak.
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
    """Train until the progress is 1; the caller may stop iterating after any record.

    Parameters
    ----------
    training : Training
        Changed in place.
    progress : callable
        Maps the number of steps done to the share of the phase that is done.
    dtype : torch.dtype
        Number format of the convolutions.
    rank : int
        Number of the process. Each process draws its own batches by it.

    Yields
    ------
    StepRecord
        One for each step.
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
    targets = batch.nucleus, batch.distance, batch.valid
    loss = segmentation_loss(logits, *targets, batch.weight, batch.borders, batch.contact)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(training.segmenter.parameters(), max_norm=5.0)
    training.optimizer.step()
    return float(loss.detach())
