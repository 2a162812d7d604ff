"""Hard examples: crops changed during the training so that the segmenter's loss on them is larger.

Hou et al. (2019) let the refiner of a GAN also work against the segmenter (``hard_refiner``). This
file has the common class and a method without a GAN: an
:class:`~histocli.training.appearance.AppearanceModel` renders a crop from seven numbers, and steps
along the sign of the gradient (Goodfellow et al. 2015; Madry et al. 2018) change these numbers.
They stay within the variation of the references, and labels stay true since no pixel is displaced.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from histocli.base.device import autocast
from histocli.base.types import InstanceLabels, Json
from histocli.model.segmenter import Segmenter
from histocli.optics.density import light_to_optical_density
from histocli.training.appearance import NUMBERS, AppearanceBounds, AppearanceModel
from histocli.training.loop import Extra, Moment
from histocli.training.losses import segmentation_losses
from histocli.training.sampling import Batch


@dataclass(frozen=True)
class Hardness:
    """Losses of the segmenter on crops before and after they were made hard."""

    before: float  # mean loss of the ordinary crops
    after: float  # mean loss of the hard crops
    change: float  # mean absolute change of optical density


@dataclass(frozen=True)
class HardPairs:
    """Crops in an ordinary and in a hard version."""

    ordinary: Batch
    hard: Tensor  # pixels of the hard version, (B, 3, H, W) float32, sRGB 0..1
    labels: InstanceLabels  # (B, H, W), the same for both versions


class Hardening(Extra, ABC):
    """Makes a ``share`` of the crops of each batch harder, after a warm-up of the segmenter.

    ``warm_up`` is the share of the phase before the first hard example; hardness then rises to its
    full value during a second such share.
    """

    name = "hard"

    def __init__(self, share: float = 0.25, warm_up: float = 0.2) -> None:
        self.share = share
        self.warm_up = warm_up
        self.hardness: Hardness | None = None  # the last measurement; None before the first

    def harden(self, segmenter: Segmenter, batch: Batch, moment: Moment) -> Batch:
        """Replace the first crops of the batch by hard ones."""
        if moment.progress < self.warm_up:
            return batch
        size = max(1, round(self.share * len(batch.pixels)))
        ramp = min(1.0, (moment.progress - self.warm_up) / self.warm_up)
        return self._harden(segmenter, batch, size, ramp, moment)

    @abstractmethod
    def _harden(
        self, segmenter: Segmenter, batch: Batch, size: int, ramp: float, moment: Moment
    ) -> Batch:
        """Return a batch whose first ``size`` crops are hard; a ``ramp`` of 1 is full hardness."""

    @abstractmethod
    def examples(
        self, segmenter: Segmenter, batch: Batch, labels: InstanceLabels, moment: Moment
    ) -> HardPairs:
        """Return the given crops, or other ones like these, with versions of full hardness."""

    def latest(self) -> Json:
        """Return the last measured hardness, for the log."""
        return {} if self.hardness is None else {"hard": asdict(self.hardness)}


def ascend(
    segmenter: Segmenter,
    batch: Batch,
    model: AppearanceModel,
    start: Tensor,
    steps: int,
    pace: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return numbers of an appearance model for which the segmenter's loss is larger.

    Parameters
    ----------
    segmenter : Segmenter
        Its weights and statistics stay unchanged.
    start : Tensor of float32, shape (B, 7)
        Numbers to start from, in -1..1.
    steps : int
        Number of steps.
    pace : float
        Change of every number in a step.
    dtype : torch.dtype
        Number format of the convolutions.

    Returns
    -------
    Tensor of float32, shape (B, 7)
        In -1..1.
    """
    unit = start
    was_training = segmenter.training
    segmenter.eval()  # with batch statistics, crops would depend on each other
    try:
        for _ in range(steps):
            unit = unit.detach().requires_grad_()
            loss = crop_losses(segmenter, model.render(unit), batch, dtype).sum()
            (slope,) = torch.autograd.grad(loss, unit)
            unit = (unit.detach() + pace * slope.sign()).clamp(-1, 1)
    finally:
        segmenter.train(was_training)
    return unit.detach()


def crop_losses(segmenter: Segmenter, pixels: Tensor, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Return the loss of every crop, shape (B,)."""
    with autocast(pixels.device, dtype):
        logits = segmenter(pixels.contiguous(memory_format=torch.channels_last))
    return segmentation_losses(
        logits, batch.nucleus, batch.distance, batch.valid, batch.borders, batch.contact
    )


@torch.no_grad()
def measure_hardness(
    segmenter: Segmenter, ordinary: Batch, hard: Tensor, dtype: torch.dtype
) -> Hardness:
    """Compare ordinary crops with their hard pixels (sRGB 0..1); the segmenter is in eval mode."""
    was_training = segmenter.training
    segmenter.eval()
    before, after = (
        float(crop_losses(segmenter, pixels, ordinary, dtype).mean())
        for pixels in (ordinary.pixels, hard)
    )
    segmenter.train(was_training)
    change = light_to_optical_density(hard * 255) - light_to_optical_density(ordinary.pixels * 255)
    return Hardness(before, after, float(change.abs().mean()))


class AppearanceAscent(Hardening):
    """Hard examples without a GAN: gradient steps on appearance from a random start.

    ``steps`` holds the fewest and the most steps; their number is drawn for each batch. ``pace`` is
    the length of a step; 1 is the distance from an unchanged crop to a bound.
    """

    def __init__(
        self,
        bounds: AppearanceBounds,
        *,
        share: float = 0.25,
        warm_up: float = 0.2,
        steps: tuple[int, int] = (1, 2),
        pace: float = 0.4,
    ) -> None:
        super().__init__(share, warm_up)
        self.bounds, self.steps, self.pace = bounds, steps, pace

    def _harden(
        self, segmenter: Segmenter, batch: Batch, size: int, ramp: float, moment: Moment
    ) -> Batch:
        part = batch.part(slice(0, size))
        hard = self._hardest(segmenter, part, ramp, moment)
        if moment.measure:
            self.hardness = measure_hardness(segmenter, part, hard, moment.dtype)
        return replace(batch, pixels=torch.cat([hard, batch.pixels[size:]]))

    def _hardest(self, segmenter: Segmenter, batch: Batch, ramp: float, moment: Moment) -> Tensor:
        """Return the pixels of the crops' hard versions, sRGB 0..1."""
        rng = moment.rng
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        device = batch.pixels.device
        noise = torch.randn(batch.pixels.shape, generator=generator).to(device)
        start = (torch.rand((len(batch.pixels), NUMBERS), generator=generator) - 0.5).to(device)
        steps = int(rng.integers(self.steps[0], self.steps[1] + 1))
        model = AppearanceModel(batch.pixels, batch.nucleus, batch.distance, noise, self.bounds)
        unit = ramp * ascend(segmenter, batch, model, start, steps, self.pace, moment.dtype)
        with torch.no_grad():
            return model.render(unit)

    def examples(
        self, segmenter: Segmenter, batch: Batch, labels: InstanceLabels, moment: Moment
    ) -> HardPairs:
        """Return the given crops with versions of full hardness."""
        return HardPairs(batch, self._hardest(segmenter, batch, 1.0, moment), labels)
