"""A stain is known if it lies no farther from the references than they lie from each other."""

import numpy as np
import pytest

from histocli.model.known_stains import LEAST_LIMIT, KnownStains, measure_known_stains
from histocli.model.normalisation import Contrast, tissue_moments
from histocli.optics.density import optical_density_to_rgb


def moments_of(means, spread=0.1, seed=0):
    """Return the moments of an image for each mean absorbance."""
    rng = np.random.default_rng(seed)
    images = [
        optical_density_to_rgb(
            np.clip(rng.normal(mean, spread, (64, 64, 3)), 0, None).astype(np.float32)
        )
        for mean in means
    ]
    return np.stack([tissue_moments(image) for image in images])


def test_the_distance_is_that_to_the_third_nearest_in_logarithms():
    one = Contrast((0.4, 0.8, 0.5), 0.1, (0.1, 0.2, 0.1))
    rows = [tuple(value * factor for value in (*one.mean, *one.spreads)) for factor in (1, 2, 4, 8)]
    known = KnownStains(tuple(rows), 0.8)
    # the third nearest has every one of the six statistics four times as large
    assert known.distance(one) == pytest.approx(np.sqrt(6) * np.log(4), abs=0.001)
    assert KnownStains(tuple(rows[:1]), 0.8).distance(one) == 0
    assert known.distance(Contrast((0.4, 0.8, 0.5), 0.1)) is None


def test_references_are_near_and_another_stain_is_far():
    means = [(0.3 + 0.01 * k, 0.8 - 0.01 * k, 0.4) for k in range(12)]
    known = measure_known_stains(moments_of(means), np.arange(12))
    assert known.limit == LEAST_LIMIT

    def distance(mean, spread):
        (values,) = measure_known_stains(moments_of([mean], spread), np.zeros(1, int)).statistics
        return known.distance(Contrast(values[:3], values[3], values[3:]))

    assert distance((0.35, 0.75, 0.4), 0.1) < 0.2
    assert distance((0.5, 0.3, 1.2), 0.2) > known.limit  # brown


def test_patches_of_a_reference_count_together_and_json_comes_back():
    moments = moments_of([(0.3, 0.8, 0.4), (0.5, 0.6, 0.4), (0.4, 0.7, 0.5)])
    apart = measure_known_stains(moments, np.arange(3))
    assert len(apart.statistics) == 3
    together = measure_known_stains(moments, np.zeros(3, int))
    assert np.allclose(together.statistics[0][:3], np.mean(apart.statistics, axis=0)[:3], atol=0.01)
    assert KnownStains.from_json(apart.to_json()) == apart
    assert measure_known_stains(np.zeros((2, 7)), np.arange(2)) is None


def test_the_limit_grows_with_references_of_many_stains():
    rng = np.random.default_rng(1)
    means = np.exp(rng.uniform(np.log(0.2), np.log(1.5), (9, 3)))
    assert measure_known_stains(moments_of(means), np.arange(9)).limit > LEAST_LIMIT
