"""Scores of critics and refiner on held-out patches: patches that they have not learnt from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histocli.base.device import autocast
from histocli.base.rng import rng_for
from histocli.model.discriminator import RealismCritic, texture_of
from histocli.training.adversarial.losses import pairs_of
from histocli.training.adversarial.networks import AdversarialTraining, Networks
from histocli.training.adversarial.sampling import CropBatch, Sampler
from histocli.training.two_sample import area_under_curve


@dataclass(frozen=True)
class HeldOut:
    """How well critics tell held-out images apart, and how varied the refiner's nuclei are."""

    auc_initial: float  # AUC of the realism critic: real crops against initial ones
    auc_refined: float  # AUC of the realism critic: real crops against refined ones
    style_matched: float  # AUC of the style critic: real pairs of one image against pairs of two
    diversity: float
    """Standard deviation of the strength of texture over the refined crops, divided by that over
    the initial crops; near 0 all refined crops have equally strong texture."""


def judge_held_out(
    training: AdversarialTraining,
    sampler: Sampler,
    seed: int,
    batches: int,
    size: int,
    dtype: torch.dtype,
) -> HeldOut:
    """Judge crops drawn from held-out patches.

    Parameters
    ----------
    sampler : Sampler
        Draws from the held-out patches.
    seed : int
        Equal seeds draw equal crops.
    batches, size : int
        Number of batches, and number of crops of each kind in a batch.
    dtype : torch.dtype
        Number format of the convolutions.
    """
    networks = training.networks
    device = next(networks.refiner.parameters()).device
    networks.realism.eval()
    each = [
        _scores(networks, sampler.draw(size, rng_for(seed, "held out", number), device), dtype)
        for number in range(batches)
    ]
    networks.realism.train()
    scores = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    spread = float(np.std(scores["initial texture"]))
    return HeldOut(
        auc_initial=area_under_curve(scores["real"], scores["initial"]),
        auc_refined=area_under_curve(scores["real"], scores["refined"]),
        style_matched=area_under_curve(scores["matched"], scores["mismatched"]),
        diversity=float(np.std(scores["refined texture"])) / max(spread, 1e-6),
    )


def _scores(
    networks: Networks, batch: CropBatch, dtype: torch.dtype
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the critics' scores and the strength of texture of each crop, or pair, of a batch."""
    device, size = batch.density.device, len(batch.density)
    real, partner = batch.real, batch.partner
    pairs = [pairs_of(size, 0, size, device, turn) for turn in (0, 1)]
    with torch.inference_mode(), autocast(device, dtype):
        change = batch.change_by(networks.averaged)
        matched, mismatched = (
            networks.style(
                torch.cat([real.pixels, partner.pixels]),
                torch.cat([real.nuclei, partner.nuclei]),
                torch.cat(pairs),
            )
            .float()
            .chunk(2)
        )
    initial, refined = batch.repainted(0.0), batch.repainted(change)
    return {
        "real": _critic_scores(networks.realism, real.pixels, real.region, dtype),
        "initial": _critic_scores(networks.realism, initial, batch.region, dtype),
        "refined": _critic_scores(networks.realism, refined, batch.region, dtype),
        "initial texture": _strength_of_texture(initial, batch.gate),
        "refined texture": _strength_of_texture(refined, batch.gate),
        "matched": matched.cpu().double().numpy(),
        "mismatched": mismatched.cpu().double().numpy(),
    }


def _critic_scores(
    critic: RealismCritic, pixels: Tensor, regions: Tensor, dtype: torch.dtype
) -> npt.NDArray[np.float64]:
    """Return the mean logit within each crop's judged region; NaN for an empty region."""
    with torch.inference_mode(), autocast(pixels.device, dtype):
        logits = critic(pixels).float()
    mask = regions[:, 0].float()
    total = mask.sum(dim=(1, 2))
    mean = (logits * mask).sum(dim=(1, 2)) / total.clamp(min=1)
    return np.where(total.cpu().numpy() > 0, mean.cpu().double().numpy(), np.nan)


def _strength_of_texture(pixels: Tensor, gate: Tensor) -> npt.NDArray[np.float64]:
    """Return the mean absolute texture of each crop, weighted by the gate (N, 1, H, W)."""
    strength = texture_of(pixels).abs().mean(dim=1, keepdim=True) * gate
    mean = strength.sum(dim=(1, 2, 3)) / gate.sum(dim=(1, 2, 3)).clamp(min=1)
    return np.asarray(mean.cpu().double().numpy())
