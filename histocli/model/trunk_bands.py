"""Run a trained :class:`TrunkSegmenter` on large tiles in bands: see :mod:`histocli.model.bands`.

A level of the trunk is computed in bands as well. Of its blocks, whose inner tensors are six times
as wide as their results, only the last result is kept for the whole tile.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from histocli.model.bands import BandedNetwork
from histocli.model.blocks import ConvBlock
from histocli.model.trunk import (
    INPUT_MEAN,
    INPUT_SPREAD,
    LEVELS,
    TRUNK_CHANNELS,
    FrozenBlock,
    FrozenConv,
    reach_of,
)
from histocli.model.trunk_segmenter import TrunkSegmenter


class BandedTrunk(BandedNetwork):
    """The counterpart of ``BandedNetwork`` for a segmenter on the trunk; same parameters."""

    _network: TrunkSegmenter

    def _prepare(self) -> None:
        network = self._network
        self._channels = list(network.kept_channels)
        self._channels_up = list(network.architecture.channels)
        self._own = self._on_pixels(network.stem)
        self._stem = self._stem_on_pixels(network.trunk.stem)
        self._blocks = [
            [self._block(block) for block in level if isinstance(block, FrozenBlock)]
            for level in network.trunk.levels
            if isinstance(level, torch.nn.Sequential)
        ]
        self._layers_up = [
            self._layers([block for block in level.children() if isinstance(block, ConvBlock)])
            for level in reversed(network.decoder)
        ]

    def _stem_on_pixels(self, stem: FrozenConv) -> Callable[[Tensor], Tensor]:
        """Return the stem as a convolution on pixels in 0..255 minus the trunk's mean."""
        weight = (stem.weight / (255 * INPUT_SPREAD)).to(self._dtype)
        convolve = self._frozen(stem, weight)
        return lambda pixels: convolve(pixels - 255 * INPUT_MEAN)

    def _frozen(
        self, layer: FrozenConv, weight: Tensor | None = None
    ) -> Callable[[Tensor], Tensor]:
        weight = (layer.weight if weight is None else weight).to(self._dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return partial(_convolve, layer, weight, layer.bias.to(self._dtype))

    def _block(self, block: FrozenBlock) -> Callable[[Tensor], Tensor]:
        widen = None if block.widen is None else self._frozen(block.widen)
        narrow, apart = self._frozen(block.narrow), self._frozen(block.filter)

        def run(x: Tensor) -> Tensor:
            y = narrow(apart(x if widen is None else widen(x)))
            return y.add_(x) if block.adds else y

        return run

    def _down(self, index: int, above: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what a level passes to the decoder, and its features for the level below."""
        n, channels, blocks = above.shape[0], self._channels[index], self._blocks[index]
        sides = above.shape[1:3] if index == 0 else above.shape[2:]
        height, width = (side // 2 for side in sides)
        inside = max(TRUNK_CHANNELS[index] * LEVELS[index][-1].widen, channels)
        whole = self._empty(n, channels, height, width)
        for rows, seen in self._bands(n * width * inside, height, reach_of(LEVELS[index])):
            above_seen = slice(2 * seen.start, 2 * seen.stop)
            if index == 0:
                pixels = above[:, above_seen].to(self._dtype).permute(0, 3, 1, 2)
                x = self._stem(pixels)
            else:
                x = above[:, : TRUNK_CHANNELS[index - 1], above_seen]
            for block in blocks:
                x = block(x)
            inner = slice(rows.start - seen.start, rows.stop - seen.start)
            whole[:, : TRUNK_CHANNELS[index], rows] = x[:, :, inner]
            if index == 0:
                own = torch.relu_(self._own(self._pixels(above, seen)))
                whole[:, TRUNK_CHANNELS[0] :, rows] = own[:, :, inner]
        return whole, whole if index < len(LEVELS) - 1 else None


def _convolve(layer: FrozenConv, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Run a layer with weights in another number format."""
    padding = layer.before
    if layer.before != layer.behind:
        x = functional.pad(x, (layer.before, layer.behind, layer.before, layer.behind))
        padding = 0
    x = functional.conv2d(x, weight, bias, layer.stride, padding, groups=layer.groups)
    return x.clamp_(0, 6) if layer.rectify else x
