"""The trunk: the first layers of EfficientNet-Lite0, with public weights that are never changed.

Filters learnt from millions of photographs (ImageNet; no label of a nucleus is involved) do not
know what gives synthetic patches away, so a decoder on top of them finds nuclei of laboratories
that it has not seen better than a network that learns its own filters (``docs/research/trunk.md``).

The design is that of Tan and Le (2019), EfficientNet-B0 without squeeze-and-excitation and with
ReLU6, from the stem to the eleventh block. A block widens its input (1 x 1), filters each channel
by itself (depthwise) and narrows the result (1 x 1). The batch normalisation that follows each
convolution is part of its weights and bias here, since its statistics never change either.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM_CHANNELS = 32
INPUT_MEAN, INPUT_SPREAD = 0.498, 0.502
"""The input of the trunk is (sRGB in 0..1 minus the mean) divided by the spread."""


@dataclass(frozen=True)
class BlockDesign:
    """Shape of a block."""

    widen: int
    """Factor on the number of channels inside the block."""
    channels: int
    """Channels of the result."""
    stride: int
    side: int
    """Pixels along a side of the depthwise filters."""


LEVELS: tuple[tuple[BlockDesign, ...], ...] = (
    (BlockDesign(1, 16, 1, 3),),
    (BlockDesign(6, 24, 2, 3), BlockDesign(6, 24, 1, 3)),
    (BlockDesign(6, 40, 2, 5), BlockDesign(6, 40, 1, 5)),
    (
        BlockDesign(6, 80, 2, 3),
        *(BlockDesign(6, 80, 1, 3) for _ in range(2)),
        *(BlockDesign(6, 112, 1, 5) for _ in range(3)),
    ),
)
"""Blocks of each level; a level has half the resolution of the one before, the first has half the
resolution of the image, after the stem."""
TRUNK_CHANNELS = tuple(level[-1].channels for level in LEVELS)
"""Channels of the result of each level, the finest first."""


class FrozenConv(nn.Module):
    """A convolution with ``same`` padding; its weights are buffers, which no optimiser changes.

    At stride 2, an even side is padded by one pixel more behind than before, as TensorFlow does,
    with which the weights were learnt.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, channels: tuple[int, int], side: int, *, stride: int = 1, apart: bool = False,
        rectify: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        channels_in, channels_out = channels
        self.groups = channels_in if apart else 1
        self.stride, self.rectify = stride, rectify
        self.before = (side - stride) // 2
        self.behind = side - stride - self.before
        shape = (channels_out, channels_in // self.groups, side, side)
        self.register_buffer("weight", torch.zeros(shape))
        self.register_buffer("bias", torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        padding = self.before
        if self.before != self.behind:
            x = functional.pad(x, (self.before, self.behind, self.before, self.behind))
            padding = 0
        x = functional.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return x.clamp(0, 6) if self.rectify else x


class FrozenBlock(nn.Module):
    """Widen, filter each channel, narrow; the input is added where the shape allows it."""

    def __init__(self, channels_in: int, design: BlockDesign) -> None:
        super().__init__()
        inside = channels_in * design.widen
        self.widen = FrozenConv((channels_in, inside), 1) if design.widen > 1 else None
        self.filter = FrozenConv((inside, inside), design.side, stride=design.stride, apart=True)
        self.narrow = FrozenConv((inside, design.channels), 1, rectify=False)
        self.adds = design.stride == 1 and channels_in == design.channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        y = x if self.widen is None else self.widen(x)
        y = self.narrow(self.filter(y))
        added: Tensor = x + y if self.adds else y
        return added


class Trunk(nn.Module):
    """The stem and the levels of blocks. Weights are zero until a state dict is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = FrozenConv((3, STEM_CHANNELS), 3, stride=2)
        self.levels = nn.ModuleList()
        channels = STEM_CHANNELS
        for level in LEVELS:
            blocks = []
            for design in level:
                blocks.append(FrozenBlock(channels, design))
                channels = design.channels
            self.levels.append(nn.Sequential(*blocks))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the features of each level.

        Parameters
        ----------
        pixels : Tensor of float, shape (N, 3, H, W)
            sRGB in 0..1; H and W multiples of 16.

        Returns
        -------
        list of Tensor
            Shapes (N, 16, H / 2, W / 2), (N, 24, H / 4, W / 4), (N, 40, H / 8, W / 8) and
            (N, 112, H / 16, W / 16).
        """
        x = self.stem((pixels - INPUT_MEAN) / INPUT_SPREAD)
        seen: list[Tensor] = []
        for level in self.levels:
            x = level(x)
            seen.append(x)
        return seen


def reach_of(designs: Sequence[BlockDesign]) -> int:
    """Return how many positions of its own resolution a level's blocks see around a position."""
    return sum(design.side // 2 for design in designs) + 1
