import numpy as np
import pytest

from histocli.model.normalisation import (
    LARGEST_GAIN,
    Contrast,
    contrast_of,
    density_table,
    glass_to_white,
    raise_contrast,
    white_to_glass,
)
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


@pytest.mark.parametrize("floor", [0.12, 0.15])
def test_a_flat_image_is_brought_up_to_the_floor(floor):
    image = flat_tissue(0.08)
    raised = raise_contrast(image, contrast_of([image]), floor)
    assert contrast_of([raised]).spread == pytest.approx(floor, rel=0.03)
    assert contrast_of([raised]).mean == pytest.approx(contrast_of([image]).mean, abs=0.01)
    assert (raised[:8, :8] == 255).all()  # glass stays white


def test_what_is_not_flat_is_left_alone():
    image = flat_tissue(0.2)
    for contrast, floor in ((contrast_of([image]), 0.15), (contrast_of([image]), 0.0), (None, 0.3)):
        assert raise_contrast(image, contrast, floor) is image


def test_noise_is_not_blown_up_without_end():
    assert Contrast((0.5, 0.5, 0.5), 0.01).gain(0.2) == LARGEST_GAIN
    assert Contrast((0.5, 0.5, 0.5), 0.0).gain(0.2) == LARGEST_GAIN


def test_absorbances_before_are_found_again():
    image = flat_tissue(0.08)
    contrast = contrast_of([image])
    raised = raise_contrast(image, contrast, 0.12)
    table = density_table(contrast, 0.12)
    inside = image.max(axis=2) < 250
    found = table[raised, range(3)][inside]
    np.testing.assert_allclose(found, rgb_to_optical_density(image)[inside], atol=0.02)
    assert np.array_equal(
        density_table(None, 0.12)[:, 1], rgb_to_optical_density(np.arange(256, dtype=np.uint8))
    )
