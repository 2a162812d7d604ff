"""Hard examples made while the segmenter learns: crops whose appearance is moved to where its loss
is larger.

Hou et al. (2019) let the refiner of a GAN also work against the segmenter. Appearance can be moved
without a GAN as well: how much hematoxylin and eosin, what colour hematoxylin has, how far nuclei
stand out, how pale they are inside, focus and noise are a few numbers a crop. The picture is
differentiable in them, and some steps along the sign of the gradient (Goodfellow et al. 2015; Madry
et al. 2018) make it harder. Nothing moves, so that labels stay true, and the numbers are bounded by
what references show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from histocli.model.segmenter import Segmenter
from histocli.optics.blur import blur_each
from histocli.optics.density import light_to_optical_density, optical_density_to_light
from histocli.optics.stains import TYPICAL_STAINS
from histocli.training.losses import segmentation_losses
from histocli.training.sampling import Batch

SURROUNDINGS_PX = 33  # side of the mean that tells what lies around a nucleus
DEEP = 0.5  # normalised depth from which a pixel is inside rather than rim


class Hardening(Protocol):
    """Makes a part of a batch harder."""

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
        """Return the batch with hard crops in it, and how hard they are; None where none were made
        or nothing is measured.
        """
        ...

    def examples(
        self,
        segmenter: Segmenter,
        batch: Batch,
        labels: npt.NDArray[np.int32],
        rng: np.random.Generator,
        dtype: torch.dtype,
    ) -> tuple[Batch, Tensor, npt.NDArray[np.int32]]:
        """Return ordinary crops, those given or others like them, the same as hard as they get, and
        their labels.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        ...


@dataclass(frozen=True)
class Hardness:
    """What hardening did to the crops of a batch."""

    before: float
    """Mean loss of the crops as they were."""
    after: float
    """Mean loss of the same crops, hard."""
    change: float
    """Mean absolute change of optical density."""


@dataclass(frozen=True, kw_only=True)
class AppearanceBounds:
    """How far appearance may be moved, in either direction."""

    hematoxylin: tuple[float, float] = (-0.4, 0.4)
    """Logarithm of the factor of the hematoxylin."""
    eosin: tuple[float, float] = (-0.4, 0.4)
    tilt: tuple[float, float] = (-0.2, 0.2)
    """Of hematoxylin's colour towards eosin's, as a share of the way."""
    contrast: tuple[float, float] = (-0.6, 0.4)
    """Added to 1: factor of what nuclei absorb more than their surroundings."""
    interior: tuple[float, float] = (-0.5, 0.3)
    """The same for the interior of nuclei alone: below 0 they are vesicular."""
    blur: tuple[float, float] = (-0.5, 1.0)
    """Share of the way to a blurred picture; below 0 sharpened."""
    noise: tuple[float, float] = (0.0, 0.03)
    """Standard deviation relative to white."""

    def edges(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper edges, shape (7,)."""
        pairs = (
            self.hematoxylin,
            self.eosin,
            self.tilt,
            self.contrast,
            self.interior,
            self.blur,
            self.noise,
        )
        low, high = zip(*pairs, strict=True)
        return torch.tensor(low, device=device), torch.tensor(high, device=device)


NUMBERS = 7


class AppearanceModel:
    """Pictures of crops as a function of a few numbers each.

    Parameters
    ----------
    pixels : Tensor of float32, shape (B, 3, H, W)
        sRGB, 0..1.
    nucleus, distance : Tensor of float32, shape (B, H, W)
        Targets: 1 in nuclei, and their normalised depth.
    noise : Tensor of float32, shape (B, 3, H, W)
        Standard normal.
    bounds : AppearanceBounds
    """

    def __init__(
        self,
        pixels: Tensor,
        nucleus: Tensor,
        distance: Tensor,
        noise: Tensor,
        bounds: AppearanceBounds,
    ) -> None:
        size = len(pixels)
        self.density = light_to_optical_density(pixels * 255)
        self.noise = noise
        self.low, self.high = bounds.edges(pixels.device)
        self.stains = torch.as_tensor(TYPICAL_STAINS, dtype=torch.float32, device=pixels.device)
        amounts = torch.einsum("sc,bchw->bshw", torch.linalg.pinv(self.stains).T, self.density)
        self.amounts = amounts.clamp(min=0)
        soft = torch.ones(size, device=pixels.device)
        inside = nucleus[:, None]
        self.soft = blur_each(inside, soft)
        self.deep = blur_each((distance > DEEP).float()[:, None], soft)
        outside = 1 - inside
        pad = SURROUNDINGS_PX // 2

        def mean(values: Tensor) -> Tensor:
            return functional.avg_pool2d(
                values, SURROUNDINGS_PX, stride=1, padding=pad, count_include_pad=False
            )

        around = mean(outside)
        overall = (self.density * outside).sum((2, 3), keepdim=True) / outside.sum(
            (2, 3), keepdim=True
        ).clamp(min=1)
        self.around = (mean(self.density * outside) + 0.02 * overall) / (around + 0.02)
        self.blurred_by = torch.full((size,), 1.2, device=pixels.device)

    def numbers(self, unit: Tensor) -> Tensor:
        """Map -1..1 to the bounds; 0 leaves a crop as it is. Shape (B, 7)."""
        return torch.where(unit < 0, -unit * self.low, unit * self.high)

    def density_of(self, unit: Tensor) -> Tensor:
        """Return the optical density for numbers in -1..1, without noise; differentiable."""
        hematoxylin, eosin, tilt, contrast, interior, blur, _ = (
            part[:, None, None, None] for part in self.numbers(unit).unbind(dim=1)
        )
        amount_h, amount_e = self.amounts[:, :1], self.amounts[:, 1:]
        stain_h, stain_e = self.stains[0][None, :, None, None], self.stains[1][None, :, None, None]
        density = (
            self.density
            + amount_h * stain_h * (hematoxylin.exp() - 1)
            + amount_e * stain_e * (eosin.exp() - 1)
        )
        density = density + tilt * amount_h * (stain_e - stain_h)
        density = density + (density - self.around) * (contrast * self.soft + interior * self.deep)
        return density + blur * (blur_each(density, self.blurred_by) - density)

    def render(self, unit: Tensor) -> Tensor:
        """Return the pictures, sRGB 0..1, for numbers in -1..1, shape (B, 7); differentiable."""
        light = optical_density_to_light(self.density_of(unit)) / 255
        noisy: Tensor = light + self.numbers(unit)[:, 6, None, None, None] * self.noise
        return noisy.clamp(0, 1)


def ascend(
    segmenter: Segmenter,
    batch: Batch,
    model: AppearanceModel,
    start: Tensor,
    steps: int,
    pace: float,
    dtype: torch.dtype,
) -> Tensor:
    """Move the numbers of an appearance model to where the segmenter's loss is larger.

    Parameters
    ----------
    segmenter : Segmenter
        Its weights and statistics are left alone.
    batch : Batch
        Targets.
    model : AppearanceModel
        Of the batch's pixels.
    start : Tensor of float32, shape (B, 7)
        In -1..1.
    steps : int
    pace : float
        Length of a step, in the unit of ``start``.
    dtype : torch.dtype

    Returns
    -------
    Tensor of float32, shape (B, 7)
        In -1..1.
    """
    unit = start
    was_training = segmenter.training
    segmenter.eval()  # fixed statistics: crops do not depend on each other
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
    with torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = segmenter(pixels.contiguous(memory_format=torch.channels_last))
    return segmentation_losses(
        logits, batch.nucleus, batch.distance, batch.valid, batch.borders, batch.contact
    )


@torch.no_grad()
def measure_hardness(
    segmenter: Segmenter, ordinary: Batch, hard: Tensor, dtype: torch.dtype
) -> Hardness:
    """Compare crops before and after, with the statistics of the network as they are in use.

    Parameters
    ----------
    segmenter : Segmenter
    ordinary : Batch
        Crops as they were, with their targets.
    hard : Tensor of float32, shape (B, 3, H, W)
        The same crops, sRGB 0..1.
    dtype : torch.dtype
    """
    was_training = segmenter.training
    segmenter.eval()
    before, after = (
        float(crop_losses(segmenter, pixels, ordinary, dtype).mean())
        for pixels in (ordinary.pixels, hard)
    )
    segmenter.train(was_training)
    change = light_to_optical_density(hard * 255) - light_to_optical_density(ordinary.pixels * 255)
    return Hardness(before, after, float(change.abs().mean()))


@dataclass(frozen=True)
class AppearanceAscent:
    """Hard examples without a GAN.

    A part of each batch is moved, from a random start and in a few steps, once the segmenter has
    learnt something.
    """

    bounds: AppearanceBounds
    share: float = 0.25
    """Of the crops of a batch."""
    steps: tuple[int, int] = (1, 2)
    """Fewest and most steps."""
    pace: float = 0.4
    """Length of a step; 1 is the way from an unchanged crop to a bound."""
    warm_up: float = 0.2
    """Share of the training before the first hard example; from then on the way they may go grows
    as long again."""

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
        """Move the first crops of the batch, and leave the others as they are."""
        if progress < self.warm_up:
            return batch, None
        size = max(1, round(self.share * len(batch.pixels)))
        ramp = min(1.0, (progress - self.warm_up) / self.warm_up)
        part = batch.part(slice(0, size))
        model, unit = self.hardest(segmenter, part, rng, ramp, dtype)
        with torch.no_grad():
            hard = model.render(unit)
        harder = replace(batch, pixels=torch.cat([hard, batch.pixels[size:]]))
        return harder, measure_hardness(segmenter, part, hard, dtype) if measure else None

    def hardest(
        self,
        segmenter: Segmenter,
        batch: Batch,
        rng: np.random.Generator,
        ramp: float,
        dtype: torch.dtype,
    ) -> tuple[AppearanceModel, Tensor]:
        """Return the appearance model of a batch, and the numbers that make it hard."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(batch.pixels.shape, generator=generator).to(batch.pixels.device)
        start = (torch.rand((len(batch.pixels), NUMBERS), generator=generator) - 0.5).to(
            batch.pixels.device
        )
        steps = int(rng.integers(self.steps[0], self.steps[1] + 1))
        model = AppearanceModel(batch.pixels, batch.nucleus, batch.distance, noise, self.bounds)
        return model, ramp * ascend(segmenter, batch, model, start, steps, self.pace, dtype)

    def examples(
        self,
        segmenter: Segmenter,
        batch: Batch,
        labels: npt.NDArray[np.int32],
        rng: np.random.Generator,
        dtype: torch.dtype,
    ) -> tuple[Batch, Tensor, npt.NDArray[np.int32]]:
        """Return the crops given, and the same as hard as they get."""
        model, unit = self.hardest(segmenter, batch, rng, 1.0, dtype)
        with torch.no_grad():
            return batch, model.render(unit), labels

    def state(self) -> dict[str, Any]:
        """Return nothing: each step draws from its own number."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing."""


def bounds_from_references(appearances: list[dict[str, Any]]) -> AppearanceBounds:
    """Bound appearance by what references show.

    Parameters
    ----------
    appearances : list of dict
        ``statistics.appearance`` of each reference: quantiles 5, 25, 50, 75 and 95 % of
        ``hematoxylin``, ``eosin`` and ``contrast`` of its nuclei.

    Returns
    -------
    AppearanceBounds
        Stains move as far as references differ from each other, the contrast of nuclei as far as
        nuclei of one reference do.
    """
    default = AppearanceBounds()

    def spread(name: str, fallback: tuple[float, float]) -> tuple[float, float]:
        middles = np.array(
            [each[name][2] for each in appearances if len(each.get(name) or ()) == 5], np.float64
        )
        middles = np.log(middles[middles > 0.01])
        if len(middles) < 4:
            return fallback
        low, high = np.quantile(middles, (0.1, 0.9)) - np.median(middles)
        return float(np.clip(low, -0.6, -0.1)), float(np.clip(high, 0.1, 0.6))

    quantiles = np.array(
        [each["contrast"] for each in appearances if len(each.get("contrast") or ()) == 5],
        np.float64,
    )
    quantiles = quantiles[quantiles[:, 2] > 0.02] if len(quantiles) else quantiles
    contrast = default.contrast
    if len(quantiles):
        low, high = np.median(quantiles[:, [0, 4]] / quantiles[:, 2:3], axis=0) - 1
        contrast = float(np.clip(low, -0.7, -0.1)), float(np.clip(high, 0.1, 0.6))
    return replace(
        default,
        hematoxylin=spread("hematoxylin", default.hematoxylin),
        eosin=spread("eosin", default.eosin),
        contrast=contrast,
    )
