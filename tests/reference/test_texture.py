"""Tissue without its nuclei, and nuclei without their tissue."""

import numpy as np
import pytest
from scipy import ndimage

from histocli.base.rng import rng_for
from histocli.instances.measurements import measure
from histocli.optics.density import rgb_to_optical_density
from histocli.reference.rough import find_rough_nuclei
from histocli.reference.texture import (
    FRAME_EXTENT,
    FRAME_PX,
    MOST_FRAGMENTS,
    cut_textures,
    remove_nuclei,
)
from tests.tissue import make_tissue, paint_ellipses

MPP = 0.5


@pytest.fixture(scope="module")
def tissue():
    return make_tissue()


@pytest.fixture(scope="module")
def density(tissue):
    return rgb_to_optical_density(tissue.image)


@pytest.fixture(scope="module")
def rough(density):
    return find_rough_nuclei(density, MPP)


def test_nuclei_vanish_and_the_rest_stays(tissue, density, rough):
    background = remove_nuclei(density, rough, MPP, rng_for(0, "hole"))
    # the soft edge of a hole reaches some micrometres
    away = ndimage.distance_transform_edt(rough.labels == 0) * MPP > 4
    assert away.sum() > 500
    np.testing.assert_allclose(background[away], density[away], atol=2e-3)
    holes = rough.labels > 0
    bare = rgb_to_optical_density(make_tissue(nuclei=False).image)
    assert density[holes, 0].mean() > 0.5
    assert background[holes, 0].mean() < 0.25 * density[holes, 0].mean()
    # what was invented is as pink as the tissue that was there
    np.testing.assert_allclose(background[holes].mean(axis=0), bare[holes].mean(axis=0), atol=0.06)
    assert background.dtype == np.float32
    assert (background >= 0).all()


def test_filled_places_are_as_rough_as_the_rest(density, rough):
    background = remove_nuclei(density, rough, MPP, rng_for(0, "hole"))
    fine = background[..., 1] - ndimage.gaussian_filter(background[..., 1], 1.5)
    holes = rough.labels > 0
    away = ndimage.distance_transform_edt(~holes) * MPP > 2
    assert fine[holes].std() == pytest.approx(fine[away].std(), rel=0.5)


def test_tissue_without_nuclei_is_its_own_background():
    density = rgb_to_optical_density(make_tissue(nuclei=False).image)
    found = remove_nuclei(density, find_rough_nuclei(density, MPP), MPP, rng_for(0, "hole"))
    np.testing.assert_array_equal(found, density)


def test_removal_is_decided_by_the_generator(density, rough):
    first, second = (remove_nuclei(density, rough, MPP, rng_for(seed, "hole")) for seed in (0, 0))
    np.testing.assert_array_equal(first, second)
    assert (remove_nuclei(density, rough, MPP, rng_for(1, "hole")) != first).any()


def test_colours_of_nuclei_and_surroundings_are_those_of_their_pixels(tissue, density):
    nuclei = measure(tissue.labels, MPP)
    textures = cut_textures(density, tissue.labels, nuclei, MPP, rng_for(0, "cut"))
    whole = nuclei.id[~nuclei.touches_border]
    assert len(textures) == len(whole)
    for k, number in enumerate(whole):
        assert textures.colour[k] == pytest.approx(
            density[tissue.labels == number].mean(axis=0), abs=0.12
        )
    outside = density[ndimage.distance_transform_edt(tissue.labels == 0) > 2].mean(axis=0)
    assert textures.surround.mean(axis=0) == pytest.approx(outside, abs=0.15)
    assert textures.single.all()  # all were drawn as ellipses
    np.testing.assert_allclose(
        textures.area_um2, nuclei.area_um2[~nuclei.touches_border], rtol=1e-5
    )


def test_a_frame_shows_the_nucleus_along_its_own_axes():
    """A nucleus whose head (towards larger x) is dark gives a frame whose right side is dark,
    whatever its size and place."""
    labels = paint_ellipses((80, 120), [(40, 60)], 40, 20, [0.0])
    density = np.zeros((80, 120, 3), np.float32)
    density[labels > 0] = 0.5
    density[:, 60:][labels[:, 60:] > 0] = 1.0
    textures = cut_textures(density, labels, measure(labels, 0.25), 0.25, rng_for(0, "cut"))
    frame = textures.residual[0, 0]
    assert frame.shape == (FRAME_PX, FRAME_PX)
    middle = slice(FRAME_PX // 3, -FRAME_PX // 3)
    edge = round(FRAME_PX / 2 * (1 - 1 / FRAME_EXTENT)) + 2
    assert frame[middle, edge : FRAME_PX // 2 - 1].mean() == pytest.approx(-0.25, abs=0.03)
    assert frame[middle, FRAME_PX // 2 + 1 : -edge].mean() == pytest.approx(0.25, abs=0.03)
    assert abs(textures.residual[0].mean()) < 0.02


def test_a_pale_middle_is_told_from_a_dark_one():
    labels = paint_ellipses((60, 120), [(30, 30), (30, 90)], 20, 20, [0, 0])
    core = paint_ellipses((60, 120), [(30, 30)], 14, 14, [0]) > 0
    density = np.where(labels[..., None] > 0, 0.9, 0.1).astype(np.float32) * np.ones(3, np.float32)
    density[core] = 0.4
    textures = cut_textures(density, labels, measure(labels, 0.25), 0.25, rng_for(0, "cut"))
    assert textures.core_to_rim[0] < 0.7
    assert textures.core_to_rim[1] == pytest.approx(1, abs=0.05)


def test_two_fused_nuclei_are_not_one():
    labels = np.minimum(paint_ellipses((80, 100), [(30, 30), (52, 64)], 24, 10, [0.2, 1.5]), 1)
    textures = cut_textures(
        np.ones((80, 100, 3), np.float32), labels, measure(labels, 0.25), 0.25, rng_for(0, "cut")
    )
    assert not textures.single.any()


def test_no_nuclei_give_no_textures_and_many_give_some():
    empty = np.zeros((30, 30), np.int32)
    density = np.ones((30, 30, 3), np.float32)
    assert len(cut_textures(density, empty, measure(empty, MPP), MPP, rng_for(0, "cut"))) == 0
    side = 20 * 8
    many = np.zeros((side, side), np.int32)
    for number in range(400):
        y, x = divmod(number, 20)
        many[8 * y + 2 : 8 * y + 7, 8 * x + 2 : 8 * x + 7] = number + 1
    textures = cut_textures(
        np.ones((side, side, 3), np.float32), many, measure(many, MPP), MPP, rng_for(0, "cut")
    )
    assert len(textures) == MOST_FRAGMENTS
