"""Hard examples painted by a refiner, which learns on and now also raises the segmenter's loss.

As in Hou et al. (2019), the refiner and its critics take a step for every few steps of the
segmenter. The refiner minimises its own loss minus a weighted loss of the segmenter
(``AgainstTask``). The repainted crops go into a pool, from which batches of the segmenter draw.
The refiner changes colours only, and only where the gate is open (in and around nuclei, or in the
whole patch), so labels stay true.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from histocli.base.device import autocast
from histocli.base.types import InstanceLabels
from histocli.instances.components import label_components
from histocli.instances.targets import contacts, normalised_distance
from histocli.model.segmenter import Segmenter
from histocli.training.adversarial.networks import AdversarialTraining
from histocli.training.adversarial.sampling import CropBatch, Sampler
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.adversarial.step import AgainstTask, adversarial_step
from histocli.training.augmentation import Augmentation, vary_appearance
from histocli.training.hard_examples import Hardening, HardPairs, crop_losses, measure_hardness
from histocli.training.loop import Moment
from histocli.training.sampling import Batch

POOL = 64  # hard crops in the pool; new crops replace the oldest


class TargetSampler(Sampler):
    """Draws the crops of the refiner's training together with the segmenter's targets."""

    def _initial_planes(self, patch: int) -> npt.NDArray[np.uint8]:
        labels = self.initial.labels[patch]
        planes = super()._initial_planes(patch)
        masks = [labels >= 0, contacts(labels, self.mpp), labels > 0]
        targets = [normalised_distance(labels), *(mask.astype(np.uint8) for mask in masks)]
        return np.dstack([planes, *targets])


def crops_with_targets(pixels: Tensor, targets: Tensor) -> Batch:
    """Return crops (B, 3, H, W), sRGB 0..1, as a batch of the segmenter.

    ``targets`` (B, 4, H, W) are depth (0..255), valid, contact and nucleus, as
    :class:`TargetSampler` draws them.
    """
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


class CropPool:
    """The last ``POOL`` crops that the refiner painted, with their targets."""

    def __init__(self, crop_px: int) -> None:
        self.pixels = torch.zeros((POOL, 3, crop_px, crop_px), dtype=torch.uint8)
        self.targets = torch.zeros((POOL, 4, crop_px, crop_px), dtype=torch.uint8)
        self.filled = 0  # number of crops put into the pool so far; it may exceed ``POOL``

    def put(self, crops: Tensor, targets: Tensor) -> None:
        """Replace the oldest crops by the given ones, sRGB 0..1."""
        for pixels, target in zip(crops, targets, strict=True):
            place = self.filled % POOL
            self.pixels[place] = (pixels * 255).round().to(torch.uint8).cpu()
            self.targets[place] = target.to(torch.uint8).cpu()
            self.filled += 1

    def draw(self, size: int, rng: np.random.Generator, device: torch.device) -> Batch:
        """Draw crops with replacement, and vary their appearance as for ordinary crops."""
        chosen = rng.integers(min(self.filled, POOL), size=size)
        light = self.pixels[chosen].to(device).float()
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        varied = vary_appearance(light, Augmentation(), generator) / 255
        return crops_with_targets(varied, self.targets[chosen].to(device).float())


class RefinerAscent(Hardening):
    """Makes hard examples by a refiner that learns at the same time as the segmenter.

    ``training`` holds the refiner and the critics of ``histosynth refine``, and is changed in
    place. The refiner takes a step, of ``schedule.batch`` crops, for ``every`` steps of the
    segmenter. For ``ratio``, which rises from 0 after the warm-up, and ``cap`` see ``AgainstTask``.
    """

    def __init__(
        self,
        training: AdversarialTraining,
        sampler: TargetSampler,
        schedule: AdversarialSchedule,
        *,
        learns_contacts: bool,
        every: int = 4,
        ratio: float = 0.1,
        cap: float = 2.0,
    ) -> None:
        super().__init__()
        self.training = training
        self.sampler = sampler
        self.schedule = schedule
        self.learns_contacts = learns_contacts
        self.every, self.ratio, self.cap = every, ratio, cap
        self.pool = CropPool(schedule.crop_px)
        self.calls = 0

    def _harden(
        self, segmenter: Segmenter, batch: Batch, size: int, ramp: float, moment: Moment
    ) -> Batch:
        if self.calls % self.every == 0:
            self.move(segmenter, ramp, moment)
        self.calls += 1
        hard = self.pool.draw(size, moment.rng, batch.pixels.device)
        return _join(hard, batch.part(slice(size, None)))

    def move(self, segmenter: Segmenter, ramp: float, moment: Moment) -> None:
        """Take a step of the refiner and its critics, and put repainted crops into the pool."""
        schedule, rng, dtype = self.schedule, moment.rng, moment.dtype
        crops = self.sampler.draw(schedule.batch, rng, next(segmenter.parameters()).device)
        assert crops.targets is not None
        ordinary = self._ordinary(crops)
        against = AgainstTask(
            lambda repainted: crop_losses(segmenter, repainted, ordinary, dtype),
            ramp * self.ratio,
            self.cap,
        )
        with _frozen(segmenter):
            adversarial_step(
                self.training, crops, schedule, rng, dtype, float, may_move=True, against=against
            )
        hard = self._paint(crops, dtype)
        self.pool.put(hard, crops.targets)
        if moment.measure:
            self.hardness = measure_hardness(segmenter, ordinary, hard, dtype)

    def _ordinary(self, crops: CropBatch) -> Batch:
        assert crops.targets is not None
        ordinary = crops_with_targets(crops.repainted(0.0), crops.targets)
        return ordinary if self.learns_contacts else replace(ordinary, contact=None)

    @torch.no_grad()
    def _paint(self, crops: CropBatch, dtype: torch.dtype) -> Tensor:
        """Return the crops repainted by the present refiner, sRGB 0..1."""
        with autocast(crops.density.device, dtype):
            change = crops.change_by(self.training.networks.refiner)
        return crops.repainted(change)

    def examples(
        self, segmenter: Segmenter, batch: Batch, labels: InstanceLabels, moment: Moment
    ) -> HardPairs:
        """Return crops of initial patches, with versions repainted by the present refiner.

        The given batch only sets their number. In the labels, touching nuclei are one object.
        """
        crops = self.sampler.draw(len(batch.pixels), moment.rng, batch.pixels.device)
        ordinary = self._ordinary(crops)
        nucleus, valid = ((part > 0).cpu().numpy() for part in (ordinary.nucleus, ordinary.valid))
        truths = np.stack([np.where(mask, label_components(mask), 0) for mask in nucleus])
        truths = np.where(valid, truths, -1).astype(np.int32)
        return HardPairs(ordinary, self._paint(crops, moment.dtype), truths)

    def state(self) -> dict[str, Any]:
        """Return the adversarial training and the pool for a checkpoint."""
        return {
            "adversarial": self.training.state(),
            "pixels": self.pool.pixels,
            "targets": self.pool.targets,
            "calls": self.calls,
            "filled": self.pool.filled,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.training.restore(state["adversarial"])
        self.pool.pixels.copy_(state["pixels"])
        self.pool.targets.copy_(state["targets"])
        self.calls, self.pool.filled = int(state["calls"]), int(state["filled"])


def _join(hard: Batch, rest: Batch) -> Batch:
    """Join hard and other crops; smaller hard crops are padded with pixels that are ignored."""
    side_y, side_x = rest.pixels.shape[2:]

    def both(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat(
            [functional.pad(one, (0, side_x - one.shape[-1], 0, side_y - one.shape[-2])), other]
        )

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


@contextmanager
def _frozen(segmenter: Segmenter) -> Iterator[None]:
    """Put a segmenter in eval mode, without gradients of its weights, while the block runs."""
    was_training = segmenter.training
    segmenter.eval()
    for parameter in segmenter.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in segmenter.parameters():
            parameter.requires_grad_(True)
        segmenter.train(was_training)
