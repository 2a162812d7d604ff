"""Slides of a foreign stain are moved to the edge of what a model knows, and no farther."""

import numpy as np
import pytest

from histocli.model.adaptation import (
    LARGEST_GAIN,
    ContrastFloor,
    StainRange,
    adapt_stain,
    measure_stain_range,
    original_densities,
)
from histocli.model.normalisation import Contrast, contrast_of, tissue_moments
from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density

KNOWN = StainRange((0.3, 0.6, 0.3), (0.5, 0.9, 0.6), (0.08, 0.08, 0.08), (0.2, 0.2, 0.2))


def stained(mean, spread, seed=0):
    """Return tissue whose absorbances have a mean and a spread, with a corner of glass."""
    rng = np.random.default_rng(seed)
    density = np.stack([rng.normal(each, spread, (96, 96)) for each in mean], axis=-1)
    density[:8, :8] = 0
    return optical_density_to_rgb(np.clip(density, 0, None).astype(np.float32))


def test_a_known_stain_is_left_alone():
    image = stained((0.4, 0.8, 0.5), 0.1)
    assert adapt_stain(image, contrast_of([image]), KNOWN) is image


@pytest.mark.parametrize("mean", [(0.4, 0.8, 0.2), (0.8, 0.8, 0.5), (0.2, 0.4, 0.9)])
@pytest.mark.parametrize("spread", [0.05, 0.1])
def test_a_foreign_stain_is_moved_to_the_nearer_edge(mean, spread):
    image = stained(mean, spread)
    before = contrast_of([image])
    after = contrast_of([adapt_stain(image, before, KNOWN)])
    for found, low, high, was in (
        *zip(after.mean, KNOWN.mean_low, KNOWN.mean_high, before.mean, strict=True),
        *zip(after.spreads, KNOWN.spread_low, KNOWN.spread_high, before.spreads, strict=True),
    ):
        # pixels near glass are changed less, so that the edge is reached only nearly
        wanted = np.clip(was, low, high)
        assert abs(found - wanted) <= max(0.4 * abs(was - wanted), 0.03)


def test_glass_stays_white_and_what_was_darker_stays_so():
    table = KNOWN.densities(Contrast((0.9, 0.2, 0.1), 0.4, (0.4, 0.02, 0.05)))
    assert (table[255] == 0).all()
    assert (np.diff(table, axis=0) <= 0).all()


def test_a_slide_changes_alike_in_all_of_its_parts():
    image = stained((0.4, 0.8, 0.1), 0.05)
    contrast = contrast_of([image])
    whole = adapt_stain(image, contrast, KNOWN)
    assert np.array_equal(whole[20:40, 30:], adapt_stain(image[20:40, 30:], contrast, KNOWN))


@pytest.mark.parametrize("adaptation", [KNOWN, ContrastFloor(0.12)])
def test_original_absorbances_are_found_again(adaptation):
    image = stained((0.4, 0.8, 0.2), 0.07)
    contrast = contrast_of([image])
    changed = adapt_stain(image, contrast, adaptation)
    assert (changed != image).any()
    inside = (image.max(axis=2) < 235) & (changed.min(axis=2) > 1)
    found = original_densities(contrast, adaptation)[changed, range(3)][inside]
    np.testing.assert_allclose(found, rgb_to_optical_density(image)[inside], atol=0.04)


def test_without_a_stain_or_an_adaptation_nothing_changes():
    image = stained((0.4, 0.8, 0.1), 0.05)
    plain = rgb_to_optical_density(np.arange(256, dtype=np.uint8))
    for contrast, adaptation in ((None, KNOWN), (contrast_of([image]), None)):
        assert adapt_stain(image, contrast, adaptation) is image
        assert np.array_equal(original_densities(contrast, adaptation)[:, 1], plain)
    # a store of an earlier version knows the spread of red light only
    assert KNOWN.densities(Contrast((0.4, 0.8, 0.1), 0.05)) is None


def test_the_range_is_that_of_the_middle_groups():
    rng = np.random.default_rng(1)
    means = rng.uniform(0.3, 0.9, 9)
    images = [stained((mean, 0.8, 0.5), 0.1, seed) for seed, mean in enumerate(means)]
    moments = np.array([tissue_moments(each) for each in images for _ in range(2)])
    found = measure_stain_range(moments, np.repeat(np.arange(9), 2), 0.25)
    known = np.quantile([contrast_of([each]).mean[0] for each in images], [0.25, 0.75])
    assert [found.mean_low[0], found.mean_high[0]] == pytest.approx(known, abs=1e-3)
    assert StainRange.from_json(found.to_json()) == found
    middle = measure_stain_range(moments, np.repeat(np.arange(9), 2), 0.5)
    assert middle.mean_low == middle.mean_high
    assert measure_stain_range(moments, np.zeros(18, int), 0) is None
    assert measure_stain_range(np.zeros((2, 7)), np.arange(2), 0.25) is None


@pytest.mark.parametrize("floor", [0.12, 0.15])
def test_a_flat_image_is_brought_up_to_the_floor(floor):
    image = stained((0.5, 0.8, 0.6), 0.08)
    raised = adapt_stain(image, contrast_of([image]), ContrastFloor(floor))
    assert contrast_of([raised]).spread == pytest.approx(floor, rel=0.03)
    assert contrast_of([raised]).mean == pytest.approx(contrast_of([image]).mean, abs=0.01)
    assert (raised[:8, :8] == 255).all()  # glass stays white


def test_what_is_not_flat_is_left_alone():
    image = stained((0.5, 0.8, 0.6), 0.2)
    assert adapt_stain(image, contrast_of([image]), ContrastFloor(0.15)) is image


def test_noise_is_not_blown_up_without_end():
    for spread in (0.01, 0.0):
        assert ContrastFloor(0.2).gain(Contrast((0.5, 0.5, 0.5), spread)) == LARGEST_GAIN
