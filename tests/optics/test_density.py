"""Light to absorbance and back is the identity, and NumPy and torch tell the same."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from histocli.optics.density import (
    LOWEST_WHITE,
    WHITE_LEVEL,
    light_to_optical_density,
    optical_density_to_light,
    optical_density_to_rgb,
    rgb_to_optical_density,
    white_level,
)

EVERY_LEVEL = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def test_light_to_absorbance_and_back_is_the_identity():
    density = rgb_to_optical_density(EVERY_LEVEL)
    assert density.dtype == np.float32
    np.testing.assert_array_equal(optical_density_to_rgb(density), EVERY_LEVEL)


@given(st.integers(0, 255), st.floats(LOWEST_WHITE, WHITE_LEVEL))
def test_the_identity_holds_up_to_the_level_of_glass(level, white):
    image = np.full((1, 1, 3), level, np.uint8)
    back = optical_density_to_rgb(rgb_to_optical_density(image, white), white)
    # what is brighter than glass is glass
    assert abs(int(back[0, 0, 0]) - min(level, white - 1)) <= 0.51


def test_absorbance_is_finite_positive_and_falls_with_light():
    density = rgb_to_optical_density(EVERY_LEVEL)[:, 0]
    assert np.isfinite(density).all()
    assert density[255] == 0
    assert (np.diff(density) < 0).all()
    assert density[127] == pytest.approx(np.log(2))


def test_absorbances_add_where_light_is_weakened_twice():
    first, second = np.array([[[0.3, 0.5, 0.1]]]), np.array([[[0.2, 0.1, 0.4]]])
    both = optical_density_to_rgb(first + second).astype(float) + 1
    each = (
        (optical_density_to_rgb(first) + 1.0) * (optical_density_to_rgb(second) + 1.0) / WHITE_LEVEL
    )
    np.testing.assert_allclose(both, each, atol=1.5)


def test_torch_and_numpy_agree():
    rng = np.random.default_rng(0)
    density = rng.uniform(0, 4, (5, 7, 3)).astype(np.float32)
    for white in (WHITE_LEVEL, 180.0):
        light = optical_density_to_light(torch.from_numpy(density), white)
        np.testing.assert_array_equal(
            light.round().to(torch.uint8).numpy(), optical_density_to_rgb(density, white)
        )
    back = light_to_optical_density(torch.from_numpy(EVERY_LEVEL.astype(np.float32)))
    np.testing.assert_allclose(back.numpy(), rgb_to_optical_density(EVERY_LEVEL), atol=1e-5)


@pytest.mark.parametrize("glass", [90, 180, 230, 255])
def test_the_level_of_glass_is_found_beside_tissue(glass):
    image = np.full((40, 40, 3), glass, np.uint8)
    image[5:35, 5:35] = glass // 2
    assert white_level(image) == glass + 1


def test_a_speck_is_no_glass_and_a_black_image_is_not_underexposed():
    image = np.full((60, 60, 3), 150, np.uint8)
    image[30, 30] = 255
    assert white_level(image) < 160
    assert white_level(np.zeros((5, 5, 3), np.uint8)) == LOWEST_WHITE
    assert white_level(np.full((1, 1, 3), 255, np.uint8)) == WHITE_LEVEL


def test_glass_level_where_the_surroundings_were_filled_with_black():
    """Tissue alone, cut out of its slide: white is glass. Where glass is left, it is measured."""
    pink = np.full((60, 60, 3), (225, 180, 210), np.uint8)
    canvas = np.zeros((100, 100, 3), np.uint8)
    canvas[20:80, 20:80] = pink
    assert white_level(canvas) == WHITE_LEVEL
    canvas[20:80, 20:30] = 219  # dim, colourless glass beside the tissue
    canvas[20:80, 30:80] = (200, 150, 180)
    assert white_level(canvas) == 220
    assert white_level(pink) == 226  # no fill: as in an image of tissue only
