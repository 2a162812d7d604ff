"""Building blocks of the networks."""

import torch
from torch import Tensor, nn


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
