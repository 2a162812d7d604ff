import numpy as np
import pytest

from histocli.model.normalisation import Contrast, contrast_of, glass_to_white, white_to_glass
from histocli.optics.density import (
    WHITE_LEVEL,
    optical_density_to_rgb,
    rgb_to_optical_density,
    white_level,
)


def test_glass_becomes_white_and_absorbance_stays():
    rng = np.random.default_rng(0)
    image = rng.integers(40, 150, (32, 32, 3)).astype(np.uint8)
    image[:8] = 150
    bright = glass_to_white(image, 151.0)
    assert (bright[:8] == 255).all()
    before, after = rgb_to_optical_density(image, 151.0), rgb_to_optical_density(bright)
    assert np.abs(before - after).max() < 0.02  # rounding to grey levels


def test_a_white_image_is_left_alone():
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(glass_to_white(image, WHITE_LEVEL), image)


@pytest.mark.parametrize("shape", [(1, 1, 3), (0, 4, 3), (2, 5, 6, 3)])
def test_any_shape(shape):
    assert glass_to_white(np.full(shape, 100, np.uint8), 128.0).shape == shape


def test_a_dim_copy_of_an_image_is_normalised_to_the_same():
    rng = np.random.default_rng(2)
    image = np.clip(rng.normal(200, 40, (64, 64, 3)), 0, 250).astype(np.uint8)
    image[:16] = 250
    dim = np.rint(image * 0.6).astype(np.uint8)
    both = [glass_to_white(one, white_level(one)).astype(int) for one in (image, dim)]
    assert np.abs(both[0] - both[1]).max() <= 3
    assert np.abs(image.astype(int) - dim).max() > 60  # which they were not before


def test_a_microscope_is_dimmed_back_to_what_it_was():
    image = np.random.default_rng(2).integers(0, 180, (16, 16, 3)).astype(np.uint8)
    back = white_to_glass(glass_to_white(image, 181.0), 181.0)
    assert np.abs(back.astype(int) - image).max() <= 1


def flat_tissue(spread, shape=(64, 64), seed=0):
    """Return tissue whose absorbance of red light has a spread, with a corner of glass."""
    rng = np.random.default_rng(seed)
    density = np.stack([rng.normal(mean, spread, shape) for mean in (0.5, 0.8, 0.6)], axis=-1)
    density[:8, :8] = 0
    return optical_density_to_rgb(np.clip(density, 0, None).astype(np.float32))


def test_contrast_is_that_of_the_tissue():
    contrast = contrast_of([flat_tissue(0.08)])
    assert contrast.mean == pytest.approx((0.5, 0.8, 0.6), abs=0.01)
    assert contrast.spread == pytest.approx(0.08, abs=0.005)
    assert contrast_of([np.full((64, 64, 3), 255, np.uint8)]) is None
    assert Contrast.from_json(contrast.to_json()) == contrast


def test_an_image_in_parts_has_the_contrast_of_the_whole():
    image = flat_tissue(0.1)
    assert contrast_of([image[:10], image[10:], image[:0]]) == contrast_of([image])
