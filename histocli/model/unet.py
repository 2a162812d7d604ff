"""The segmenter: a U-Net from H&E pixels to nucleus probability and border distance.

By default, all levels work at half resolution or less (pixel-unshuffle in, pixel-shuffle out; Shi
et al. 2016): at 0.25 um/px a nucleus is some 25 pixels wide, so half the resolution takes a quarter
of the time and loses hardly any detail of outlines. The encoder and decoder follow Ronneberger et
al. 2015.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from histocli.model.blocks import ConvBlock, Encoder
from histocli.model.levels import Level, LevelNetwork

TARGETS: dict[str, int] = {"distance": 2, "contact": 3}
"""Number of logits for each value of ``Architecture.targets``."""
RESOLUTIONS: dict[str, int] = {"half": 2, "full": 1}
"""Pixels of the image along the side of a pixel of the finest level."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a segmenter, from which it is built before its weights are loaded."""

    family: str = "unet"
    """``unet``, or ``trunk`` (:mod:`histocli.model.trunk_segmenter`)."""
    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of each level, the finest first."""
    resolution: str = "half"
    """Resolution of the finest level: ``half`` or ``full``."""
    targets: str = "distance"
    """``distance``: nucleus and border distance. ``contact``: also where two nuclei meet."""


class Segmenter(LevelNetwork):
    """U-Net with two or three logits a pixel: nucleus, border distance and, optionally, contact."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = architecture.channels
        self.fold = RESOLUTIONS[architecture.resolution]
        self.stem = ConvBlock(3 * self.fold**2, widths[0])
        self.encoder = Encoder(widths[0], widths)
        self.decoder = nn.ModuleList(
            nn.ModuleDict(
                {"reduce": ConvBlock(deep + width, width), "mix": ConvBlock(width, width)}
            )
            for deep, width in pairwise(reversed(widths))
        )
        self.head = nn.Conv2d(widths[0], TARGETS[architecture.targets] * self.fold**2, 3, padding=1)

    @property
    def levels(self) -> list[Level]:
        """The levels, the finest first; the stem is the first step down."""
        down = [blocks_of(level) for level in self.encoder]
        up = [blocks_of(level) for level in reversed(self.decoder)]
        down[0].insert(0, self.stem)
        return [Level(*blocks) for blocks in zip(down, [*up, []], strict=True)]

    def maps_of(self, values: Tensor) -> Tensor:
        """Turn values in 0..1 into two maps: see :func:`combine_maps`."""
        return combine_maps(values)


def blocks_of(level: nn.Module) -> list[ConvBlock]:
    """Return the blocks of a level, in order."""
    return [block for block in level.children() if isinstance(block, ConvBlock)]


def combine_maps(values: Tensor) -> Tensor:
    """Turn values in 0..1, (N, 2 or 3, ...), into nucleus probability and border distance, 0..1,
    (N, 2, ...).

    The values are the logistic function of the logits. Where two nuclei probably touch, the
    distance is lowered, so that the middles of the two stay apart.
    """
    if values.shape[1] == TARGETS["distance"]:
        return values
    return torch.stack([values[:, 0], values[:, 1] * (1 - values[:, 2])], dim=1)
