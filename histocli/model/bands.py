"""Run a trained network on tiles whose inner layers would not fit into memory at once.

The surroundings of a tile are computed and then thrown away, so few large tiles cost less than many
small ones. But the inner layers of a tile take a hundred times the memory of its pixels. Here every
level of a network (:mod:`histocli.model.levels`) is computed in bands of rows, each together with
the few rows around the band that its convolutions see. Only the results that other levels need are
kept::

    pixels --bands--> level 0 --bands--> level 1 ... deepest        kept: one tensor a level
    maps   <--bands-- level 0 <--bands-- level 1 ...

The maps equal those of the network itself up to rounding, and do not depend on the height of the
bands. Batch normalisation and the standardising of pixels are folded into the convolutions'
weights.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from histocli.model.blocks import ConvBlock
from histocli.model.levels import LevelNetwork, walk
from histocli.model.normalisation import PIXEL_MEAN, PIXEL_STD

BAND_BYTES = 32e6
"""Bytes of the largest tensor of a band on a CPU. With smaller bands, computing the rows around
bands costs more than the cache saves."""
CUDA_BAND_BYTES = 512e6  # the same on a GPU
WORKSPACE = 8
"""Bytes that all tensors of a band and PyTorch itself take for each byte of the largest tensor;
measured on tissue, with some reserve."""


Convolution = Callable[[Tensor], Tensor]


class BandedNetwork:
    """A network with its present weights, ready for large tiles.

    Parameters
    ----------
    network : LevelNetwork
        On the device to work on.
    dtype : torch.dtype
        Number format of all layers.
    band_bytes : float, optional
        Size of the largest tensor of a band; by default, that for the device.
    between : callable, optional
        Called between bands; may raise.
    """

    def __init__(
        self,
        network: LevelNetwork,
        dtype: torch.dtype,
        *,
        band_bytes: float | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._network, self._fold, self._between = network, network.fold, between
        self._dtype, self._device = dtype, network.head.weight.device
        usual = CUDA_BAND_BYTES if self._device.type == "cuda" else BAND_BYTES
        self._band_bytes = band_bytes or usual
        self._channels: list[int]  # kept by each level
        self._channels_up: list[int]  # of the result of each level on the way up
        self._layers_up: list[list[Convolution]]
        with torch.no_grad():
            self._prepare()
            self._head = self._ready(network.head.weight, network.head.bias)

    def _prepare(self) -> None:
        """Bring the layers into the form in which they are run."""
        levels = self._network.levels
        self._channels = self._channels_up = [level.channels for level in levels]
        self._layers_down = [self._layers(level.down) for level in levels]
        self._layers_up = [self._layers(level.up) for level in levels]
        self._layers_down[0][0] = self._on_pixels(levels[0].down[0])

    def _layers(self, blocks: Sequence[ConvBlock]) -> list[Convolution]:
        return [self._ready(*without_normalisation(block)) for block in blocks]

    def _ready(
        self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 1
    ) -> Convolution:
        assert bias is not None
        weight = weight.to(self._dtype).contiguous(memory_format=torch.channels_last)
        bias = bias.to(self._dtype)
        return partial(functional.conv2d, weight=weight, bias=bias, stride=stride, padding=padding)

    def _on_pixels(self, block: ConvBlock) -> Convolution:
        """Return the first block as a convolution on pixels minus their mean.

        Its stride is one cell, so the pixels of a cell need not become channels first.
        """
        weight, bias = without_normalisation(block)
        return self._ready(on_pixels(weight, self._fold), bias, self._fold, self._fold)

    @torch.inference_mode()
    def maps(self, tiles: Tensor, out: Tensor) -> None:
        """Predict.

        Parameters
        ----------
        tiles : Tensor of uint8, shape (N, H, W, 3)
            sRGB; H and W multiples of the network's ``multiple_px``.
        out : Tensor of float32, shape (N, maps, H, W)
            Receives the maps, such as nucleus probability and normalised border distance, 0..1.
        """

        def up(index: int, below: Tensor, kept: Tensor) -> Tensor:
            n, _, height, width = kept.shape
            whole = out if index == 0 else self._empty(n, self._channels_up[index], height, width)
            for rows, x in self._up_in_bands(index, below, kept):
                if index == 0:
                    self._write(x, out[:, :, rows.start * self._fold : rows.stop * self._fold])
                else:
                    whole[:, :, rows] = x
            return whole

        walk(len(self._channels), tiles, self._down, up)

    def _down(self, index: int, above: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the result of a level, and the same pooled for the level below.

        ``above`` is the tiles for the finest level, else the pooled result of the level above.
        """
        n, channels, layers = above.shape[0], self._channels[index], self._layers_down[index]
        height, width = (
            above.shape[2:] if index else (side // self._fold for side in above.shape[1:3])
        )
        whole = self._empty(n, channels, height, width)
        pooled = None
        if index < len(self._channels) - 1:
            pooled = self._empty(n, channels, height // 2, width // 2)
        for rows, seen in self._bands(n * width * channels, height, len(layers)):
            x = above[:, :, seen] if index else self._pixels(above, seen)
            for layer in layers:
                x = torch.relu_(layer(x))
            x = x[:, :, rows.start - seen.start : rows.stop - seen.start]
            whole[:, :, rows] = x
            if pooled is not None:
                pooled[:, :, rows.start // 2 : rows.stop // 2] = functional.max_pool2d(x, 2)
        return whole, pooled

    def _up_in_bands(
        self, index: int, below: Tensor, kept: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield bands of a level's result on the way up, from the level below and the level's own
        kept result; in the finest level, bands of the head's logits.
        """
        n, channels, height, width = kept.shape
        layers = self._layers_up[index]
        reach = len(layers) + (index == 0)
        reach += reach % 2  # a row of the level below becomes two rows
        for rows, seen in self._bands(n * width * (below.shape[1] + channels), height, reach):
            x = self._joined(below[:, :, seen.start // 2 : seen.stop // 2], kept[:, :, seen])
            for layer in layers:
                x = torch.relu_(layer(x))
            if index == 0:
                x = self._head(x)
            yield rows, x[:, :, rows.start - seen.start : rows.stop - seen.start]

    def _bands(self, numbers_a_row: int, height: int, reach: int) -> Iterator[tuple[slice, slice]]:
        """Yield bands of an even number of rows, and the rows that their convolutions see."""
        most = max(2, int(self._band_bytes / (numbers_a_row * self._dtype.itemsize)))
        step = -(-height // -(-height // most))
        step += step % 2
        for start in range(0, height, step):
            self._between()
            stop = min(start + step, height)
            yield slice(start, stop), slice(max(start - reach, 0), min(stop + reach, height))

    def _pixels(self, tiles: Tensor, rows: slice) -> Tensor:
        """Return the pixels of some rows of cells, minus their mean.

        Convolutions continue a tile by zeros, so here by pixels of the mean.
        """
        part = tiles[:, rows.start * self._fold : rows.stop * self._fold].to(self._dtype)
        return part.sub_(255 * PIXEL_MEAN).permute(0, 3, 1, 2)

    def _joined(self, below: Tensor, kept: Tensor) -> Tensor:
        """Return the level below, each pixel repeated 2 x 2, and the kept result in one tensor."""
        n, deep, height, width = below.shape
        both = self._empty(n, deep + kept.shape[1], 2 * height, 2 * width)
        both[:, deep:] = kept
        cells = both.permute(0, 2, 3, 1).view(n, height, 2, width, 2, deep + kept.shape[1])
        cells[..., :deep] = below.permute(0, 2, 3, 1)[:, :, None, :, None]
        return both

    def _write(self, logits: Tensor, out: Tensor) -> None:
        """Turn the head's logits, shape (N, logits * fold**2, h, w), into maps."""
        n, channels, height, width = logits.shape
        side = self._fold
        values = torch.sigmoid_(logits.float()).view(
            n, channels // side**2, side, side, height, width
        )
        # to: logit, row of cells, row within a cell, column of cells, column within a cell
        by_row = values.permute(0, 1, 4, 2, 5, 3)
        out.view(n, -1, height, side, width, side).copy_(self._network.maps_of(by_row))

    def _empty(self, n: int, channels: int, height: int, width: int) -> Tensor:
        shape = (n, height, width, channels)
        return torch.empty(shape, dtype=self._dtype, device=self._device).permute(0, 3, 1, 2)


def on_pixels(weight: Tensor, side: int) -> Tensor:
    """Turn weights on cells of ``side`` x ``side`` standardised pixels into weights on pixels in
    0..255, of which the mean is subtracted; the stride is then one cell.
    """
    channels = weight.shape[0]
    cells = weight.reshape(channels, 3, side, side, 3, 3).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(channels, 3, 3 * side, 3 * side) / (255 * PIXEL_STD)


def without_normalisation(block: ConvBlock) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that equals a block without its rectifier."""
    norm, convolution = block.normalisation, block.convolution
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


def expected_bytes(network: LevelNetwork, pixels: float, bytes_a_number: int) -> float:
    """Return the largest number of bytes that a tile of ``pixels`` pixels takes, maps included."""
    widest = pixels * network.widest_per_px * bytes_a_number
    kept = pixels * (network.kept_per_px * bytes_a_number + 8)
    return kept + WORKSPACE * min(BAND_BYTES, widest)
