"""U-shaped networks: a list of levels that are run from the finest to the deepest and back.

Every level has half the resolution of the level above it. On the way down, a level keeps its
result and passes it on, pooled, to the level below. On the way up, a level joins the result of the
level below with the result that it kept::

    pixels ── down ── level 0 ─────────────────────── up ── head ── logits
                 └── down ── level 1 ──────────── up ──┘
                        └── down ── deepest level ──┘

To predict, the caller applies the logistic function to the logits and turns the values into maps,
such as nucleus probability and border distance (``LevelNetwork.maps_of``). A network reports its
halo (how far it sees around a pixel) and the number of values that it keeps for each pixel. So code
that cuts images into tiles works with any such network.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock
from histocli.model.normalisation import standardise


@dataclass(frozen=True)
class Level:
    """The blocks of a network at one resolution; the network itself registers their weights."""

    down: Sequence[ConvBlock]
    """Applied in order on the way down; the result is kept, and pooled for the level below."""
    up: Sequence[ConvBlock]
    """Applied in order on the way up, to the level below joined with the kept result; empty in the
    deepest level."""

    @property
    def channels(self) -> int:
        """Channels of the result that is kept."""
        return self.down[-1].convolution.out_channels


class LevelNetwork(nn.Module, ABC):
    """A network from pixels to logits that is a list of levels and a head.

    The finest level works on cells of ``fold`` x ``fold`` pixels: the 3 ``fold``**2 colour values
    of a cell are channels of one position. The head returns all logits of a cell as channels too.
    """

    fold: int
    """Pixels along the side of a cell of the finest level."""
    head: nn.Conv2d

    @property
    @abstractmethod
    def levels(self) -> list[Level]:
        """The levels, the finest first; at least two."""

    @abstractmethod
    def maps_of(self, values: Tensor) -> Tensor:
        """Turn logits, (N, logits, ...), after the caller's logistic function, into maps."""

    @property
    def cells_px(self) -> list[int]:
        """Pixels along the side of a cell of each level."""
        return [self.fold << index for index in range(len(self.levels))]

    @property
    def multiple_px(self) -> int:
        """Sides of the input must be multiples of this."""
        return self.cells_px[-1]

    @property
    def halo_px(self) -> int:
        """How far around a pixel the network sees, in pixels; a multiple of ``multiple_px``.

        Each 3 x 3 convolution adds one cell of its level; the positions of the pooling grids add
        less than one cell of the deepest level.
        """
        convolutions = [len(level.down) + len(level.up) for level in self.levels]
        convolutions[0] += 1  # the head
        reach = sum(n * cell for n, cell in zip(convolutions, self.cells_px, strict=True))
        # one multiple to round up, one for the pooling grids
        return (reach // self.multiple_px + 2) * self.multiple_px

    @property
    def kept_per_px(self) -> float:
        """Values in memory between levels, for each pixel of the input: the kept results of all
        levels and the largest pooled result.
        """
        channels = [level.channels for level in self.levels]
        cells = self.cells_px
        kept = sum(width / cell**2 for width, cell in zip(channels, cells, strict=True))
        pooled = (width / cell**2 for width, cell in zip(channels, cells[1:], strict=False))
        return kept + max(pooled)

    @property
    def widest_per_px(self) -> float:
        """Values of the largest tensor, for each pixel of the input: the results of the two finest
        levels, joined at the highest resolution on the way up.
        """
        return sum(level.channels for level in self.levels[:2]) / self.fold**2

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), to logits (N, logits, H, W)."""
        levels = self.levels

        def down(index: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
            for block in levels[index].down:
                x = block(x)
            return x, None if index == len(levels) - 1 else functional.max_pool2d(x, 2)

        def up(index: int, below: Tensor, kept: Tensor) -> Tensor:
            below = functional.interpolate(below, scale_factor=2, mode="nearest")
            x = torch.cat([below, kept], dim=1)
            for block in levels[index].up:
                x = block(x)
            return x

        cells = functional.pixel_unshuffle(standardise(pixels), self.fold)
        return functional.pixel_shuffle(self.head(walk(len(levels), cells, down, up)), self.fold)


def walk(
    n_levels: int,
    x: Tensor,
    down: Callable[[int, Tensor], tuple[Tensor, Tensor | None]],
    up: Callable[[int, Tensor, Tensor], Tensor],
) -> Tensor:
    """Run all levels down and up again, given the input of the finest level.

    Levels are given as functions, since :mod:`histocli.model.bands` runs them in its own way.

    Parameters
    ----------
    down : callable
        Given a level's number and input, returns the result to keep and the input of the level
        below; in the deepest level, None for the second.
    up : callable
        Given a level's number, the result of the level below and its own kept result, returns
        the result of the level.
    """
    kept: list[Tensor] = []
    below: Tensor | None = x
    for index in range(n_levels):
        assert below is not None
        result, below = down(index, below)
        kept.append(result)
    x = kept.pop()
    while kept:
        x = up(len(kept) - 1, x, kept.pop())
    return x
