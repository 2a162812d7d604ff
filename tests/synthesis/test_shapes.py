"""Outlines have the area and the axes that were asked for, and are smooth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.rng import rng_for
from histocli.synthesis.shapes import ANGLES, DIRECTIONS, draw_outline, turned


def polygon_area(outline):
    x, y = outline.radii_px * np.cos(ANGLES), outline.radii_px * np.sin(ANGLES)
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def axes(outline):
    """Return the elongation and direction of the filled polygon, from its pixels."""
    reach = int(outline.reach_px) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = np.arctan2(y, x) / (2 * np.pi) * DIRECTIONS
    border = np.interp(
        angle % DIRECTIONS,
        np.arange(DIRECTIONS + 1),
        np.append(outline.radii_px, outline.radii_px[0]),
    )
    ys, xs = np.nonzero(np.hypot(y, x) < border)
    values, vectors = np.linalg.eigh(np.cov(np.stack([xs, ys])))
    return np.sqrt(values[1] / values[0]), np.arctan2(vectors[1, 1], vectors[0, 1])


@given(
    st.floats(50, 5000),
    st.floats(1, 3),
    st.floats(-3, 3),
    st.floats(0, 0.1),
    st.integers(0, 10_000),
)
def test_the_area_is_the_one_asked_for(area, elongation, direction, irregularity, seed):
    outline = draw_outline(area, elongation, direction, irregularity, rng_for(seed, "outline"))
    # a polygon of 64 corners lies inside its curve
    assert polygon_area(outline) == pytest.approx(area, rel=0.02)
    assert (outline.radii_px > 0).all()
    assert outline.reach_px == outline.radii_px.max()


@given(st.floats(1.2, 3), st.floats(-1.5, 1.5), st.integers(0, 10_000))
def test_without_irregularity_it_is_the_ellipse(elongation, direction, seed):
    outline = draw_outline(900, elongation, direction, 0, rng_for(seed, "outline"))
    found, angle = axes(outline)
    assert found == pytest.approx(elongation, rel=0.04)
    assert abs((angle - direction + np.pi / 2) % np.pi - np.pi / 2) < 0.06
    assert outline.major_px / outline.minor_px == pytest.approx(elongation)


def test_irregularity_is_the_relative_spread_of_the_radius():
    spreads = [
        (outline.radii_px / outline.radii_px.mean()).std()
        for outline in (
            draw_outline(900, 1, 0, 0.08, rng_for(seed, "outline")) for seed in range(200)
        )
    ]
    assert np.sqrt(np.mean(np.square(spreads))) == pytest.approx(0.08, rel=0.15)
    assert draw_outline(900, 1, 0, 0, rng_for(0, "outline")).radii_px.std() < 1e-4


def test_outlines_are_smooth():
    """Of the wobble's power, nothing lies above the sixth harmonic of an ellipse, so neighbours
    differ little."""
    for seed in range(50):
        radii = draw_outline(900, 1.0, 0.3, 0.07, rng_for(seed, "outline")).radii_px
        power = np.abs(np.fft.rfft(radii)) ** 2
        assert power[8:].sum() < 1e-3 * power[1:8].sum()


def test_the_radius_towards_a_direction_is_that_of_the_outline():
    outline = draw_outline(900, 2.0, 0.0, 0, rng_for(0, "outline"))
    assert outline.radius_towards(0.0) == pytest.approx(outline.major_px, rel=1e-4)
    assert outline.radius_towards(np.pi / 2) == pytest.approx(outline.minor_px, rel=1e-4)
    assert outline.radius_towards(-np.pi / 2) == pytest.approx(outline.minor_px, rel=1e-4)
    assert outline.radius_towards(7 * np.pi) == pytest.approx(outline.major_px, rel=1e-4)


def test_the_generator_decides_all():
    first, again, other = (
        draw_outline(500, 1.5, 0, 0.05, rng_for(seed, "outline")).radii_px for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_turned_outline_is_the_same_outline_elsewhere():
    outline = draw_outline(400.0, 2.5, 0.2, 0.05, rng_for(0, "outline"))
    turned_by = turned(outline, 0.2 + np.pi / 2)
    np.testing.assert_allclose(np.sort(turned_by.radii_px), np.sort(outline.radii_px))
    assert turned_by.radius_towards(0.9 + np.pi / 2) == pytest.approx(outline.radius_towards(0.9))
    # to the nearest of the directions
    assert abs(turned(outline, 1.0).orientation_rad - 1.0) <= np.pi / DIRECTIONS
