"""Networks in the shape of a U: a list of levels that the pixels go down and come up again.

Every level has half the resolution of the level above it. On the way down it passes its result
on to the level below; on the way up it joins what comes back with its own result::

    pixels ── down ── level 0 ─────────────────────── up ── head ── maps
                 └── down ── level 1 ──────────── up ──┘
                        └── down ── deepest level ──┘

A network of this kind says by itself how far it looks and how much memory it takes, so that
whoever cuts images into tiles knows no number of it.
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
    """What a network does at one resolution."""

    down: Sequence[ConvBlock]
    """Applied to what comes from above, in order; the result is kept, and pooled for the level
    below."""
    up: Sequence[ConvBlock]
    """Applied to what comes from below, joined with what was kept; empty in the deepest level."""

    @property
    def channels(self) -> int:
        """Channels of what is kept."""
        return self.down[-1].convolution.out_channels


class LevelNetwork(nn.Module, ABC):
    """A network from pixels to maps that is a list of levels and a head.

    The finest level works on cells of ``fold`` x ``fold`` pixels, whose colours are its channels;
    the head returns the values of all pixels of a cell in the same way.
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
        """Turn the logistic function of the logits, shape (N, logits, ...), into maps."""

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
        """Context that decides a pixel's maps, in pixels; a multiple of ``multiple_px``.

        Each 3 x 3 convolution looks one cell of its level further, and the grids of pooling less
        than one cell of the deepest level.
        """
        convolutions = [len(level.down) + len(level.up) for level in self.levels]
        convolutions[0] += 1  # the head
        reach = sum(n * cell for n, cell in zip(convolutions, self.cells_px, strict=True))
        return (reach // self.multiple_px + 2) * self.multiple_px

    @property
    def kept_per_px(self) -> float:
        """Numbers that are kept for each pixel of the input while it goes down and up: the result
        of every level, and the largest of the pooled ones on its way to the level below.
        """
        channels = [level.channels for level in self.levels]
        cells = self.cells_px
        kept = sum(width / cell**2 for width, cell in zip(channels, cells, strict=True))
        pooled = (width / cell**2 for width, cell in zip(channels, cells[1:], strict=False))
        return kept + max(pooled)

    @property
    def widest_per_px(self) -> float:
        """Numbers of the widest tensor for each pixel of the input: both inputs of the finest
        level on the way up, joined.
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
    """Go down all levels and up again, from what the finest level begins with.

    Parameters
    ----------
    down : callable
        Given a level's number and what comes from above, returns what is kept and what goes to
        the level below; None in the deepest level.
    up : callable
        Given a level's number, what comes from below and what was kept, returns what goes on.
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
