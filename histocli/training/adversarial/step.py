"""One step of refiner and critics, and the training as a sequence of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
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
    """What one step reports."""

    step: int
    """Steps done, this one included."""
    critic: float
    """Loss of the realism critic."""
    style: float
    """Loss of the style critic."""
    refiner: float | None
    """Loss of being taken for real; None where the refiner did not move."""
    change: float
    """Mean absolute change of optical density within nuclei."""
    skill: float
    """Running share of nuclear pixels that the critic judges rightly."""

    @property
    def finite(self) -> bool:
        """False once a loss is not a number."""
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
    """A network that shall find the refiner's patches hard: the refiner raises its loss."""

    loss: Callable[[Tensor], Tensor]
    """From repainted crops, sRGB 0..1, to the loss of each, shape (B,)."""
    ratio: float
    """Length of its gradient, on the change of the crops, against that of realism's."""
    cap: float
    """Of the loss of a crop: what is harder than this is hard enough."""

    def weighted(self, repainted: Tensor, change: Tensor, realism: Tensor) -> Tensor:
        """Return the task's capped loss, weighted such that its gradient has the wanted length."""
        hard = self.loss(repainted).clamp(max=self.cap).mean()
        lengths = [
            torch.autograd.grad(each, change, retain_graph=True)[0].norm()
            for each in (realism, hard)
        ]
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
    """Train until the progress is 1.

    Parameters
    ----------
    training : AdversarialTraining
        Changed in place; stop iterating at any report and it is consistent.
    sampler : Sampler
    schedule : AdversarialSchedule
    progress : callable
        From the number of steps done to the share of the training that is behind us; 1 ends it.
    dtype : torch.dtype
        Number format of the convolutions; losses are float32.
    rank : int
        Number of this process among several, each of which draws batches of its own.
    mean : callable
        Averages a number over the processes, so that all agree on whether the refiner moves.
    """
    device = next(training.networks.refiner.parameters()).device
    while (done := progress(training.step)) < 1:
        training.set_rates(schedule.rates(done))
        rng = rng_for(schedule.seed, f"refine {rank}" if rank else "refine", training.step)
        batch = sampler.draw(schedule.batch, rng, device)
        yield adversarial_step(
            training, batch, schedule, rng, dtype, mean, may_move=done >= schedule.warm_up
        )


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
    """Take one step of refiner and critics, as ``train_adversarial`` does.

    Parameters
    ----------
    rng : numpy.random.Generator
        Chooses which crops the history keeps and returns.
    may_move : bool
        Whether the refiner learns, if the critic is good enough.
    against : AgainstTask, optional
        What the refiner also works against (Hou et al. 2019).
    """
    precision = autocast(batch.density.device, dtype)
    moving = may_move and training.proven and training.skill >= schedule.least_skill
    # a wrapper that averages gradients expects that there are some
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
    """Let the refiner learn; returns its loss of being taken for real."""
    networks, reference = training.networks, batch.reference
    # statistics stay fixed: the critic learnt with those of real and repainted crops together
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
    """Return the critic's loss, and the share of pixels it judged rightly before it learnt."""
    training.networks.realism.train()
    shown, region = training.history.exchange(repainted, batch.region, rng)
    with precision:  # both kinds in one batch, so that its statistics do not give them away
        logits = training.wrapped["realism"](torch.cat([batch.real.pixels, shown]))
    regions = torch.cat([batch.real.region, region])[:, 0]
    found = critic_loss(logits, regions, len(batch.real.pixels))
    _descend(training.optimizers["realism"], found.loss)
    return float(found.loss.detach().cpu()), found.right


def _teach_style(
    training: AdversarialTraining, batch: CropBatch, repainted: Tensor, precision: torch.autocast
) -> float:
    """Let the style critic learn; returns its loss."""
    size, device = len(repainted), repainted.device
    real, partner, reference = batch.real, batch.partner, batch.reference
    pixels = torch.cat([real.pixels, partner.pixels, repainted, reference.pixels])
    nuclei = torch.cat([real.nuclei, partner.nuclei, batch.nuclei, reference.nuclei])
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


def _descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, clip: torch.nn.Module | None = None
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
    optimizer.step()
