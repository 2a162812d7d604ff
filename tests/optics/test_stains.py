"""Stains known by construction are found, and images that cannot tell say so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density
from histocli.optics.stains import (
    TYPICAL_STAINS,
    StainEstimate,
    estimate_stains,
    mix,
    restain,
    stain_angle,
    unmix,
)
from tests.tissue import make_tissue


def unit(rows):
    rows = np.asarray(rows, float)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def angles_between(first, second):
    return np.rad2deg(np.arccos(np.clip((unit(first) * unit(second)).sum(axis=1), -1, 1)))


def stained(matrix, gain=1.0, seed=0, side=80):
    """Return an image where many pixels carry one stain and many both."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.3, 1.2, (side, side, 2)) * gain
    which = rng.integers(0, 3, (side, side))
    amounts[which == 0, 1] *= 0.02
    amounts[which == 1, 0] *= 0.02
    return optical_density_to_rgb(amounts @ np.asarray(matrix))


@given(st.floats(0.05, 1.5), st.floats(0.05, 1.5), st.integers(0, 2**31))
def test_unmixing_undoes_mixing(hematoxylin, eosin, seed):
    matrix = unit(TYPICAL_STAINS + np.random.default_rng(seed).uniform(-0.1, 0.1, (2, 3))).astype(
        np.float32
    )
    amounts = np.array([[hematoxylin, eosin]], np.float32)
    np.testing.assert_allclose(unmix(mix(amounts, matrix), matrix), amounts, atol=1e-3)


def test_unmixing_is_least_squares():
    """The oracle is LAPACK's solver, one pixel at a time."""
    density = np.random.default_rng(1).uniform(0, 2, (6, 3)).astype(np.float32)
    expected = [np.linalg.lstsq(TYPICAL_STAINS.T, pixel, rcond=None)[0] for pixel in density]
    np.testing.assert_allclose(unmix(density, TYPICAL_STAINS), expected, atol=1e-4)


@pytest.mark.parametrize(
    "matrix",
    [
        TYPICAL_STAINS,
        unit([[0.55, 0.76, 0.34], [0.10, 0.95, 0.28]]),
        unit([[0.75, 0.60, 0.28], [0.18, 0.90, 0.15]]),
    ],
)
def test_stains_known_by_construction_are_found(matrix):
    found = estimate_stains(rgb_to_optical_density(stained(matrix)))
    assert found.measured
    assert found.reason == ""
    assert angles_between(found.stain_matrix, matrix).max() < 4
    np.testing.assert_allclose(np.linalg.norm(found.stain_matrix, axis=1), 1, atol=1e-5)


def test_hematoxylin_comes_first_whichever_prevails():
    for share in (0.1, 0.9):
        rng = np.random.default_rng(0)
        amounts = rng.uniform(0.3, 1.2, (80, 80, 2))
        only = rng.random((80, 80)) < share
        amounts[only, 1] *= 0.02
        amounts[~only, 0] *= 0.02
        found = estimate_stains(mix(amounts, TYPICAL_STAINS))
        assert found.measured
        assert found.stain_matrix[0, 0] > found.stain_matrix[1, 0] + 0.3


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_pale_and_strong_stains_have_the_same_colours(gain):
    found = estimate_stains(rgb_to_optical_density(stained(TYPICAL_STAINS, gain)))
    assert found.measured
    assert angles_between(found.stain_matrix, TYPICAL_STAINS).max() < 6


def hopeless():
    """Yield images that cannot tell their stains, each with a word of the reason."""
    side = 64
    rng = np.random.default_rng(0)
    nearly_empty = np.full((side, side, 3), 245, np.uint8)
    nearly_empty[:5, :5] = (120, 60, 140)
    yield "white", np.full((side, side, 3), 255, np.uint8), "few"
    yield "black", np.zeros((side, side, 3), np.uint8), "few"
    yield "nearly empty", nearly_empty, "few"
    yield "pale", stained(TYPICAL_STAINS, 0.05), "few"
    yield (
        "grey",
        np.repeat(rng.integers(20, 240, (side, side, 1), dtype=np.uint8), 3, axis=2),
        "one colour",
    )
    yield "one colour", np.full((side, side, 3), (180, 90, 160), np.uint8), "one colour"
    yield "rainbow", rng.integers(0, 255, (side, side, 3), dtype=np.uint8), "colours"
    yield "green and blue", stained(unit([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])), "colours"
    yield "one pixel", np.full((1, 1, 3), 90, np.uint8), "few"


@pytest.mark.parametrize(
    ("image", "reason"), [pytest.param(image, word, id=name) for name, image, word in hopeless()]
)
def test_images_that_cannot_tell_get_the_typical_colours_and_say_why(image, reason):
    found = estimate_stains(rgb_to_optical_density(image))
    assert isinstance(found, StainEstimate)
    assert not found.measured
    assert reason in found.reason
    np.testing.assert_array_equal(found.stain_matrix, TYPICAL_STAINS)


def test_an_overstained_image_stays_finite():
    found = estimate_stains(rgb_to_optical_density(stained(TYPICAL_STAINS, 6.0)))
    assert np.isfinite(found.stain_matrix).all()
    assert found.measured != bool(found.reason)  # measured, or a reason


def test_tissue_shows_its_stains():
    tissue = make_tissue()
    found = estimate_stains(rgb_to_optical_density(tissue.image))
    assert found.measured
    # no pixel of tissue is free of eosin, so the extremes lie between the true colours
    amounts = unmix(rgb_to_optical_density(tissue.image), found.stain_matrix)
    inside = tissue.labels > 0
    assert amounts[inside, 0].mean() > 4 * abs(amounts[~inside, 0].mean())


def test_restained_tissue_has_the_other_stains_in_the_amounts_asked_for():
    other = unit([[0.55, 0.8, 0.25], [0.15, 0.95, 0.3]])
    amounts = np.random.default_rng(0).uniform(0.1, 1, (6, 7, 2))
    before = mix(amounts, TYPICAL_STAINS)
    after = restain(before, TYPICAL_STAINS, other, np.array([1.5, 0.8]))
    assert np.allclose(unmix(after, other), amounts * [1.5, 0.8], atol=1e-4)
    assert np.allclose(
        restain(before, TYPICAL_STAINS, TYPICAL_STAINS, np.ones(2)), before, atol=1e-5
    )


def test_the_angle_between_stains_is_that_of_their_medians():
    turned = np.array([TYPICAL_STAINS[0], [np.cos(0.5), 0, np.sin(0.5)]])
    upright = np.array([TYPICAL_STAINS[0], [1, 0, 0]])
    outlier = TYPICAL_STAINS[::-1]
    assert stain_angle([turned], [turned]) == pytest.approx(0, abs=0.05)
    assert stain_angle([upright, upright, outlier], [turned]) == pytest.approx(np.rad2deg(0.5))
