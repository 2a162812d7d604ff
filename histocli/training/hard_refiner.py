"""Hard examples by a refiner that goes on learning, now also against the segmenter (Hou et al.
2019).

Every few steps of the segmenter the refiner and its critics take one of their own. The refiner
minimises its own objective minus a weighted loss of the segmenter. The weight makes the segmenter's
gradient, on what the refiner changes, a fixed share of realism's; it grows after a warm-up, and the
loss of a crop counts up to a cap. What the refiner paints goes into a pool that batches of the
segmenter draw from. Only appearance changes, and only where the gate lets it, so that labels stay
true.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from histocli.base.device import autocast
from histocli.instances.components import label_components
from histocli.instances.targets import contacts, normalised_distance
from histocli.model.segmenter import Segmenter
from histocli.training.adversarial.networks import AdversarialTraining
from histocli.training.adversarial.sampling import CropBatch, Sampler
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.adversarial.step import AgainstTask, adversarial_step
from histocli.training.augmentation import Augmentation, vary_appearance
from histocli.training.hard_examples import Hardness, crop_losses, measure_hardness
from histocli.training.sampling import Batch

POOL = 64  # hard crops that batches are drawn from; the oldest make room
PLANES = 4  # targets of a crop: depth, valid, contact, nucleus


class TargetSampler(Sampler):
    """Draws what the refiner's training needs, and the segmenter's targets of the same crops."""

    def _initial_planes(self, patch: int) -> npt.NDArray[np.uint8]:
        labels = self.initial.labels[patch]
        return np.dstack(
            [
                super()._initial_planes(patch),
                normalised_distance(labels),
                (labels >= 0).astype(np.uint8),
                contacts(labels, self.mpp).astype(np.uint8),
                (labels > 0).astype(np.uint8),
            ]
        )


def batch_of(crops: CropBatch, pixels: Tensor) -> Batch:
    """Return crops with the targets that were cut with them."""
    assert crops.targets is not None
    return _batch(pixels, crops.targets)


def _batch(pixels: Tensor, targets: Tensor) -> Batch:
    ones = torch.ones(len(pixels), device=pixels.device)
    return Batch(
        pixels=pixels,
        nucleus=targets[:, 3],
        distance=targets[:, 0] / 255 * targets[:, 3],
        valid=targets[:, 1],
        weight=ones,
        borders=ones,
        contact=targets[:, 2],
    )


class RefinerAscent:
    """Makes hard examples by a refiner that learns along.

    Parameters
    ----------
    training : AdversarialTraining
        Refiner and critics as refinement left them; changed in place.
    sampler : TargetSampler
    schedule : AdversarialSchedule
        ``batch`` crops are painted at a time.
    learns_contacts : bool
    share : float
        Of the crops of a batch that are hard.
    every : int
        Steps of the segmenter to one of the refiner.
    ratio : float
        Length of the segmenter's gradient against that of realism's.
    cap : float
        Of the loss of a crop.
    warm_up : float
        Share of the training before the first hard example; from then on the ratio grows as long
        again.
    """

    def __init__(
        self,
        training: AdversarialTraining,
        sampler: TargetSampler,
        schedule: AdversarialSchedule,
        *,
        learns_contacts: bool,
        share: float = 0.25,
        every: int = 4,
        ratio: float = 0.1,
        cap: float = 2.0,
        warm_up: float = 0.2,
    ) -> None:
        self.training = training
        self.sampler = sampler
        self.schedule = schedule
        self.learns_contacts = learns_contacts
        self.share, self.every, self.ratio, self.cap, self.warm_up = (
            share,
            every,
            ratio,
            cap,
            warm_up,
        )
        crop = schedule.crop_px
        self.pixels = torch.zeros((POOL, 3, crop, crop), dtype=torch.uint8)
        self.targets = torch.zeros((POOL, PLANES, crop, crop), dtype=torch.uint8)
        self.calls = 0
        self.filled = 0
        """Crops that were ever put into the pool."""

    def harden(
        self,
        segmenter: Segmenter,
        batch: Batch,
        rng: np.random.Generator,
        progress: float,
        dtype: torch.dtype,
        *,
        measure: bool,
    ) -> tuple[Batch, Hardness | None]:
        """Put hard crops in the place of the first of the batch; every few calls, let the refiner
        learn and paint new ones.
        """
        if progress < self.warm_up:
            return batch, None
        hardness = None
        if self.calls % self.every == 0:
            ramp = min(1.0, (progress - self.warm_up) / self.warm_up)
            hardness = self._move(segmenter, rng, ramp, dtype, measure=measure)
        self.calls += 1
        size = max(1, round(self.share * len(batch.pixels)))
        chosen = rng.integers(min(self.filled, POOL), size=size)
        light = self.pixels[chosen].to(batch.pixels.device).float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        varied = vary_appearance(light, Augmentation(), generator) / 255
        hard = _batch(varied, self.targets[chosen].to(batch.pixels.device).float())
        return self._join(hard, batch, size), hardness

    def _join(self, hard: Batch, batch: Batch, size: int) -> Batch:
        rest = batch.part(slice(size, None))
        side_y, side_x = batch.pixels.shape[2:]

        def both(one: Tensor, other: Tensor) -> Tensor:
            return torch.cat(
                [functional.pad(one, (0, side_x - one.shape[-1], 0, side_y - one.shape[-2])), other]
            )

        # where crops of the refiner are smaller, the rest is not valid, and teaches nothing
        return Batch(
            pixels=both(hard.pixels, rest.pixels),
            nucleus=both(hard.nucleus, rest.nucleus),
            distance=both(hard.distance, rest.distance),
            valid=both(hard.valid, rest.valid),
            weight=torch.cat([hard.weight, rest.weight]),
            borders=torch.cat([hard.borders, rest.borders]),
            contact=None
            if rest.contact is None or hard.contact is None
            else both(hard.contact, rest.contact),
        )

    def _move(
        self,
        segmenter: Segmenter,
        rng: np.random.Generator,
        ramp: float,
        dtype: torch.dtype,
        *,
        measure: bool,
    ) -> Hardness | None:
        """Let the refiner and its critics take a step, and keep what the refiner painted."""
        crops = self.sampler.draw(self.schedule.batch, rng, next(segmenter.parameters()).device)
        ordinary = self._ordinary(crops)
        was_training = segmenter.training
        segmenter.eval()
        for parameter in segmenter.parameters():
            parameter.requires_grad_(False)
        try:
            against = AgainstTask(
                lambda repainted: crop_losses(segmenter, repainted, ordinary, dtype),
                ramp * self.ratio,
                self.cap,
            )
            adversarial_step(
                self.training,
                crops,
                self.schedule,
                rng,
                dtype,
                float,
                may_move=True,
                against=against,
            )
        finally:
            for parameter in segmenter.parameters():
                parameter.requires_grad_(True)
            segmenter.train(was_training)
        hard = self._paint(crops, dtype)
        assert crops.targets is not None
        for pixels, targets in zip(hard, crops.targets, strict=True):
            place = self.filled % POOL
            self.pixels[place] = (pixels * 255).round().to(torch.uint8).cpu()
            self.targets[place] = targets.to(torch.uint8).cpu()
            self.filled += 1
        return measure_hardness(segmenter, ordinary, hard, dtype) if measure else None

    def _ordinary(self, crops: CropBatch) -> Batch:
        ordinary = batch_of(crops, crops.repainted(0.0))
        return ordinary if self.learns_contacts else replace(ordinary, contact=None)

    @torch.no_grad()
    def _paint(self, crops: CropBatch, dtype: torch.dtype) -> Tensor:
        """Return the crops as the refiner paints them now, sRGB 0..1."""
        with autocast(crops.density.device, dtype):
            change = crops.change_by(self.training.networks.refiner)
        return crops.repainted(change)

    def examples(
        self,
        segmenter: Segmenter,
        batch: Batch,
        labels: npt.NDArray[np.int32],
        rng: np.random.Generator,
        dtype: torch.dtype,
    ) -> tuple[Batch, Tensor, npt.NDArray[np.int32]]:
        """Return crops of initial patches, the same as the refiner paints them now, and their
        labels.
        """
        crops = self.sampler.draw(len(batch.pixels), rng, batch.pixels.device)
        nucleus = batch_of(crops, crops.reference.pixels).nucleus.cpu().numpy() > 0
        valid = batch_of(crops, crops.reference.pixels).valid.cpu().numpy() > 0
        # touching nuclei of a crop count as one here: both sides of the comparison are judged by
        # the same labels
        truths = np.stack([np.where(mask, label_components(mask), 0) for mask in nucleus])
        return (
            self._ordinary(crops),
            self._paint(crops, dtype),
            np.where(valid, truths, -1).astype(np.int32),
        )

    def state(self) -> dict[str, Any]:
        """Return networks, optimisers, history and pool."""
        return {
            "adversarial": self.training.state(),
            "pixels": self.pixels,
            "targets": self.targets,
            "calls": self.calls,
            "filled": self.filled,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.training.restore(state["adversarial"])
        self.pixels.copy_(state["pixels"])
        self.targets.copy_(state["targets"])
        self.calls, self.filled = int(state["calls"]), int(state["filled"])
