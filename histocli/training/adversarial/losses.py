"""Losses of refiner and critics, all of them means, so that their weights compare.

- realism critic: cross-entropy per pixel, real nuclei against repainted ones;
- style critic: cross-entropy per pair of crops: two of one image, two of different images, and a
  repainted one with its reference;
- refiner: how far it is from being taken for real, the style critic's doubt, and the change of
  nuclear tone, which is what a change of optical density leaves after smoothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def mean_within(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values where a mask of 0 and 1, of equal shape, is 1."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def not_taken_for_real(logits: Tensor, region: Tensor) -> Tensor:
    """Return the cross-entropy of being real within regions, both (N, h, w)."""
    return mean_within(functional.softplus(-logits.float()), region.float())


def tone_change(change: Tensor, held: Tensor) -> Tensor:
    """Return how much a change of optical density alters tone within a mask (N, 1, H, W).

    Changes that survive a mean over 9 pixels are tone, finer ones are texture.
    """
    tone = functional.avg_pool2d(change, 9, stride=1, padding=4)
    return mean_within(tone.abs().mean(dim=1, keepdim=True), held)


@dataclass(frozen=True)
class CriticLoss:
    """What the realism critic loses on real and repainted crops, which count equally."""

    loss: Tensor
    right: float
    """Share of judged pixels that the critic judged rightly."""


def critic_loss(logits: Tensor, regions: Tensor, n_real: int) -> CriticLoss:
    """Compare the critic's logits (N, h, w) with the truth: the first ``n_real`` crops are real."""
    regions = regions.float()
    signs = torch.ones(len(logits), 1, 1, device=logits.device)
    signs[n_real:] = -1
    losses = functional.softplus(-signs * logits.float()) * regions
    right = (signs * logits.detach() > 0).float() * regions
    loss, correct = logits.new_zeros(()).float(), 0.0
    for part in (slice(0, n_real), slice(n_real, None)):
        pixels = regions[part].sum().clamp(min=1)
        loss = loss + 0.5 * losses[part].sum() / pixels
        correct += 0.5 * float((right[part].sum() / pixels).cpu())
    return CriticLoss(loss, correct)


def style_loss(matched: Tensor, mismatched: Tensor, repainted: Tensor) -> Tensor:
    """Return the style critic's loss from its logits of three kinds of pairs."""
    wrong = functional.softplus(mismatched).mean() + functional.softplus(repainted).mean()
    return functional.softplus(-matched).mean() + 0.5 * wrong


def pairs_of(size: int, first: int, second: int, device: torch.device, turn: int = 0) -> Tensor:
    """Pair the crops of two groups, which begin at ``first`` and ``second`` in a batch, (size, 2).

    With a ``turn`` of 1, each is paired with its neighbour's partner, so that no pair matches.
    """
    order = torch.arange(size, device=device)
    return torch.stack([order + first, order.roll(turn) + second], dim=1)


def feature_distance(
    found: list[Tensor], wanted: list[Tensor], region: Tensor, wanted_region: Tensor
) -> Tensor:
    """Return how far means and spreads of features within two regions lie apart.

    The unit is the wanted spread. Matching what a critic sees, rather than its verdict, cannot be
    won by a trace that the critic has not met yet (Salimans et al. 2016).

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
        mean, spread = _moments(first.float(), region.float())
        wanted_mean, wanted_spread = _moments(second.float(), wanted_region.float())
        unit = wanted_spread.mean(dim=0, keepdim=True)
        # half of the layer's mean spread is added: a channel that hardly varies must not decide
        unit = unit + unit.mean() * 0.5 + 1e-3
        apart = _distance(mean / unit, wanted_mean / unit)
        apart = apart + _distance(spread / unit, wanted_spread / unit)
        total = total + (apart * counted).sum() / counted.sum().clamp(min=1)
    return total / len(found)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return functional.smooth_l1_loss(first, second, reduction="none").mean(dim=1)


def _moments(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of features (N, C, h, w) within masks (N, 1, H, W), both (N, C)."""
    share = functional.adaptive_avg_pool2d(mask, (features.shape[2], features.shape[3]))
    total = share.sum(dim=(2, 3)).clamp(min=1e-3)
    mean = (features * share).sum(dim=(2, 3)) / total
    variance = ((features - mean[:, :, None, None]) ** 2 * share).sum(dim=(2, 3)) / total
    return mean, (variance + 1e-6).sqrt()
