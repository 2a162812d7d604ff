"""Labels become maps and maps become labels again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from histocli.instances.targets import (
    CONTACT_UM,
    Thresholds,
    border_distance,
    contacts,
    maps_to_instances,
    normalised_distance,
)
from tests.tissue import paint_ellipses

MPP = 0.25


def maps_of(labels):
    """Return what a perfect network would say."""
    return np.stack(
        [(labels > 0).astype(np.float32), normalised_distance(labels).astype(np.float32) / 255],
        axis=-1,
    )


def best_overlaps(truth, found):
    """Return for every true nucleus the IoU of the object that meets it best, pixel by pixel."""
    result = []
    for k in np.unique(truth[truth > 0]):
        here = truth == k
        partners = np.unique(found[here & (found > 0)])
        result.append(
            max(
                ((here & (found == p)).sum() / (here | (found == p)).sum() for p in partners),
                default=0.0,
            )
        )
    return result


def slow_distance(labels):
    """Return the distance of each nuclear pixel to the nearest pixel of its image that belongs to
    something else."""
    result = np.zeros(labels.shape)
    ys, xs = np.nonzero(labels > 0)
    for y, x in zip(ys, xs, strict=True):
        oy, ox = np.nonzero(labels != labels[y, x])
        result[y, x] = np.sqrt(((oy - y) ** 2 + (ox - x) ** 2).min()) if len(oy) else np.inf
    return result


def test_touching_ellipses_come_back():
    """Three rows of ellipses that touch; each is about 12 x 8 micrometres, as nuclei are."""
    centres = [(20 + 30 * row, 30 + 46 * column) for row in range(3) for column in range(3)]
    labels = paint_ellipses((110, 160), centres, 24, 16, np.zeros(9))
    assert (ndimage.label(labels > 0)[1]) < 3  # they do touch
    found = maps_to_instances(maps_of(labels), MPP)
    assert found.max() == 9
    assert min(best_overlaps(labels, found)) > 0.9


@given(st.integers(0, 10_000))
def test_separate_nuclei_come_back_exactly(seed):
    rng = np.random.default_rng(seed)
    centres = [(y + rng.uniform(-3, 3), x + rng.uniform(-3, 3)) for y in (25, 75) for x in (25, 75)]
    labels = paint_ellipses(
        (100, 100), centres, rng.uniform(8, 14), rng.uniform(6, 8), rng.uniform(-1.5, 1.5, 4)
    )
    np.testing.assert_array_equal(maps_to_instances(maps_of(labels), MPP) > 0, labels > 0)
    assert min(best_overlaps(labels, maps_to_instances(maps_of(labels), MPP))) == 1


def test_nothing_becomes_nothing():
    for shape in ((1, 1), (5, 40)):
        empty = np.zeros(shape, np.int32)
        assert normalised_distance(empty).max() == 0
        assert maps_to_instances(maps_of(empty), MPP).max() == 0


def test_one_pixel_is_its_own_deepest_place_and_too_small_for_a_nucleus():
    labels = np.zeros((9, 9), np.int32)
    labels[4, 4] = 5
    depth = normalised_distance(labels)
    assert depth[4, 4] == 255
    assert depth.sum() == 255
    assert maps_to_instances(maps_of(labels), MPP).max() == 0
    assert maps_to_instances(maps_of(labels), 5.0).max() == 1  # 25 um2 at this pixel size


def test_a_nucleus_may_fill_the_image():
    labels = np.full((32, 48), 3, np.int32)
    assert (normalised_distance(labels) == 255).all()
    np.testing.assert_array_equal(maps_to_instances(maps_of(labels), MPP), np.ones_like(labels))


def test_the_border_of_the_image_is_no_border_of_a_nucleus():
    """A nucleus that the image cuts is deepest at the cut, as if it went on behind it."""
    labels = paint_ellipses((40, 40), [(20, 0)], 14, 14, [0.0])
    distance = border_distance(labels)
    assert distance[20].argmax() == 0
    assert distance.max() > 12


@given(st.integers(0, 10_000))
def test_the_distance_is_that_to_the_nearest_stranger(seed):
    """The oracle compares every pair of pixels. OpenCV's 5 x 5 mask is right within a few per
    cent."""
    rng = np.random.default_rng(seed)
    labels = paint_ellipses((30, 30), rng.uniform(5, 25, (4, 2)), 9, 6, rng.uniform(-1.5, 1.5, 4))
    found, expected = border_distance(labels), slow_distance(labels)
    inside = labels > 0
    assert (found[~inside] == 0).all()
    # distances are counted to the border pixels, plus one: a diagonal stranger makes up to sqrt(2)
    # - 1 difference
    assert np.abs(found - expected)[inside].max() < 1.0


def test_small_and_large_nuclei_have_equally_deep_middles_and_touching_ones_a_valley():
    labels = paint_ellipses((60, 90), [(30, 20), (30, 55)], 18, 18, [0, 0])
    labels[paint_ellipses((60, 90), [(30, 80)], 7, 7, [0.0]) > 0] = 3
    depth = normalised_distance(labels)
    assert [depth[labels == k].max() for k in (1, 2, 3)] == [255, 255, 255]
    assert depth[30, 34:42].min() < 60


def test_ignored_pixels_are_no_nuclei():
    labels = np.full((20, 20), -1, np.int32)
    labels[5:15, 5:15] = 1
    assert normalised_distance(labels)[labels < 0].max() == 0


def test_every_object_is_connected_and_ids_are_consecutive():
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.random((120, 120)), 3)
    maps = np.stack(
        [noise > np.median(noise), (noise - noise.min()) / np.ptp(noise)], axis=-1
    ).astype(np.float32)
    found = maps_to_instances(maps, MPP)
    assert found.dtype == np.int32
    assert set(np.unique(found)) == set(range(found.max() + 1))
    assert found.max() > 3
    for k in range(1, found.max() + 1):
        assert ndimage.label(found == k, np.ones((3, 3)))[1] == 1


def test_a_nucleus_without_a_deep_core_is_found_all_the_same():
    labels = paint_ellipses((40, 40), [(20, 20)], 10, 10, [0.0])
    maps = maps_of(labels)
    maps[..., 1] *= 0.3
    np.testing.assert_array_equal(maps_to_instances(maps, MPP), labels)


@pytest.mark.parametrize(("hole_px", "filled"), [(4, True), (16, False)])
def test_small_holes_are_filled_by_their_size_in_micrometres(hole_px, filled):
    labels = paint_ellipses((80, 80), [(40, 40)], 30, 30, [0.0])
    maps = maps_of(labels)
    maps[40 : 40 + hole_px, 40 : 40 + hole_px, 0] = 0
    found = maps_to_instances(maps, MPP, Thresholds(largest_hole_um2=5.0))
    assert (found[41, 41] > 0) == filled


def test_objects_of_low_mean_probability_are_dropped():
    """One pixel above the cut is not enough: the mean over the object decides, at each object's
    own."""
    maps = np.zeros((40, 80, 2), np.float32)
    maps[10:30, 10:30] = 0.9
    maps[10:30, 50:70] = 0.6
    maps[20, 60] = 1.0
    assert maps_to_instances(maps, 0.5).max() == 2
    assert maps_to_instances(maps, 0.5, Thresholds(confidence=0.75)).max() == 1
    assert maps_to_instances(maps, 0.5, Thresholds(confidence=0.5)).max() == 2
    assert maps_to_instances(maps, 0.5, Thresholds(confidence=0.95)).max() == 0


def test_contacts_are_where_two_nuclei_are_near():
    """Against every pair of pixels: a contact has two nuclei within the radius, and only then."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(4, 44, (14, 2))
    labels = paint_ellipses(
        (48, 48), [tuple(each) for each in centres], 7, 5, rng.uniform(0, np.pi, 14)
    )
    labels[:6] = -1
    radius = round(CONTACT_UM / MPP)
    rows, columns = np.nonzero(labels > 0)
    found = contacts(labels, MPP)
    assert found.any()
    for y, x in np.ndindex(labels.shape):
        near = np.hypot(rows - y, columns - x)
        surely = len(np.unique(labels[rows, columns][near <= radius - 0.5])) > 1
        perhaps = len(np.unique(labels[rows, columns][near <= radius + 0.5])) > 1
        assert surely <= found[y, x] <= perhaps


def test_a_lonely_nucleus_has_no_contact():
    assert not contacts(paint_ellipses((40, 40), [(20, 20)], 10, 6, [0.3]), MPP).any()


def test_means_of_views_need_less_confidence():
    """The more views, the less; one view changes nothing, and nothing is kept below zero."""
    thresholds = Thresholds(confidence=0.8)
    found = [thresholds.for_views(views).confidence for views in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 0.8
    assert found[2] == pytest.approx(0.75, abs=0.005)
    assert Thresholds().for_views(8).confidence == 0
