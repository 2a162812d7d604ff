"""A small classifier of patches: real or synthetic."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock, DoubleConv
from histocli.model.normalisation import standardise

CHANNELS = (16, 32, 64)


class Classifier(nn.Module):
    """Convolutions, then mean and maximum over the patch, then one logit; any size of patch.

    The maximum lets one impossible nucleus betray a patch of real tissue.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        previous = 12
        for width in channels:
            self.levels.append(DoubleConv(previous, width))
            previous = width
        self.last = ConvBlock(previous, previous)
        self.head = nn.Linear(2 * previous, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), sides even, to logits of being real, shape (N,)."""
        x = functional.pixel_unshuffle(standardise(pixels), 2)
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else functional.max_pool2d(x, 2))
        x = self.last(x).float()
        logits: Tensor = self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))[:, 0]
        return logits
