"""Run a trained segmenter by OpenVINO, the optional package of the extra ``fast``.

Its convolutions on the CPU take a third of the time of PyTorch's where the processor multiplies
8-bit integers, as nearly all have done since 2019, but has no bfloat16.

A tile is computed as a whole, not in bands (:mod:`histocli.model.bands`), so tiles must be smaller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histocli.base.types import FloatArray
from histocli.model.adaptation import Adaptation
from histocli.model.bands import on_pixels, without_normalisation
from histocli.model.blocks import ConvBlock
from histocli.model.calibration import drawn_tissue, scale_of, trunk_scales
from histocli.model.graph import SIX, Feature, Graph, Layer, without_telemetry
from histocli.model.levels import LevelNetwork
from histocli.model.normalisation import PIXEL_MEAN
from histocli.model.trunk import INPUT_MEAN, INPUT_SPREAD, FrozenBlock, FrozenConv
from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.model.unet import Segmenter, blocks_of

PRECISIONS = {"int8": "f32", "fp32": "f32", "bf16": "bf16"}
"""OpenVINO's name of the format of what is not in 8 bits, for each precision."""
SHAPES = 16
"""Shapes of tiles for which the network is kept, without its memory for tensors: the parts of a
large slide have few shapes, but take turns."""
WORKSPACE = 3.0
"""Bytes that a tile takes for each byte of the largest tensor; measured, with some reserve."""


class CompiledNetwork:
    """The counterpart of ``BandedNetwork`` for OpenVINO; any thread may call it.

    Parameters
    ----------
    network : Segmenter
        On the CPU, with its present weights.
    precision : {"int8", "fp32", "bf16"}
        Number format of convolutions.
    adaptation : Adaptation, optional
        Of the model; knows the stains of its references.
    threads : int
    between : callable, optional
        Called between tiles; may raise.
    """

    def __init__(
        self,
        network: Segmenter,
        precision: str,
        *,
        adaptation: Adaptation | None,
        threads: int,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._network, self._between, self._lock = network, between, Lock()
        self._settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # other threads decode meanwhile
        }
        self._core = _core()
        self._model = graph_of(network, precision == "int8", adaptation)
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._request: Any = None

    @torch.inference_mode()
    def maps(self, tiles: Tensor, out: Tensor) -> None:
        """Predict: see :meth:`histocli.model.bands.BandedNetwork.maps`."""
        for tile, kept in zip(tiles, out, strict=True):
            self._between()
            with self._lock:
                request = self._request_for(tuple(tile.shape))
                found = request.infer({0: tile[None].numpy()}, share_inputs=True)
                values = torch.from_numpy(next(iter(found.values())))
                kept.copy_(self._network.maps_of(values)[0])

    def _request_for(self, shape: tuple[int, ...]) -> Any:
        """Return the network compiled for a shape of tiles.

        Compiled for any shape, it would take twice the memory, and more with every shape.
        """
        last = next(reversed(self._compiled), None)
        if shape != last:
            self._request = None
            if last is not None:
                self._compiled[last].release_memory()
            if shape not in self._compiled:
                while len(self._compiled) >= SHAPES:
                    self._compiled.popitem(last=False)
                model = self._model.clone()
                model.reshape({0: [1, *shape]})
                self._compiled[shape] = self._core.compile_model(model, "CPU", self._settings)
            self._compiled.move_to_end(shape)
            self._request = self._compiled[shape].create_infer_request()
        return self._request


@cache
def _core() -> Any:
    """Return the entry to OpenVINO, which stays until the process ends.

    It gives the thread in which it is made a stack for signals, and takes this away when it is
    freed: in another thread, it would take away a stack that is still in use, and the next signal
    would end the process.
    """
    return without_telemetry().Core()


def graph_of(network: Segmenter, eight_bits: bool, adaptation: Adaptation | None) -> Any:
    """Return the model of OpenVINO for a segmenter."""
    graph = Graph(eight_bits)
    if isinstance(network, TrunkSegmenter):
        kept = _trunk(graph, network, adaptation)
        up = [blocks_of(level) for level in reversed(network.decoder)]
    else:
        kept = _down(graph, network)
        up = [list(level.up) for level in network.levels[:-1]]
    joined = kept.pop()
    while kept:
        first, *others = up.pop()
        joined = [graph.doubled(_only(joined)), *kept.pop()]
        joined = [graph.block(joined, first, scale_of(first))]
        for block in others:
            joined = [graph.block(joined, block, scale_of(block))]
    head = network.head
    assert head.bias is not None
    layer = Layer(head.weight.detach().float().numpy(), head.bias.detach().float().numpy())
    return graph.finished(joined, layer, network.fold)


def _only(features: list[Feature]) -> Feature:
    (feature,) = features
    return feature


def _stem(graph: Graph, network: Segmenter, block: ConvBlock) -> Feature:
    """Return the result of the block that sees cells of pixels."""
    weight, bias = without_normalisation(block)
    side = network.fold
    layer = Layer(
        on_pixels(weight, side).detach().float().numpy(),
        bias.detach().float().numpy(),
        stride=side,
        before=side,
        behind=side,
    )
    scale = scale_of(block)
    node = graph.convolved([graph.pixels(255 * PIXEL_MEAN)], layer, scale, exact=True)
    return graph.rectified(node, scale)


def _down(graph: Graph, network: Segmenter) -> list[list[Feature]]:
    """Return what each level of a U-Net keeps, the finest first."""
    kept: list[list[Feature]] = []
    for level in network.levels:
        first, *others = level.down
        if kept:
            feature = graph.block([graph.halved(_only(kept[-1]))], first, scale_of(first))
        else:
            feature = _stem(graph, network, first)
        for block in others:
            feature = graph.block([feature], block, scale_of(block))
        kept.append([feature])
    return kept


def _trunk(
    graph: Graph, network: TrunkSegmenter, adaptation: Adaptation | None
) -> list[list[Feature]]:
    """Return what each level of a trunk passes to the decoder, the finest first.

    The first level sees the image itself, where steps of 8 bits would show, and stays exact.
    """
    trunk = network.trunk
    scales = trunk_scales(trunk, drawn_tissue(adaptation)) if graph.eight_bits else None
    stem = Layer.of_frozen(trunk.stem)
    pixels = graph.pixels(255 * INPUT_MEAN)
    pixels = Feature(pixels.node, pixels.scale / np.float32(255 * INPUT_SPREAD))
    feature = _limited(graph, pixels, stem, exact=True)
    kept: list[list[Feature]] = []
    for number, level in enumerate(trunk.levels):
        for index, block in enumerate(level.children()):
            assert isinstance(block, FrozenBlock)
            one = np.ones(len(block.narrow.bias), np.float32)
            scale = one if scales is None else scales[number][index]
            feature = _frozen(graph, feature, block, scale, exact=number == 0)
        kept.append([feature])
    kept[0].append(_stem(graph, network, network.stem))
    return kept


def _limited(graph: Graph, feature: Feature, layer: Layer, exact: bool) -> Feature:
    """Return the result of a layer of the trunk with its rectifier."""
    scale = np.full(len(layer.bias), SIX, np.float32)
    node = graph.convolved([feature], layer, scale, exact=exact)
    return graph.rectified(node, scale, limited=True, exact=exact)


def _frozen(
    graph: Graph, feature: Feature, block: FrozenBlock, scale: FloatArray, exact: bool
) -> Feature:
    """Return the result of a block of the trunk, for a scale of its result."""
    x = feature
    for layer in _rectified_layers(block):
        x = _limited(graph, x, Layer.of_frozen(layer), exact)
    node = graph.convolved([x], Layer.of_frozen(block.narrow), scale, exact=exact)
    return graph.signed(graph.added(node, feature) if block.adds else node, scale)


def _rectified_layers(block: FrozenBlock) -> Iterator[FrozenConv]:
    if block.widen is not None:
        yield block.widen
    yield block.filter


def expected_bytes(network: LevelNetwork, pixels: float, bytes_a_number: int) -> float:
    """Return the largest number of bytes that a tile of ``pixels`` pixels takes, maps included.

    Of networks in 8 bits, some layers are not; 2 bytes are a fair mean.
    """
    return pixels * (WORKSPACE * network.widest_per_px * bytes_a_number + 8)
