"""The segmenter on the trunk: frozen public features, and a decoder that is learnt.

The decoder has a level for each stride of the trunk. The finest also sees the image itself, through
one block of its own at half resolution, for the detail of outlines.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock, DoubleConv
from histocli.model.levels import Level
from histocli.model.normalisation import standardise
from histocli.model.trunk import LEVELS, TRUNK_CHANNELS, Trunk, reach_of
from histocli.model.unet import TARGETS, Architecture, Segmenter

OWN_CHANNELS = 32  # channels of the block that sees the image itself


class TrunkSegmenter(Segmenter):
    """Maps sRGB to the logits of :class:`histocli.model.unet.Segmenter`, with a frozen trunk.

    ``architecture.channels`` are those of the decoder's levels, the finest first.
    """

    def __init__(self, architecture: Architecture) -> None:
        nn.Module.__init__(self)  # the layers of the U-Net are not made
        self.architecture = architecture
        self.fold = 2
        self.trunk = Trunk()
        self.stem = ConvBlock(3 * self.fold**2, OWN_CHANNELS)
        self.decoder = nn.ModuleList()
        channels = self.kept_channels[-1]
        for width, kept in zip(
            reversed(architecture.channels), reversed(self.kept_channels[:-1]), strict=True
        ):
            self.decoder.append(DoubleConv(channels + kept, width))
            channels = width
        self.head = nn.Conv2d(channels, TARGETS[architecture.targets] * self.fold**2, 3, padding=1)

    @property
    def kept_channels(self) -> tuple[int, ...]:
        """Channels that each level passes to the decoder, the finest first."""
        finest, *deeper = TRUNK_CHANNELS
        return (finest + OWN_CHANNELS, *deeper)

    @property
    def levels(self) -> list[Level]:
        """The U-Net's levels; the trunk is none (its blocks are no ``ConvBlock``)."""
        raise NotImplementedError("a trunk is run by histocli.model.trunk_bands")

    @property
    def cells_px(self) -> list[int]:
        """Pixels along the side of a position of each level."""
        return [self.fold << index for index in range(len(LEVELS))]

    @property
    def halo_px(self) -> int:
        """How far around a pixel the network sees, in pixels; a multiple of ``multiple_px``."""
        trunk = [reach_of(designs) for designs in LEVELS]
        decoder = [2] * (len(LEVELS) - 1) + [0]
        decoder[0] += 1  # the head
        reach = sum(
            (down + up) * cell for down, up, cell in zip(trunk, decoder, self.cells_px, strict=True)
        )
        return (reach // self.multiple_px + 2) * self.multiple_px

    @property
    def kept_per_px(self) -> float:
        """Values in memory between levels, for each pixel of the input."""
        return sum(
            channels / cell**2
            for channels, cell in zip(self.kept_channels, self.cells_px, strict=True)
        )

    @property
    def widest_per_px(self) -> float:
        """Values of the largest tensor, for each pixel of the input: the widened channels of the
        first block of the second level.
        """
        return TRUNK_CHANNELS[0] * LEVELS[1][0].widen / self.fold**2

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), to logits (N, logits, H, W)."""
        kept = self.trunk(pixels)
        own = self.stem(functional.pixel_unshuffle(standardise(pixels), self.fold))
        kept[0] = torch.cat([kept[0], own], dim=1)
        x = kept.pop()
        for level in self.decoder:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, kept.pop()], dim=1))
        return functional.pixel_shuffle(self.head(x), self.fold)
