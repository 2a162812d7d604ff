"""Fibres drawn at a known angle are found to run along it."""

import numpy as np
import pytest

from histocli.synthesis.directions import STEP_PX, fibre_directions

MPP = 0.5


def stripes(angle, shape=(128, 160), period_px=24.0, amplitude=0.15):
    """Return optical density whose stripes run along an angle against the x axis, y downwards."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = y * np.cos(angle) - x * np.sin(angle)
    wave = 0.4 + amplitude * np.sin(2 * np.pi * across / period_px)
    return np.repeat(wave[..., None], 3, axis=2).astype(np.float32)


def apart(angle, other):
    """Distance of two directions, which are the same after half a turn."""
    return np.abs((np.asarray(angle) - other + np.pi / 2) % np.pi - np.pi / 2)


@pytest.mark.parametrize(("mpp", "period_um"), [(0.25, 6.0), (0.5, 12.0), (0.5, 5.0)])
@pytest.mark.parametrize("angle", [-1.2, 0.3, 0.9])
def test_stripes_give_their_angle(angle, mpp, period_um):
    field = fibre_directions(stripes(angle, period_px=period_um / mpp), mpp)
    assert field.angle_rad.shape == field.coherence.shape == (128 // STEP_PX, 160 // STEP_PX)
    assert apart(field.angle_rad, angle)[4:-4, 4:-4].max() < 0.1
    assert field.coherence[4:-4, 4:-4].min() > 0.8


@pytest.mark.parametrize("angle", [-np.pi / 4, 0.0, np.pi / 2])
def test_stripes_along_the_axes_and_diagonals_give_their_angle(angle):
    field = fibre_directions(stripes(angle), 0.25)
    assert apart(field.angle_rad, angle)[4:-4, 4:-4].max() < 0.03
    assert field.coherence[4:-4, 4:-4].min() > 0.95


def test_noise_and_evenness_have_no_direction():
    noise = np.random.default_rng(0).normal(0.4, 0.1, (128, 128, 3)).astype(np.float32)
    assert np.median(fibre_directions(noise, MPP).coherence) < 0.3
    even = fibre_directions(np.full((128, 128, 3), 0.4, np.float32), MPP)
    assert even.coherence.max() < 0.1
    assert np.isfinite(even.angle_rad).all()


def test_only_green_counts():
    """Eosin, which stains fibres, absorbs green; hematoxylin's red says nothing about them."""
    mixed = stripes(0.9)
    mixed[..., [0, 2]] = stripes(-0.6)[..., [0, 2]]
    np.testing.assert_array_equal(
        fibre_directions(mixed, MPP).angle_rad, fibre_directions(stripes(0.9), MPP).angle_rad
    )


def test_a_pixel_reads_the_field_where_it_lies():
    """Left half along x, right half along y; places outside read the nearest."""
    both = stripes(0.0, (128, 256))
    both[:, 128:] = stripes(np.pi / 2, (128, 128))
    field = fibre_directions(both, MPP)
    for y, x, angle in [
        (64, 32, 0.0),
        (64, 224, np.pi / 2),
        (100, -9, 0.0),
        (500, 900, np.pi / 2),
        (-4, 40, 0.0),
    ]:
        found, coherence = field.at(y, x)
        assert apart(found, angle) < 0.15
        assert coherence > 0.7


@pytest.mark.parametrize("shape", [(5, 9), (31, 31), (33, 70)])
def test_small_and_odd_images_have_a_field(shape):
    field = fibre_directions(stripes(0.4, shape), MPP)
    assert field.angle_rad.shape == field.coherence.shape
    assert np.isfinite(field.angle_rad).all()
    assert 0 <= field.coherence.min() <= field.coherence.max() <= 1 + 1e-5
    assert np.isfinite(field.at(shape[0] - 1, shape[1] - 1)).all()
