"""Several looks at a tile: the maps of some networks at some magnifications, averaged.

A network is better at some sizes of nuclei than at others, and two networks err at different
nuclei. The mean of their maps errs less than each (Hansen and Salamon 1990).

Magnifications are quarters, and resampled pixels are laid over the image at multiples of four
pixels. Tiles begin there too, so that a pixel is resampled alike wherever its tile begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from histocli.model.backends import TileNetwork

ONE = Fraction(1)
QUARTERS = 4
"""Magnifications are multiples of a quarter."""
REACH_PX = 2  # how far resampling there and back sees


class WithReach(Protocol):
    """What a network needs of a tile."""

    @property
    def multiple_px(self) -> int:
        """Sides of tiles are multiples of this."""

    @property
    def halo_px(self) -> int:
        """How far the network sees."""


class Look(NamedTuple):
    """A network, and the magnification at which it sees tiles."""

    network: TileNetwork
    scale: Fraction


class AveragedNetwork:
    """A network that averages the maps of looks; see :class:`histocli.model.backends.TileNetwork`.

    Parameters
    ----------
    looks : sequence of Look
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = tuple(looks)

    @torch.inference_mode()
    def maps(self, tiles: Tensor, out: Tensor) -> None:
        """Predict: see :meth:`histocli.model.bands.BandedNetwork.maps`.

        The sides of tiles are multiples of :func:`multiple_of`.
        """
        first, *others = self._looks
        self._add(first, tiles, out, new=True)
        for look in others:
            self._add(look, tiles, out, new=False)
        out /= len(self._looks)

    @staticmethod
    def _add(look: Look, tiles: Tensor, out: Tensor, *, new: bool) -> None:
        if new and look.scale == ONE:
            look.network.maps(tiles, out)
            return
        seen = tiles
        if look.scale != ONE:
            light = resampled(tiles.permute(0, 3, 1, 2).float(), look.scale)
            seen = light.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        found = out.new_empty((*out.shape[:2], *seen.shape[1:3]))
        look.network.maps(seen, found)
        if look.scale != ONE:
            found = resampled(found, 1 / look.scale)
        if new:
            out.copy_(found)
        else:
            out += found


def multiple_of(networks: Sequence[WithReach], scales: Sequence[Fraction]) -> int:
    """Return the number of pixels of which sides of tiles must be multiples for all looks."""
    multiples = (
        network.multiple_px * scale.denominator for network in networks for scale in scales
    )
    return math.lcm(*multiples)


def halo_of(networks: Sequence[WithReach], scales: Sequence[Fraction]) -> int:
    """Return how many pixels around it a pixel depends on, over all looks."""
    farthest = max(network.halo_px for network in networks)
    if set(scales) == {ONE}:
        return farthest
    smallest = min(scales)
    return -(-farthest * smallest.denominator // smallest.numerator) + REACH_PX


def resampled(planes: Tensor, scale: Fraction) -> Tensor:
    """Resample planes linearly.

    Parameters
    ----------
    planes : Tensor of float32, shape (N, C, H, W)
        H and W are multiples of the denominator of ``scale``.
    scale : Fraction
        Magnification. Shrunk images are averaged over the width of the new pixel.

    Returns
    -------
    Tensor of float32, shape (N, C, scale * H, scale * W)
        Beyond the border, the planes are continued by their last pixel.
    """
    return _along_rows(_along_rows(planes, scale).mT, scale).mT.contiguous()


def _along_rows(planes: Tensor, scale: Fraction) -> Tensor:
    """Resample along the last axis.

    The weights repeat after as many results as the numerator says, so each of these is a fixed sum
    of strided pixels: no rounding depends on the place.
    """
    made, of = scale.numerator, scale.denominator
    width = planes.shape[-1]
    reach = math.ceil(max(1, 1 / scale)) + 1
    padded = functional.pad(planes, (reach, reach, 0, 0), mode="replicate")
    out = planes.new_empty((*planes.shape[:-1], width // of * made))
    half_width = max(1.0, float(1 / scale))  # of the triangle that weighs pixels
    for phase in range(made):
        centre = (phase + 0.5) / float(scale) - 0.5
        places = range(math.floor(centre - half_width) + 1, math.ceil(centre + half_width))
        weights = [1 - abs(place - centre) / half_width for place in places]
        column = torch.zeros((), device=planes.device)
        for place, weight in zip(places, weights, strict=True):
            first = reach + place
            part = padded[..., first : first + width - of + 1 : of]
            column = column + part * (weight / sum(weights))
        out[..., phase::made] = column
    return out
