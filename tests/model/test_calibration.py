"""The ranges of features, and the tissue on which some are measured."""

import numpy as np
import pytest
import torch

from histocli.model.adaptation import StainRange
from histocli.model.blocks import ConvBlock
from histocli.model.calibration import drawn_tissue, scale_of, trunk_scales
from histocli.model.trunk import Trunk
from histocli.optics.density import rgb_to_optical_density
from histocli.stores.box import read_trunk_weights


def test_a_block_stays_below_its_scale_on_what_it_learnt_from():
    """Its normalisation makes any input one of the mean and spread that the scale is made of."""
    torch.manual_seed(0)
    block = ConvBlock(3, 8)
    with torch.no_grad():
        block.normalisation.weight.uniform_(-2, 2)
        block.normalisation.bias.uniform_(-1, 1)
        found = block.train()(torch.randn(4, 3, 64, 64) * 5 + 2)
    largest = found.amax(dim=(0, 2, 3)).numpy()
    scale = scale_of(block)
    assert (largest <= scale).all()
    assert (scale <= 4 * largest + 1).all()


def test_features_of_the_trunk_stay_below_their_scales_which_sums_share():
    trunk = Trunk()
    trunk.load_state_dict(read_trunk_weights())
    images = drawn_tissue(None)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    for features, level, scales in zip(
        trunk(pixels), trunk.levels, trunk_scales(trunk, images), strict=True
    ):
        largest = features.abs().amax(dim=(0, 2, 3)).numpy()
        assert (largest <= scales[-1]).all()
        for block, before, scale in zip(list(level)[1:], scales, scales[1:], strict=False):
            assert np.array_equal(before, scale) or not block.adds


@pytest.mark.parametrize("darker", [1.0, 1.6])
def test_drawn_tissue_has_the_stains_of_a_model(darker):
    mean, spread = np.array([0.3, 0.6, 0.25]) * darker, np.array([0.2, 0.25, 0.1])
    stains = StainRange(tuple(mean * 0.9), tuple(mean * 1.1), tuple(spread), tuple(spread))
    images = drawn_tissue(stains)
    assert images.dtype == np.uint8
    assert np.array_equal(images, drawn_tissue(stains))
    density = rgb_to_optical_density(images).reshape(-1, 3)
    tissue = density[density.sum(axis=1) > 0.3]
    # nuclei make it darker than the mean of the tissue around them
    assert (np.median(tissue, axis=0) > 0.8 * mean).all()
    assert (np.median(tissue, axis=0) < 1.6 * mean).all()
    assert (density.max(axis=0) > mean + 2 * spread).all()
    assert (density.min(axis=0) < 0.05).all()
