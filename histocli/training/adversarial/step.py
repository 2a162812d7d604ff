"""One step of refiner and critics, and the training as a sequence of steps.

In a step the refiner repaints a batch of initial crops, and is updated if the realism critic is
good enough. Then the realism critic learns from real and repainted crops, and the style critic from
pairs of crops. The *history* is a replay buffer of repainted crops of earlier steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.base.device import autocast
from histocli.base.rng import rng_for
from histocli.base.types import Json
from histocli.training.adversarial.losses import (
    critic_loss,
    feature_distance,
    mean_within,
    not_taken_for_real,
    pairs_of,
    style_loss,
    tone_change,
)
from histocli.training.adversarial.networks import AdversarialTraining
from histocli.training.adversarial.sampling import CropBatch, Sampler
from histocli.training.adversarial.schedule import AdversarialSchedule


@dataclass(frozen=True)
class StepReport:
    """The report of one step."""

    step: int  # steps done, this one included
    critic: float  # loss of the realism critic
    style: float  # loss of the style critic
    refiner: float | None  # realism part of the refiner's loss; None if it was not updated
    change: float  # mean absolute change of optical density within nuclei
    skill: float  # running mean of the share of pixels that the realism critic judges rightly

    @property
    def finite(self) -> bool:
        """Whether all losses and the change are finite numbers."""
        return all(np.isfinite(value or 0.0) for value in self.averaged().values())

    def averaged(self) -> dict[str, float | None]:
        """Return the values whose means over some steps are logged."""
        names = ("critic", "style", "refiner", "change")
        return {name: getattr(self, name) for name in names}

    def latest(self) -> Json:
        """Return the values that are logged as they are."""
        return {"skill": self.skill}


@dataclass(frozen=True)
class AgainstTask:
    """A task loss, such as the segmenter's, that the refiner tries to raise."""

    loss: Callable[[Tensor], Tensor]  # maps repainted crops, sRGB 0..1, to losses (B,)
    ratio: float
    """Norm of the task's gradient divided by that of the realism loss, both taken with respect to
    the change of optical density."""
    cap: float  # upper limit of a crop's task loss; crops above it add no gradient

    def weighted(self, repainted: Tensor, change: Tensor, realism: Tensor) -> Tensor:
        """Return the mean capped task loss, scaled so that its gradient has the set ``ratio``."""
        hard = self.loss(repainted).clamp(max=self.cap).mean()
        grad = torch.autograd.grad
        lengths = [grad(each, change, retain_graph=True)[0].norm() for each in (realism, hard)]
        weighted: Tensor = self.ratio * lengths[0] / lengths[1].clamp(min=1e-12) * hard
        return weighted


def train_adversarial(
    training: AdversarialTraining,
    sampler: Sampler,
    schedule: AdversarialSchedule,
    progress: Callable[[int], float],
    dtype: torch.dtype,
    rank: int = 0,
    mean: Callable[[float], float] = float,
) -> Iterator[StepReport]:
    """Train until the progress is 1; the caller may stop iterating after any report.

    Parameters
    ----------
    training : AdversarialTraining
        Changed in place.
    sampler : Sampler
        Draws the batches.
    schedule : AdversarialSchedule
        Rates, warm-up, batch size and seed.
    progress : callable
        Maps the number of steps done to the share of the training that is done.
    dtype : torch.dtype
        Number format of the convolutions; losses are float32.
    rank : int
        Number of the process. Each process draws its own batches by it.
    mean : callable
        Averages a number over all processes, which so agree on whether the refiner is updated.

    Yields
    ------
    StepReport
        One for each step.
    """
    device = next(training.networks.refiner.parameters()).device
    while (done := progress(training.step)) < 1:
        training.set_rates(schedule.rates(done))
        rng = rng_for(schedule.seed, f"refine {rank}" if rank else "refine", training.step)
        batch = sampler.draw(schedule.batch, rng, device)
        may_move = done >= schedule.warm_up
        yield adversarial_step(training, batch, schedule, rng, dtype, mean, may_move=may_move)


def adversarial_step(
    training: AdversarialTraining,
    batch: CropBatch,
    schedule: AdversarialSchedule,
    rng: np.random.Generator,
    dtype: torch.dtype,
    mean: Callable[[float], float],
    *,
    may_move: bool,
    against: AgainstTask | None = None,
) -> StepReport:
    """Take one step of refiner and critics.

    Parameters
    ----------
    training, schedule, dtype, mean
        As for :func:`train_adversarial`.
    rng : numpy.random.Generator
        Chooses which crops the history keeps and returns.
    may_move : bool
        Update the refiner if the critic is proven and its running skill is high enough.
    against : AgainstTask, optional
        Task whose loss an updated refiner also raises (Hou et al. 2019).
    """
    precision = autocast(batch.density.device, dtype)
    moving = may_move and training.proven and training.skill >= schedule.least_skill
    # DistributedDataParallel expects a backward pass after each forward pass
    refiner = training.wrapped["refiner"] if moving else training.networks.refiner
    with torch.set_grad_enabled(moving), precision:
        change = batch.change_by(refiner)
    repainted = batch.repainted(change)
    size = mean_within(change.detach().abs().mean(dim=1, keepdim=True), batch.nuclei)
    taken: float | None = None
    if moving:
        taken = _move_refiner(training, batch, change, repainted, schedule, precision, against)
    repainted = repainted.detach()
    critic, right = _teach_critic(training, batch, repainted, rng, precision)
    style = _teach_style(training, batch, repainted, precision)
    # a running mean over about the last 20 steps
    training.skill = 0.95 * training.skill + (1 - 0.95) * mean(right)
    training.step += 1
    return StepReport(training.step, critic, style, taken, float(size.cpu()), training.skill)


def _move_refiner(
    training: AdversarialTraining,
    batch: CropBatch,
    change: Tensor,
    repainted: Tensor,
    schedule: AdversarialSchedule,
    precision: torch.autocast,
    against: AgainstTask | None,
) -> float:
    """Update the refiner and its averaged copy; returns the realism part of its loss."""
    networks, reference = training.networks, batch.reference
    # batch norm with running statistics, since this batch, unlike the critic's, has no real crops
    networks.realism.eval()
    size = len(repainted)
    with precision:
        seen = networks.realism.features(repainted)
        logits = networks.realism.head(seen[-1])[:, 0]
        like_reference = networks.style(
            torch.cat([repainted, reference.pixels]),
            torch.cat([batch.nuclei, reference.nuclei]),
            pairs_of(size, 0, size, repainted.device),
        )
    taken = not_taken_for_real(logits, batch.region[:, 0])
    if schedule.objective == "matching":
        with torch.no_grad(), precision:
            wanted = networks.realism.features(reference.pixels)
        taken = feature_distance(seen, wanted, batch.region, reference.region)
    held = batch.nuclei if schedule.edits == "nuclei" else torch.ones_like(batch.nuclei)
    loss = (
        taken
        + schedule.style_weight * functional.softplus(-like_reference.float()).mean()
        + schedule.identity_weight * tone_change(change, held)
    )
    if against is not None:
        loss = loss - against.weighted(repainted, change, taken)
    _descend(training.optimizers["refiner"], loss, clip=networks.refiner)
    training.moves += 1
    training.average(schedule.averaging)
    return float(taken.detach().cpu())


def _teach_critic(
    training: AdversarialTraining,
    batch: CropBatch,
    repainted: Tensor,
    rng: np.random.Generator,
    precision: torch.autocast,
) -> tuple[float, float]:
    """Update the realism critic; returns its loss and its share of right pixels before that."""
    training.networks.realism.train()
    shown, region = training.history.exchange(repainted, batch.region, rng)
    with precision:  # one batch for real and repainted: batch statistics must not tell them apart
        logits = training.wrapped["realism"](torch.cat([batch.real.pixels, shown]))
    regions = torch.cat([batch.real.region, region])[:, 0]
    found = critic_loss(logits, regions, len(batch.real.pixels))
    _descend(training.optimizers["realism"], found.loss)
    return float(found.loss.detach().cpu()), found.right


def _teach_style(
    training: AdversarialTraining, batch: CropBatch, repainted: Tensor, precision: torch.autocast
) -> float:
    """Update the style critic; returns its loss."""
    size, device = len(repainted), repainted.device
    real, partner, reference = batch.real, batch.partner, batch.reference
    pixels = torch.cat([real.pixels, partner.pixels, repainted, reference.pixels])
    nuclei = torch.cat([real.nuclei, partner.nuclei, batch.nuclei, reference.nuclei])
    # two real crops of one image, two of different images, a repainted crop and its reference
    pairs = [
        pairs_of(size, 0, size, device),
        pairs_of(size, 0, size, device, turn=1),
        pairs_of(size, 2 * size, 3 * size, device),
    ]
    with precision:
        logits = training.wrapped["style"](pixels, nuclei, torch.cat(pairs)).float()
    loss = style_loss(*logits.chunk(3))
    _descend(training.optimizers["style"], loss)
    return float(loss.detach().cpu())


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: nn.Module | None = None) -> None:
    """Take an optimiser step; the norm of the gradients of ``clip`` is limited to 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
    optimizer.step()
