"""The backends that run a trained segmenter on tiles: PyTorch in bands, or OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from histocli.model.bands import BandedNetwork
from histocli.model.trunk_bands import BandedTrunk
from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.model.unet import Segmenter

ROUNDS = 2  # counted runs of each backend; the faster one counts
CLEARLY = 1.2  # how many times faster than the first another backend must be


class TileNetwork(Protocol):
    """A segmenter in the form in which a backend runs it."""

    def maps(self, tiles: Tensor, out: Tensor) -> None:
        """Predict maps: see :meth:`histocli.model.bands.BandedNetwork.maps`."""


def in_bands(
    segmenter: Segmenter, dtype: torch.dtype, between: Callable[[], None] = lambda: None
) -> TileNetwork:
    """Return a segmenter with its present weights, as PyTorch runs it."""
    kind = BandedTrunk if isinstance(segmenter, TrunkSegmenter) else BandedNetwork
    return kind(segmenter, dtype, between=between)


def fastest(networks: Mapping[str, TileNetwork], tiles: Tensor) -> str:
    """Run each network on tiles in turn, and return the name of the fastest.

    ``tiles`` have the shape (N, H, W, 3). The first network is left only for one that is clearly
    faster, so that chance seldom decides.
    """
    out = torch.empty((tiles.shape[0], 2, *tiles.shape[1:3]))
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(1 + ROUNDS):
        for name, network in networks.items():
            start = time.perf_counter()
            network.maps(tiles, out)
            seconds[name].append(time.perf_counter() - start)
    # the first run of each prepares memory and code
    best = {name: min(each[1:]) for name, each in seconds.items()}
    first = next(iter(best))
    name = min(best, key=lambda name: best[name])
    return name if best[name] * CLEARLY < best[first] else first
