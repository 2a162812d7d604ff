"""A segmenter as a graph of OpenVINO, in 32-bit floats or with convolutions in 8-bit integers.

An 8-bit number stands for one of 256 evenly spaced values. Of such values, the graph holds 0..1
after rectifiers and -1..127/128 elsewhere, so every channel of a feature has a scale: the value
that 1 stands for (:mod:`histocli.model.calibration`). Scales are folded into the weights of the
convolutions before and behind (Nagel et al. 2019), which costs no time, and in 32-bit floats
changes nothing but the rounding. Weights get 255 values, their range being that of each output
channel. OpenVINO computes a convolution in integers where it finds both so marked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.base.types import FloatArray
from histocli.model.bands import without_normalisation
from histocli.model.blocks import ConvBlock

if TYPE_CHECKING:
    from histocli.model.trunk import FrozenConv

SIX = 6.0  # upper limit of the trunk's rectifiers
LARGEST_SIGNED = 127 / 128  # so that 0 is one of the 256 values


def without_telemetry() -> Any:
    """Import and return OpenVINO, such that it reports nothing to anyone.

    When it is imported, it otherwise writes an identity into the home folder and sends a message,
    by the package openvino-telemetry, which pip installs with it and which it can do without.
    """
    blocked = "openvino_telemetry"
    known = {blocked: sys.modules[blocked]} if blocked in sys.modules else {}
    sys.modules[blocked] = None  # type: ignore[assignment]  # its import now fails
    try:
        import openvino
        import openvino.opset13
    finally:
        del sys.modules[blocked]
        sys.modules.update(known)
    return openvino


@dataclass(frozen=True)
class Feature:
    """What a layer of the graph returns."""

    node: Any
    """Of OpenVINO; shape (N, C, H, W)."""
    scale: FloatArray
    """Value that 1 of ``node`` stands for, shape (C,)."""
    signed: bool = False
    """Whether the range of 8-bit numbers is -1..127/128 and not 0..1."""


@dataclass(frozen=True)
class Layer:
    """A convolution in 32-bit floats, with batch normalisation and standardising folded in."""

    weight: FloatArray
    """Shape (C_out, C_in / groups, side, side)."""
    bias: FloatArray
    """Shape (C_out,)."""
    stride: int = 1
    before: int = 1
    """Pixels of padding above and left."""
    behind: int = 1
    """Pixels of padding below and right."""
    groups: int = 1

    @classmethod
    def of_block(cls, block: ConvBlock) -> Layer:
        """Return the convolution of a block, without its rectifier."""
        weight, bias = without_normalisation(block)
        return cls(weight.detach().float().numpy(), bias.detach().float().numpy())

    @classmethod
    def of_frozen(cls, layer: FrozenConv) -> Layer:
        """Return a convolution of the trunk, without its rectifier."""
        weight, bias = layer.weight.float().numpy(), layer.bias.float().numpy()
        return cls(weight, bias, layer.stride, layer.before, layer.behind, layer.groups)


class Graph:
    """Builds a graph from pixels to values in 0..1."""

    def __init__(self, eight_bits: bool) -> None:
        self._openvino = without_telemetry()
        opset = self._openvino.opset13
        self.eight_bits = eight_bits
        self._op = opset
        self._tiles = opset.parameter([1, -1, -1, 3], np.uint8, name="tiles")
        self._pixels = opset.transpose(
            opset.convert(self._tiles, "f32"), opset.constant([0, 3, 1, 2])
        )

    def pixels(self, mean: float) -> Feature:
        """Return sRGB in 0..255 minus a mean, so that padding by zero shows the mean."""
        node = self._op.subtract(self._pixels, self._number(mean))
        return Feature(node, np.ones(3, np.float32))

    def convolved(
        self, parts: Sequence[Feature], layer: Layer, scale: FloatArray, *, exact: bool = False
    ) -> Any:
        """Return a node: a convolution on joined features, its channels divided by ``scale``.

        Features of both ranges are convolved apart and added. ``exact`` keeps 32-bit weights.
        """
        found, first = None, 0
        for signed in (False, True):
            alike: list[tuple[Feature, FloatArray]] = []
            first = 0
            for part in parts:
                one = slice(first, first + len(part.scale))
                first = one.stop
                if part.signed == signed:
                    alike.append((part, _scaled(layer, one, part.scale, scale)))
            if not alike:
                continue
            node = alike[0][0].node
            if len(alike) > 1:
                node = self._op.concat([part.node for part, _ in alike], 1)
            node = self._one(node, layer, np.concatenate([each for _, each in alike], 1), exact)
            found = node if found is None else self._op.add(found, node)
        bias = (layer.bias / scale).astype(np.float32).reshape(1, -1, 1, 1)
        return self._op.add(found, self._op.constant(bias))

    def _one(self, node: Any, layer: Layer, weight: FloatArray, exact: bool) -> Any:
        where = ([layer.stride] * 2, [layer.before] * 2, [layer.behind] * 2, [1, 1])
        if layer.groups == 1:
            return self._op.convolution(node, self._weights(weight, exact), *where)
        weight = weight.reshape(layer.groups, -1, *weight.shape[1:])
        return self._op.group_convolution(node, self._weights(weight, exact), *where)

    def _weights(self, weight: FloatArray, exact: bool) -> Any:
        if exact or not self.eight_bits:
            return self._op.constant(weight)
        axes = tuple(range(weight.ndim - 3, weight.ndim))
        largest = np.maximum(np.abs(weight).max(axis=axes, keepdims=True), 1e-9)
        low, high = self._op.constant(-largest), self._op.constant(largest)
        return self._op.fake_quantize(self._op.constant(weight), low, high, low, high, 255)

    def rectified(
        self, node: Any, scale: FloatArray, *, limited: bool = False, exact: bool = False
    ) -> Feature:
        """Return a node cut off below 0 and, if ``limited``, above 1."""
        node = self._op.clamp(node, 0.0, 1.0) if limited else self._op.relu(node)
        return Feature(node if exact else self._in_eight_bits(node, 0.0, 1.0), scale)

    def signed(self, node: Any, scale: FloatArray) -> Feature:
        """Return a node that no rectifier follows."""
        return Feature(self._in_eight_bits(node, -1.0, LARGEST_SIGNED), scale, signed=True)

    def _in_eight_bits(self, node: Any, low: float, high: float) -> Any:
        if not self.eight_bits:
            return node
        least, most = self._number(low), self._number(high)
        return self._op.fake_quantize(node, least, most, least, most, 256)

    def block(self, parts: Sequence[Feature], block: ConvBlock, scale: FloatArray) -> Feature:
        """Return the result of a block on joined features."""
        return self.rectified(self.convolved(parts, Layer.of_block(block), scale), scale)

    def added(self, node: Any, feature: Feature) -> Any:
        """Return the sum of a node and of a feature of the same scale."""
        return self._op.add(node, feature.node)

    def halved(self, feature: Feature) -> Feature:
        """Return the largest value of each 2 x 2 pixels."""
        two, none = [2, 2], [0, 0]
        node = self._op.max_pool(feature.node, two, [1, 1], none, none, two).output(0)
        return Feature(node, feature.scale, feature.signed)

    def doubled(self, feature: Feature) -> Feature:
        """Return each pixel 2 x 2 times."""
        scales = self._op.constant(np.array([2, 2], np.float32))
        axes, none = self._op.constant(np.array([2, 3])), [0, 0, 0, 0]
        node = self._op.interpolate(
            feature.node, scales, "nearest", "scales", none, none, "asymmetric", "floor",
            False, -0.75, axes,
        )  # fmt: skip
        return Feature(node, feature.scale, feature.signed)

    def _number(self, value: float) -> Any:
        return self._op.constant(np.float32(value))

    def finished(self, head: Sequence[Feature], layer: Layer, fold: int) -> Any:
        """Return the model of OpenVINO: tiles (1, H, W, 3) to values in 0..1 (1, logits, H, W)."""
        logits = self.convolved(head, layer, np.ones(len(layer.bias), np.float32))
        values = self._op.sigmoid(logits)
        if fold > 1:
            values = self._op.depth_to_space(values, "depth_first", fold)
        return self._openvino.Model([self._op.result(values)], [self._tiles], "segmenter")


def _scaled(layer: Layer, part: slice, before: FloatArray, behind: FloatArray) -> FloatArray:
    """Return the weights for some channels, given the scales of input and output."""
    if layer.groups == 1:
        weight = layer.weight[:, part] * before[None, :, None, None]
    else:
        weight = layer.weight * before[:, None, None, None]
    return np.asarray(weight / behind[:, None, None, None], np.float32)
