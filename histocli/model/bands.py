"""A trained segmenter on tiles that are far larger than its inner layers could be held for at once.

What a tile needs of its surroundings is thrown away, so few large tiles cost less than many small
ones; but the inner layers of a tile take a hundred times its own bytes. Here every level of the
U-Net works in bands of rows, each with the few rows around it
that its convolutions see, and only what other levels need is kept::

    pixels --bands--> level 0 --bands--> level 1 ... deepest        kept: one tensor a level
    maps   <--bands-- level 0 <--bands-- level 1 ...

The maps are those of :class:`~histocli.model.segmenter.Segmenter` up to rounding, and the same to
the last bit for bands of any height. Batch normalisation and the standardising of pixels are part
of the convolutions' weights here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock
from histocli.model.normalisation import PIXEL_MEAN, PIXEL_STD
from histocli.model.segmenter import Segmenter, combine_maps

BAND_BYTES = 32e6
"""Of the widest tensor of a band: less, and the rows around a band cost more than a processor's
cache saves."""
CUDA_BAND_BYTES = 512e6


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class BandedSegmenter:
    """The weights of a segmenter as they are now, ready for large tiles.

    Parameters
    ----------
    segmenter : Segmenter
        On the device to work on.
    dtype : torch.dtype
        Number format of all layers.
    band_bytes : float, optional
        Of the widest tensor of a band.
    between : callable, optional
        Called between bands; may raise.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dtype: torch.dtype,
        *,
        band_bytes: float | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._dtype = dtype
        self._device = segmenter.head.weight.device
        self._fold = segmenter.fold
        self._widths = segmenter.architecture.channels
        self._between = between
        self._band_bytes = band_bytes or (
            CUDA_BAND_BYTES if self._device.type == "cuda" else BAND_BYTES
        )
        with torch.no_grad():
            down = [
                [self._of_block(block) for block in level.children()] for level in segmenter.encoder
            ]
            self._encoder = [[self._of_stem(segmenter.stem), *down[0]], *down[1:]]
            up = [
                [self._of_block(block) for block in level.children()] for level in segmenter.decoder
            ]
            self._decoder = up[::-1]
            self._head = self._ready(segmenter.head.weight, segmenter.head.bias)

    def _ready(
        self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 1
    ) -> _Convolution:
        assert bias is not None
        weight = weight.to(self._dtype).contiguous(memory_format=torch.channels_last)
        return _Convolution(weight, bias.to(self._dtype), stride, padding)

    def _of_block(self, block: nn.Module) -> _Convolution:
        assert isinstance(block, ConvBlock)
        return self._ready(*_without_normalisation(block))

    def _of_stem(self, stem: ConvBlock) -> _Convolution:
        """Return the stem as a convolution on pixels less their mean: it takes steps of a cell, so
        they need not be folded.
        """
        weight, bias = _without_normalisation(stem)
        channels, side = weight.shape[0], self._fold
        on_pixels = (
            weight.reshape(channels, 3, side, side, 3, 3)
            .permute(0, 1, 4, 2, 5, 3)
            .reshape(channels, 3, 3 * side, 3 * side)
        )
        return self._ready(on_pixels / (255 * PIXEL_STD), bias, side, side)

    @torch.inference_mode()
    def maps(self, tiles: Tensor, out: Tensor) -> None:
        """Predict.

        Parameters
        ----------
        tiles : Tensor of uint8, shape (N, H, W, 3)
            sRGB; H and W multiples of the segmenter's ``multiple_px``.
        out : Tensor of float32, shape (N, 2, H, W)
            Takes nucleus probability and normalised border distance, 0..1.
        """
        levels = self._encode(tiles)
        x = levels.pop()
        while len(levels) > 1:
            skip = levels.pop()
            level = self._empty(
                skip.shape[0], self._widths[len(levels)], skip.shape[2], skip.shape[3]
            )
            for rows, mixed in self._decode(len(levels), x, skip, reach=2):
                level[:, :, rows] = mixed
            x = level
        # the head looks one row further, and upsampling needs even rows
        for rows, mixed in self._decode(0, x, levels.pop(), reach=4):
            self._write(mixed, out[:, :, rows.start * self._fold : rows.stop * self._fold])

    def _encode(self, tiles: Tensor) -> list[Tensor]:
        """Return what the decoder needs of every level, the finest first."""
        kept: list[Tensor] = []
        n, height, width = (
            tiles.shape[0],
            tiles.shape[1] // self._fold,
            tiles.shape[2] // self._fold,
        )
        below = None  # the tiles, and then what the level before leaves
        for index, (layers, channels) in enumerate(zip(self._encoder, self._widths, strict=True)):
            deepest = index == len(self._widths) - 1
            whole = self._empty(n, channels, height, width)
            pooled = None if deepest else self._empty(n, channels, height // 2, width // 2)
            for rows, seen in self._bands(n * width * channels, height, reach=len(layers)):
                x = self._pixels(tiles, seen) if below is None else below[:, :, seen]
                for layer in layers:
                    x = torch.relu_(layer(x))
                x = x[:, :, rows.start - seen.start : rows.stop - seen.start]
                whole[:, :, rows] = x
                if pooled is not None:
                    pooled[:, :, rows.start // 2 : rows.stop // 2] = functional.max_pool2d(x, 2)
            kept.append(whole)
            below, height, width = pooled, height // 2, width // 2
        return kept

    def _decode(
        self, index: int, below: Tensor, skip: Tensor, reach: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield bands of what the decoder, and on the finest level the head, makes of the level
        below and a skip.
        """
        n, channels, height, width = skip.shape
        layers = self._decoder[index]
        for rows, seen in self._bands(n * width * (below.shape[1] + channels), height, reach):
            x = self._joined(below[:, :, seen.start // 2 : seen.stop // 2], skip[:, :, seen])
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
        """Return the pixels of some rows of cells less their mean; where the tile ends, they go on
        with the mean.
        """
        part = (
            tiles[:, rows.start * self._fold : rows.stop * self._fold]
            .to(self._dtype)
            .sub_(255 * PIXEL_MEAN)
        )
        return part.permute(0, 3, 1, 2)

    def _joined(self, below: Tensor, skip: Tensor) -> Tensor:
        """Return the coarser level, every pixel four times, and the finer one in one tensor."""
        n, deep, height, width = below.shape
        both = self._empty(n, deep + skip.shape[1], 2 * height, 2 * width)
        both[:, deep:] = skip
        cells = both.permute(0, 2, 3, 1).view(n, height, 2, width, 2, deep + skip.shape[1])
        cells[..., :deep] = below.permute(0, 2, 3, 1)[:, :, None, :, None]
        return both

    def _write(self, logits: Tensor, out: Tensor) -> None:
        """Turn the head's numbers (N, maps * fold**2, h, w) into maps."""
        n, channels, height, width = logits.shape
        side = self._fold
        values = torch.sigmoid_(logits.float()).view(
            n, channels // side**2, side, side, height, width
        )
        # map, row, row within a cell, column, column within a cell
        by_row = values.permute(0, 1, 4, 2, 5, 3)
        out.view(n, 2, height, side, width, side).copy_(combine_maps(by_row))

    def _empty(self, *shape: int) -> Tensor:
        n, channels, height, width = shape
        return torch.empty(
            (n, height, width, channels), dtype=self._dtype, device=self._device
        ).permute(0, 3, 1, 2)


def _without_normalisation(block: ConvBlock) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that does what a block does before its rectifier."""
    norm, convolution = block.normalisation, block.convolution
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


def kept_bytes_per_px(channels: Sequence[int], fold: int, bytes_a_number: int) -> float:
    """Return the bytes that are kept for each pixel of a tile while its maps are made, without
    bands, pixels and maps.

    Parameters
    ----------
    channels : sequence of int
        Of the levels, the finest first.
    fold : int
        Pixels along the side of a pixel of the finest level.
    bytes_a_number : int
    """
    kept: float = sum(width / (fold * 2**level) ** 2 for level, width in enumerate(channels))
    largest_pooled = max(
        (width / (fold * 2 ** (level + 1)) ** 2 for level, width in enumerate(channels[:-1])),
        default=0.0,
    )
    return bytes_a_number * (kept + largest_pooled)
