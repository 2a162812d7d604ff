"""Losses of the refiner and its critics; all are means, so that their weights are comparable.

- realism critic: cross-entropy per pixel, real nuclei against repainted ones;
- style critic: cross-entropy per pair of crops: of one image, of two images, or a repainted crop
  with its reference;
- refiner: realism (cross-entropy of the realism critic to "real", or distance of its features),
  style (cross-entropy of the style critic to "one image") and change of tone (smoothed density).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def mean_within(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values where a mask of the same shape is 1; 0 if the mask is all 0."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def not_taken_for_real(logits: Tensor, region: Tensor) -> Tensor:
    """Return the cross-entropy of logits to the truth "real", within regions; both (N, h, w)."""
    return mean_within(functional.softplus(-logits.float()), region.float())


def tone_change(change: Tensor, held: Tensor) -> Tensor:
    """Return the mean absolute change of tone within a mask (N, 1, H, W).

    Tone is the change of optical density (N, 3, H, W), averaged over 9 x 9 pixels.
    """
    tone = functional.avg_pool2d(change, 9, stride=1, padding=4)
    return mean_within(tone.abs().mean(dim=1, keepdim=True), held)


@dataclass(frozen=True)
class CriticLoss:
    """The realism critic's loss; real crops together weigh as much as repainted crops together."""

    loss: Tensor
    right: float  # share of judged pixels judged rightly: mean of real and repainted crops


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
    """Return the style critic's loss from its logits: only ``matched`` pairs show one image."""
    wrong = functional.softplus(mismatched).mean() + functional.softplus(repainted).mean()
    return functional.softplus(-matched).mean() + 0.5 * wrong


def pairs_of(size: int, first: int, second: int, device: torch.device, turn: int = 0) -> Tensor:
    """Return indices (size, 2) that pair crops of groups that begin at ``first`` and ``second``.

    With a ``turn`` of 1, each crop is paired with its neighbour's partner, usually another image.
    """
    order = torch.arange(size, device=device)
    return torch.stack([order + first, order.roll(turn) + second], dim=1)


def feature_distance(
    found: list[Tensor], wanted: list[Tensor], region: Tensor, wanted_region: Tensor
) -> Tensor:
    """Return the distance of the means and standard deviations of features within two regions.

    ``found`` and ``wanted`` hold the features (N, C, h, w) of each layer for repainted and
    reference crops; the regions are bool (N, 1, H, W), H and W multiples of h and w. Distances are
    divided by the standard deviation of the wanted features; pairs with an empty region do not
    count. Matching a critic's features, rather than its verdict, keeps the refiner from profiting
    by a trace that the critic does not know yet (Salimans et al. 2016).
    """
    counted = (region.flatten(1).any(dim=1) & wanted_region.flatten(1).any(dim=1)).float()
    total = found[0].new_zeros((), dtype=torch.float32)
    for first, second in zip(found, wanted, strict=True):
        mean, spread = _moments(first.float(), region.float())
        wanted_mean, wanted_spread = _moments(second.float(), wanted_region.float())
        unit = wanted_spread.mean(dim=0, keepdim=True)
        # half of the layer's mean spread is added, so that a nearly constant channel counts little
        unit = unit + unit.mean() * 0.5 + 1e-3
        apart = _distance(mean / unit, wanted_mean / unit)
        apart = apart + _distance(spread / unit, wanted_spread / unit)
        total = total + (apart * counted).sum() / counted.sum().clamp(min=1)
    return total / len(found)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return functional.smooth_l1_loss(first, second, reduction="none").mean(dim=1)


def _moments(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, both (N, C), of features within masks (N, 1, H, W)."""
    share = functional.adaptive_avg_pool2d(mask, (features.shape[2], features.shape[3]))
    total = share.sum(dim=(2, 3)).clamp(min=1e-3)
    mean = (features * share).sum(dim=(2, 3)) / total
    variance = ((features - mean[:, :, None, None]) ** 2 * share).sum(dim=(2, 3)) / total
    return mean, (variance + 1e-6).sqrt()
