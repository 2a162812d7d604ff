"""Building blocks of the networks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBlock(nn.Module):
    """Convolution 3 x 3, batch normalisation, rectifier.

    Batch statistics are learnt in training and fixed afterwards, so that a pixel's output depends
    on its receptive field alone: tiles of any size agree where they overlap.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.normalisation = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        return torch.relu(self.normalisation(self.convolution(x)))


class DoubleConv(nn.Sequential):
    """Two ``ConvBlock`` in a row."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            ConvBlock(channels_in, channels_out), ConvBlock(channels_out, channels_out)
        )


class Encoder(nn.ModuleList):
    """Levels of ``DoubleConv``, each at half the resolution of the level above it."""

    def __init__(self, channels_in: int, channels: Sequence[int]) -> None:
        super().__init__(DoubleConv(*pair) for pair in pairwise((channels_in, *channels)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (N, C_in, H, W) to the output of each level, the finest first."""
        seen: list[Tensor] = []
        for level in self:
            x = level(functional.max_pool2d(x, 2) if seen else x)
            seen.append(x)
        return seen


def pooled_by_nuclei(features: Tensor, nuclei: Tensor, cell_px: int) -> Tensor:
    """Average features (N, C, h, w) inside nuclei (N, 1, H, W) and outside, to (N, 2 C).

    ``cell_px`` is the side, in pixels of ``nuclei``, of a position of the features.
    """
    features = features.float()
    inside = functional.avg_pool2d(nuclei.float(), cell_px)
    pooled = [
        (features * mask).sum(dim=(2, 3)) / (mask.sum(dim=(2, 3)) + 1)
        for mask in (inside, 1 - inside)
    ]
    return torch.cat(pooled, dim=1)
