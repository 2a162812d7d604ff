"""The adversarial training of the refiner, on two unpaired sets: initial patches and real reference
patches.

The critic proves itself first and the refiner moves only while the critic is right often enough.
The critic looks at nuclei only and at their texture only (``model.discriminator``); the refiner may
change texture freely and tone at a price.

All losses are means over what they judge, so that their weights compare:

- critic: cross-entropy per pixel, real nuclei against repainted ones, half of them from the history;
- style critic: cross-entropy per pair; two crops of one image against crops of two images, and against repainted crops;
- refiner: cross-entropy of being taken for real, ``Weights.style`` times that of the style critic, and ``Weights.identity``
  times the mean change of optical density within nuclei, after smoothing: texture is free, tone is
  not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.base.rng import rng_for
from histocli.model.discriminator import RealismCritic, StyleCritic, texture_of
from histocli.model.refiner import Refiner
from histocli.optics.density import light_to_optical_density, optical_density_to_light
from histocli.training.two_sample import area_under_curve

RING_UM = 1.0  # around a nucleus: its blurred edge, where painting shows first
SOFT_UM = 0.3  # standard deviation of the gate's edge
TONE_PX = 9  # changes that survive a mean over this side are tone, finer ones texture
SKILL_MEMORY = 0.95  # of the running skill of the critic
FAKE_FROM_HISTORY = 0.5
LEAST_UNIT = 0.5  # of the mean spread of a layer's channels, added to that of each


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the refiner's losses against that of being taken for real."""

    style: float = 0.2
    identity: float = 3.0


@dataclass(frozen=True, kw_only=True)
class AdversarialSchedule:
    """How the refiner is trained."""

    batch: int = 8
    crop_px: int = 128
    warm_up: float = 0.17
    """Share of the training in which the critics learn alone, whether steps or seconds count."""
    refiner_rate: float = 3e-4
    critic_rate: float = 1e-3
    later_critic_rate: float = 2e-4
    """Once the refiner moves: a critic that learns faster than the refiner only tells it that it is
    wrong."""
    least_skill: float = 0.6
    """Share of nuclear pixels that the critic must judge rightly for the refiner to move."""
    averaging: float = 0.99
    """How much of the averaged weights stays in each step."""
    history: int = 512
    """Repainted crops that are kept to remind the critic."""
    weights: Weights = field(default_factory=Weights)
    edits: str = "nuclei"
    """Where the refiner may change a patch, and where realism is judged: ``nuclei`` or the whole
    ``patch``."""
    objective: str = "fooling"
    """What the refiner is after: ``fooling`` the critic, or ``matching`` what the critic sees in
    the reference's nuclei."""
    seed: int = 0


@dataclass(frozen=True)
class RealPatches:
    """Patches of reference images, glass made white."""

    images: npt.NDArray[np.uint8]
    """(m, H, W, 3)."""
    nuclei: npt.NDArray[np.bool_]
    """(m, H, W), rough."""
    image_of: npt.NDArray[np.int64]
    """(m,), which reference each shows; patches of one reference do not overlap."""


@dataclass(frozen=True)
class InitialPatches:
    """Synthetic patches before refinement, glass made white."""

    images: npt.NDArray[np.uint8]
    """(n, H, W, 3)."""
    labels: npt.NDArray[np.int32]
    """(n, H, W)."""
    style_of: npt.NDArray[np.int64]
    """(n,), which reference each is refined towards, in the numbering of
    ``RealPatches.image_of``."""


@dataclass
class Networks:
    """The networks of refinement, and the refiner with averaged weights, which is the one that is
    used.
    """

    refiner: Refiner
    realism: RealismCritic
    style: StyleCritic
    averaged: Refiner

    @classmethod
    def fresh(cls, refiner: Refiner, seed: int) -> Networks:
        """Return fresh critics for a refiner."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(refiner, RealismCritic(), StyleCritic(), copy.deepcopy(refiner))

    def items(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        return {
            "refiner": self.refiner,
            "realism": self.realism,
            "style": self.style,
            "averaged": self.averaged,
        }

    def to(self, device: torch.device) -> Networks:
        """Move all networks to a device."""
        for network in self.items().values():
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self


@dataclass(frozen=True)
class StepReport:
    """What one step reports."""

    step: int
    """Steps done, this one included."""
    critic: float
    """Loss of the critic."""
    style: float
    refiner: float | None
    """Loss of being taken for real; None where the refiner did not move."""
    change: float
    """Mean absolute change of optical density within nuclei."""
    skill: float
    """Running share of nuclear pixels that the critic judges rightly."""

    @property
    def finite(self) -> bool:
        """False once a loss is not a number."""
        return all(
            np.isfinite(value)
            for value in (self.critic, self.style, self.refiner or 0.0, self.change)
        )


@dataclass
class AdversarialTraining:
    """Networks, their optimisers, the history, and how far the training is."""

    networks: Networks
    wrapped: dict[str, Callable[..., Tensor]]
    """The same networks as they are called when they learn: with several processes, each in a
    wrapper that averages gradients."""
    optimizers: dict[str, torch.optim.Optimizer]
    history: History
    step: int = 0
    moves: int = 0
    """Steps in which the refiner moved."""
    skill: float = 0.5
    pace: float = 1.0
    """Factor of the refiner's learning rate; lowered where the training ran away."""
    proven: bool = True
    """Whether the critic is worth listening to; who trains says when it is."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {
            "networks": {
                name: network.state_dict() for name, network in self.networks.items().items()
            },
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
            "history": {
                "pixels": self.history.pixels,
                "regions": self.history.regions,
                "filled": self.history.filled,
            },
            "step": self.step,
            "moves": self.moves,
            "skill": self.skill,
            "proven": self.proven,
            "pace": self.pace,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        for name, network in self.networks.items().items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.history.pixels.copy_(state["history"]["pixels"])
        self.history.regions.copy_(state["history"]["regions"])
        self.history.filled = int(state["history"]["filled"])
        self.step, self.moves = int(state["step"]), int(state["moves"])
        self.skill, self.pace = float(state["skill"]), float(state["pace"])
        self.proven = bool(state["proven"])


class History:
    """Repainted crops of earlier steps, uint8, at most ``size`` (Shrivastava et al. 2017)."""

    def __init__(self, size: int, crop_px: int) -> None:
        self.pixels = torch.zeros((size, 3, crop_px, crop_px), dtype=torch.uint8)
        self.regions = torch.zeros((size, 1, crop_px // 2, crop_px // 2), dtype=torch.bool)
        self.filled = 0

    def exchange(
        self, pixels: Tensor, regions: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Put crops in, and return as many: half of them earlier ones once the history is full
        enough.
        """
        size = len(self.pixels)
        out_pixels, out_regions = pixels.clone(), regions.clone()
        for index in range(len(pixels)):
            new = (pixels[index] * 255).round().to(torch.uint8).cpu(), regions[index].cpu()
            if self.filled < size:
                self.pixels[self.filled], self.regions[self.filled] = new
                self.filled += 1
            elif rng.random() < FAKE_FROM_HISTORY:
                place = int(rng.integers(size))
                out_pixels[index] = self.pixels[place].to(pixels.device).float() / 255
                out_regions[index] = self.regions[place].to(pixels.device)
                self.pixels[place], self.regions[place] = new
        return out_pixels, out_regions


def start_adversarial(
    networks: Networks,
    schedule: AdversarialSchedule,
    wrap: Callable[[nn.Module], Callable[..., Tensor]] = lambda network: network,
) -> AdversarialTraining:
    """Give the networks their optimisers, and each that learns its wrapper."""
    betas = (0.5, 0.99)
    optimizers: dict[str, torch.optim.Optimizer] = {
        "refiner": torch.optim.Adam(
            networks.refiner.parameters(), lr=schedule.refiner_rate, betas=betas
        ),
        "realism": torch.optim.AdamW(
            networks.realism.parameters(), lr=schedule.critic_rate, betas=betas, weight_decay=1e-3
        ),
        "style": torch.optim.AdamW(
            networks.style.parameters(), lr=schedule.critic_rate, betas=betas, weight_decay=1e-3
        ),
    }
    wrapped = {
        name: wrap(network) for name, network in networks.items().items() if name != "averaged"
    }
    return AdversarialTraining(
        networks, wrapped, optimizers, History(schedule.history, schedule.crop_px)
    )


@dataclass(frozen=True)
class Pairing:
    """What one step sees: initial crops, real crops of two kinds, and who belongs together."""

    density: Tensor
    """(B, 3, h, w), optical density of the initial crops."""
    nuclei: Tensor
    """(B, 1, h, w), labelled."""
    gate: Tensor
    """(B, 1, h, w), 0..1."""
    region: Tensor
    """(B, 1, h/2, w/2) bool, where realism is judged."""
    noise: Tensor
    reference: Tensor
    """(B, 3, h, w), sRGB 0..1, a crop of the reference that each initial crop is refined
    towards."""
    reference_nuclei: Tensor
    reference_region: Tensor
    real: Tensor
    """(B, 3, h, w), sRGB 0..1: crops that realism is learnt from."""
    real_nuclei: Tensor
    real_region: Tensor
    partner: Tensor
    """(B, 3, h, w): another part of the same images as ``real``."""
    partner_nuclei: Tensor
    targets: Tensor | None = None
    """(B, k, h, w), whatever else the sampler cut from the initial patches."""


class Sampler:
    """Draws crops of initial and real patches, cut and turned without resampling."""

    def __init__(
        self, initial: InitialPatches, real: RealPatches, mpp: float, schedule: AdversarialSchedule
    ) -> None:
        self.initial = initial
        self.real = real
        self.mpp = mpp
        self.schedule = schedule
        self.of_image = {
            int(image): np.flatnonzero(real.image_of == image) for image in np.unique(real.image_of)
        }
        self.images = np.array(sorted(self.of_image))
        styled = np.isin(initial.style_of, self.images)
        if not styled.any():
            raise ValueError("no initial patch has a reference among the real ones")
        self.usable = np.flatnonzero(styled)

    def draw(self, size: int, rng: np.random.Generator, device: torch.device) -> Pairing:
        """Draw one batch."""
        crop = self.schedule.crop_px
        chosen = rng.choice(self.usable, size)
        painted = [self._cut(self._initial_planes(int(patch)), crop, rng) for patch in chosen]
        styles = [
            self._cut(
                self._real_planes(self._any_of(int(self.initial.style_of[patch]), rng)), crop, rng
            )
            for patch in chosen
        ]
        images = rng.choice(self.images, size, replace=len(self.images) < size)
        pairs = [self._two_parts(int(image), crop, rng) for image in images]
        noise = torch.from_numpy(rng.standard_normal((size, 1, crop, crop), np.float32)).to(device)
        stack = [
            _stack(crops, device)
            for crops in (painted, styles, [a for a, _ in pairs], [b for _, b in pairs])
        ]
        nuclei, gate = stack[0][:, 3:4], stack[0][:, 4:5] / 255
        return Pairing(
            density=light_to_optical_density(stack[0][:, :3]),
            nuclei=nuclei,
            gate=gate,
            region=judged_region((gate > 0.5).float()),
            noise=noise,
            reference=stack[1][:, :3] / 255,
            reference_nuclei=stack[1][:, 3:4],
            reference_region=judged_region(stack[1][:, 4:5]),
            real=stack[2][:, :3] / 255,
            real_nuclei=stack[2][:, 3:4],
            real_region=judged_region(stack[2][:, 4:5]),
            partner=stack[3][:, :3] / 255,
            partner_nuclei=stack[3][:, 3:4],
            targets=stack[0][:, 5:] if stack[0].shape[1] > 5 else None,
        )

    def _any_of(self, image: int, rng: np.random.Generator) -> int:
        return int(rng.choice(self.of_image[image]))

    def _initial_planes(self, patch: int) -> npt.NDArray[np.uint8]:
        nuclei = (self.initial.labels[patch] > 0).astype(np.uint8)
        gate = np.rint(
            255 * edit_gate(self.initial.labels[patch], self.mpp, self.schedule.edits)
        ).astype(np.uint8)
        return np.dstack([self.initial.images[patch], nuclei, gate])

    def _real_planes(self, patch: int) -> npt.NDArray[np.uint8]:
        nuclei = self.real.nuclei[patch]
        judged = (
            _widen(nuclei, self.mpp)
            if self.schedule.edits == "nuclei"
            else np.ones(nuclei.shape, np.uint8)
        )
        return np.dstack([self.real.images[patch], nuclei.astype(np.uint8), judged])

    def _two_parts(
        self, image: int, crop: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Cut two crops of an image that do not overlap: halves of its patches."""
        first, second = (
            self._real_planes(self._any_of(image, rng)),
            self._real_planes(self._any_of(image, rng)),
        )
        half = first.shape[1] // 2
        if rng.random() < 0.5:
            first, second = first.swapaxes(0, 1), second.swapaxes(0, 1)
        return self._cut(first[:, :half], crop, rng), self._cut(second[:, half:], crop, rng)

    @staticmethod
    def _cut(
        planes: npt.NDArray[np.uint8], crop: int, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        top, left = (int(rng.integers(side - crop + 1)) for side in planes.shape[:2])
        part = np.rot90(planes[top : top + crop, left : left + crop], int(rng.integers(4)))
        return np.asarray(part[:, ::-1] if rng.random() < 0.5 else part)


def _stack(crops: list[npt.NDArray[np.uint8]], device: torch.device) -> Tensor:
    return (
        torch.from_numpy(np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2)))
        .to(device)
        .float()
    )


def _widen(mask: npt.NDArray[np.bool_], mpp: float) -> npt.NDArray[np.uint8]:
    """Add the ring in which edges are judged."""
    radius = max(1, round(RING_UM / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disk), np.uint8)


def edit_gate(
    labels: npt.NDArray[np.int32], mpp: float, edits: str = "nuclei"
) -> npt.NDArray[np.float32]:
    """Return how far each pixel may change: nuclei and a narrow ring with a soft edge; never what
    is ignored.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
    mpp : float
        Micrometres per pixel.
    edits : str
        ``nuclei``, or the whole ``patch``: then a trace of the refiner lies on everything and gives
        no nucleus away.

    Returns
    -------
    ndarray of float32, shape (H, W)
        0..1; exactly 0 away from nuclei, or where pixels are ignored.
    """
    if edits == "patch":
        return (labels >= 0).astype(np.float32)
    gate = cv2.GaussianBlur(
        _widen(labels > 0, mpp).astype(np.float32), (0, 0), max(SOFT_UM / mpp, 0.3)
    )
    gate[labels < 0] = 0
    return np.asarray(np.where(gate > 0.02, gate, 0), np.float32)


def judged_region(mask: Tensor) -> Tensor:
    """Bring a mask (N, 1, H, W) to the half resolution of the critic, as truth values."""
    return functional.avg_pool2d(mask, 2) >= 0.5


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
        Tells from the number of steps done which share of the training is behind us; >= 1 ends it.
    dtype : torch.dtype
        Number format of the convolutions; losses are float32.
    rank : int
        Of several processes, each of which draws batches of its own.
    mean : callable
        Averages a number over the processes, so that all agree on whether the refiner moves.

    Yields
    ------
    StepReport
    """
    device = next(training.networks.refiner.parameters()).device
    while (done := progress(training.step)) < 1:
        for name, peak in (
            ("refiner", schedule.refiner_rate),
            ("realism", schedule.critic_rate),
            ("style", schedule.critic_rate),
        ):
            for group in training.optimizers[name].param_groups:
                pace = training.pace if name == "refiner" else 1.0
                # level, then down to nothing
                group["lr"] = pace * peak * min(1.0, 2.5 * (1 - done) + 0.02)
        rng = rng_for(schedule.seed, f"refine {rank}" if rank else "refine", training.step)
        batch = sampler.draw(schedule.batch, rng, device)
        yield adversarial_step(
            training, batch, schedule, rng, dtype, mean, may_move=done >= schedule.warm_up
        )


@dataclass(frozen=True)
class AgainstTask:
    """What the refiner also works against: the loss of a network that shall find its patches
    hard.
    """

    loss: Callable[[Tensor], Tensor]
    """From repainted crops, sRGB 0..1, to the loss of each, shape (B,)."""
    ratio: float
    """Length of its gradient, on the change of the crops, against that of realism's."""
    cap: float
    """Of the loss of a crop: what is harder than this is hard enough."""


def adversarial_step(
    training: AdversarialTraining,
    batch: Pairing,
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
    training : AdversarialTraining
        Changed in place.
    batch : Pairing
    schedule : AdversarialSchedule
    rng : numpy.random.Generator
        Of this step.
    dtype : torch.dtype
    mean : callable
        Averages a number over processes.
    may_move : bool
        Whether the refiner learns, if the critic is good enough.
    against : AgainstTask, optional
        What the refiner also works against (Hou et al. 2019).
    """
    networks = training.networks
    device = batch.density.device
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    moving = may_move and training.proven and training.skill >= schedule.least_skill
    reference_density = light_to_optical_density(batch.reference * 255)
    # the wrapper expects gradients
    repaint = training.wrapped["refiner"] if moving else networks.refiner
    with torch.set_grad_enabled(moving), autocast:
        change = repaint(
            batch.density,
            batch.nuclei,
            batch.noise,
            batch.gate,
            reference_density,
            batch.reference_nuclei,
        )
    repainted = optical_density_to_light(batch.density + change) / 255
    inside = batch.nuclei
    size = float(
        (
            (change.detach().abs().mean(dim=1, keepdim=True) * inside).sum()
            / inside.sum().clamp(min=1)
        ).cpu()
    )
    taken: float | None = None
    if moving:
        taken = _move_refiner(training, batch, change, repainted, schedule, autocast, against)
    critic, right = _teach_critic(training, batch, repainted.detach(), rng, autocast)
    style = _teach_style(training, batch, repainted.detach(), autocast)
    training.skill = SKILL_MEMORY * training.skill + (1 - SKILL_MEMORY) * mean(right)
    training.step += 1
    return StepReport(training.step, critic, style, taken, size, training.skill)


def _move_refiner(
    training: AdversarialTraining,
    batch: Pairing,
    change: Tensor,
    repainted: Tensor,
    schedule: AdversarialSchedule,
    autocast: torch.autocast,
    against: AgainstTask | None = None,
) -> float:
    networks = training.networks
    # fixed statistics: a batch of repainted crops alone has others than the mixed ones it learnt
    # with
    networks.realism.eval()
    size = len(repainted)
    own = torch.stack([torch.arange(size), torch.arange(size, 2 * size)], dim=1).to(
        repainted.device
    )
    with autocast:
        seen = networks.realism.features(repainted)
        logits = networks.realism.head(seen[-1])[:, 0]
        pairs = networks.style(
            torch.cat([repainted, batch.reference]),
            torch.cat([batch.nuclei, batch.reference_nuclei]),
            own,
        )
    region = batch.region[:, 0].float()
    real = functional.softplus(-logits.float())
    taken = (real * region).sum() / region.sum().clamp(min=1)
    tone = functional.avg_pool2d(change, TONE_PX, stride=1, padding=TONE_PX // 2)
    held = batch.nuclei if schedule.edits == "nuclei" else torch.ones_like(batch.nuclei)
    identity = (tone.abs().mean(dim=1, keepdim=True) * held).sum() / held.sum().clamp(min=1)
    if schedule.objective == "matching":
        with torch.no_grad(), autocast:
            wanted = networks.realism.features(batch.reference)
        taken = feature_distance(seen, wanted, batch.region, batch.reference_region)
    loss = (
        taken
        + schedule.weights.style * functional.softplus(-pairs.float()).mean()
        + schedule.weights.identity * identity
    )
    if against is not None:
        hard = against.loss(repainted).clamp(max=against.cap).mean()
        lengths = [
            torch.autograd.grad(each, change, retain_graph=True)[0].norm() for each in (taken, hard)
        ]
        loss = loss - against.ratio * lengths[0] / lengths[1].clamp(min=1e-12) * hard
    optimizer = training.optimizers["refiner"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(networks.refiner.parameters(), 1.0)
    optimizer.step()
    training.moves += 1
    keep = min(schedule.averaging, training.moves / (training.moves + 10))
    with torch.no_grad():
        for mean, value in zip(
            networks.averaged.parameters(), networks.refiner.parameters(), strict=True
        ):
            mean.lerp_(value, 1 - keep)
    return float(taken.detach().cpu())


def feature_distance(
    found: list[Tensor], wanted: list[Tensor], region: Tensor, wanted_region: Tensor
) -> Tensor:
    """Return how far means and spreads of features within two regions lie apart, in units of the
    wanted spread.

    Matching what a critic sees, rather than its verdict, cannot be won by a trace that the critic
    has not met yet (Salimans et al. 2016).

    Parameters
    ----------
    found, wanted : list of Tensor, shape (N, C, h, w)
        Features at the resolution of the regions or at a whole fraction of it.
    region, wanted_region : Tensor of bool, shape (N, 1, H, W)

    Returns
    -------
    Tensor
        Scalar; pairs in which a region is empty do not count.
    """
    counted = (region.flatten(1).any(dim=1) & wanted_region.flatten(1).any(dim=1)).float()
    total = found[0].new_zeros((), dtype=torch.float32)
    for first, second in zip(found, wanted, strict=True):
        moments = [
            _moments(features.float(), mask.float())
            for features, mask in ((first, region), (second, wanted_region))
        ]
        (mean, spread), (wanted_mean, wanted_spread) = moments
        unit = wanted_spread.mean(dim=0, keepdim=True)
        # a channel that hardly varies must not decide
        unit = unit + unit.mean() * LEAST_UNIT + 1e-3
        apart = functional.smooth_l1_loss(mean / unit, wanted_mean / unit, reduction="none").mean(
            dim=1
        )
        apart = apart + functional.smooth_l1_loss(
            spread / unit, wanted_spread / unit, reduction="none"
        ).mean(dim=1)
        total = total + (apart * counted).sum() / counted.sum().clamp(min=1)
    return total / len(found)


def _moments(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of features (N, C, h, w) within masks (N, 1, H, W), both (N, C)."""
    share = functional.adaptive_avg_pool2d(mask, (features.shape[2], features.shape[3]))
    total = share.sum(dim=(2, 3)).clamp(min=1e-3)
    mean = (features * share).sum(dim=(2, 3)) / total
    variance = ((features - mean[:, :, None, None]) ** 2 * share).sum(dim=(2, 3)) / total
    return mean, (variance + 1e-6).sqrt()


def _teach_critic(
    training: AdversarialTraining,
    batch: Pairing,
    repainted: Tensor,
    rng: np.random.Generator,
    autocast: torch.autocast,
) -> tuple[float, float]:
    """Return the critic's loss, and the share of pixels it judged rightly before it learnt."""
    training.networks.realism.train()
    shown, region = training.history.exchange(repainted, batch.region, rng)
    with autocast:  # both kinds in one batch, so that its statistics do not give them away
        logits = training.wrapped["realism"](torch.cat([batch.real, shown]))
    regions = torch.cat([batch.real_region, region])[:, 0].float()
    signs = torch.ones(len(logits), 1, 1, device=logits.device)
    signs[len(batch.real) :] = -1
    losses = functional.softplus(-signs * logits.float()) * regions
    right = (signs * logits.detach() > 0).float() * regions
    loss, correct = logits.new_zeros(()).float(), 0.0
    for part in (slice(0, len(batch.real)), slice(len(batch.real), None)):
        pixels = regions[part].sum().clamp(min=1)
        loss = loss + 0.5 * losses[part].sum() / pixels
        correct += 0.5 * float((right[part].sum() / pixels).cpu())
    _descend(training.optimizers["realism"], loss)
    return float(loss.detach().cpu()), correct


def _teach_style(
    training: AdversarialTraining, batch: Pairing, repainted: Tensor, autocast: torch.autocast
) -> float:
    size, device = len(repainted), repainted.device
    pixels = torch.cat([batch.real, batch.partner, repainted, batch.reference])
    nuclei = torch.cat(
        [batch.real_nuclei, batch.partner_nuclei, batch.nuclei, batch.reference_nuclei]
    )
    first = torch.arange(size, device=device)
    matched = torch.stack([first, first + size], dim=1)
    mismatched = torch.stack([first, first.roll(1) + size], dim=1)
    repainted_pairs = torch.stack([first + 2 * size, first + 3 * size], dim=1)
    with autocast:
        logits = training.wrapped["style"](
            pixels, nuclei, torch.cat([matched, mismatched, repainted_pairs])
        ).float()
    yes, no, fake = logits.chunk(3)
    loss = functional.softplus(-yes).mean() + 0.5 * (
        functional.softplus(no).mean() + functional.softplus(fake).mean()
    )
    _descend(training.optimizers["style"], loss)
    return float(loss.detach().cpu())


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def critic_scores(
    critic: RealismCritic, pixels: Tensor, regions: Tensor, dtype: torch.dtype
) -> npt.NDArray[np.float64]:
    """Return the mean logit within each crop's judged region; NaN where there is none."""
    critic.eval()
    autocast = torch.autocast(pixels.device.type, dtype=dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), autocast:
        logits = critic(pixels).float()
    mask = regions[:, 0].float()
    total = mask.sum(dim=(1, 2))
    mean = (logits * mask).sum(dim=(1, 2)) / total.clamp(min=1)
    return np.where(total.cpu().numpy() > 0, mean.cpu().double().numpy(), np.nan)


@dataclass(frozen=True)
class HeldOut:
    """How critics and refiner stand on images that they have not learnt from."""

    auc_initial: float
    """Of the critic: real nuclei against initial ones."""
    auc_refined: float
    style_matched: float
    """Of the style critic: matched pairs of real crops against shuffled ones, AUC."""
    diversity: float
    """How much refined crops differ from each other in texture, over how much initial ones do; near
    0 all are alike."""


def judge_held_out(
    training: AdversarialTraining,
    sampler: Sampler,
    seed: int,
    batches: int,
    size: int,
    dtype: torch.dtype,
) -> HeldOut:
    """Judge crops of held-out images; the same crops each time."""
    networks = training.networks
    device = next(networks.refiner.parameters()).device
    names = ("real", "initial", "refined", "yes", "no", "initial texture", "refined texture")
    scores: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in names}
    for number in range(batches):
        batch = sampler.draw(size, rng_for(seed, "held out", number), device)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            reference = light_to_optical_density(batch.reference * 255)
            change = networks.averaged(
                batch.density,
                batch.nuclei,
                batch.noise,
                batch.gate,
                reference,
                batch.reference_nuclei,
            )
            first = torch.arange(size, device=device)
            pairs = torch.cat(
                [
                    torch.stack([first, first + size], 1),
                    torch.stack([first, first.roll(1) + size], 1),
                ]
            )
            nuclei = torch.cat([batch.real_nuclei, batch.partner_nuclei])
            yes, no = (
                networks.style(torch.cat([batch.real, batch.partner]), nuclei, pairs)
                .float()
                .chunk(2)
            )
        for name, density in (("initial", batch.density), ("refined", batch.density + change)):
            light = optical_density_to_light(density) / 255
            scores[name].append(critic_scores(networks.realism, light, batch.region, dtype))
            scores[f"{name} texture"].append(_strength_of_texture(light, batch.gate))
        scores["real"].append(critic_scores(networks.realism, batch.real, batch.real_region, dtype))
        scores["yes"].append(yes.cpu().double().numpy())
        scores["no"].append(no.cpu().double().numpy())
    networks.realism.train()
    joined = {name: np.concatenate(parts) for name, parts in scores.items()}
    return HeldOut(
        auc_initial=area_under_curve(joined["real"], joined["initial"]),
        auc_refined=area_under_curve(joined["real"], joined["refined"]),
        style_matched=area_under_curve(joined["yes"], joined["no"]),
        diversity=float(np.std(joined["refined texture"]))
        / max(float(np.std(joined["initial texture"])), 1e-6),
    )


def _strength_of_texture(pixels: Tensor, gate: Tensor) -> npt.NDArray[np.float64]:
    """Mean size of the texture where the gate is open, for each crop."""
    strength = texture_of(pixels).abs().mean(dim=1, keepdim=True) * gate
    mean = strength.sum(dim=(1, 2, 3)) / gate.sum(dim=(1, 2, 3)).clamp(min=1)
    return np.asarray(mean.cpu().double().numpy())


def refine_patches(
    refiner: Refiner,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    references: npt.NDArray[np.uint8],
    reference_nuclei: npt.NDArray[np.bool_],
    seeds: list[np.random.Generator],
    mpp: float,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Repaint the nuclei of patches.

    Parameters
    ----------
    refiner : Refiner
    images : ndarray of uint8, shape (B, H, W, 3)
        Initial patches, glass made white; sides are multiples of 4.
    labels : ndarray of int32, shape (B, H, W)
    references : ndarray of uint8, shape (B, h, w, 3)
        A patch of the reference for each, glass made white.
    reference_nuclei : ndarray of bool, shape (B, h, w)
        Its rough nuclei.
    seeds : list of numpy.random.Generator
        One for each patch.
    mpp : float
    device : torch.device
    dtype : torch.dtype

    Returns
    -------
    images : ndarray of uint8, shape (B, H, W, 3)
        Equal to the initial patches wherever the gate is closed.
    closed : ndarray of bool, shape (B, H, W)
        Where it is.
    """
    gate = torch.from_numpy(
        np.stack([edit_gate(label, mpp, refiner.architecture.edits) for label in labels])
    )[:, None].to(device)
    noise = torch.from_numpy(
        np.stack([rng.standard_normal(labels.shape[1:], np.float32) for rng in seeds])
    )[:, None].to(device)
    nuclei = torch.from_numpy(labels > 0)[:, None].to(device).float()
    density, style = (
        light_to_optical_density(torch.from_numpy(side).to(device).permute(0, 3, 1, 2).float())
        for side in (images, references)
    )
    masks = torch.from_numpy(reference_nuclei)[:, None].to(device).float()
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        change = refiner(density, nuclei, noise, gate, style, masks)
    light = optical_density_to_light(density + change).round()
    repainted = light.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    closed = (gate == 0)[:, 0].cpu().numpy()
    return np.where(closed[..., None], images, repainted), closed
