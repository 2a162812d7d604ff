"""Components, holes and small objects, against SciPy and scikit-image."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from histocli.instances.components import (
    areas_px,
    disk,
    drop_small,
    fill_holes,
    label_components,
    renumber,
)

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
LABELS = arrays.arrays(
    np.int32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([-1, 0, 2, 3, 7, 40]),
)


@given(MASKS)
def test_components_are_those_of_scipy(mask):
    expected, count = ndimage.label(mask)
    found = label_components(mask)
    assert found.dtype == np.int32
    assert set(np.unique(found)) - {0} == set(range(1, count + 1))
    pairs = {*zip(expected.ravel().tolist(), found.ravel().tolist(), strict=True)}
    assert len(pairs) == len(np.unique(expected))  # the same partition


@given(MASKS)
def test_all_holes_of_scipy_are_filled_when_no_size_is_too_large(mask):
    np.testing.assert_array_equal(fill_holes(mask, mask.size), ndimage.binary_fill_holes(mask))


def test_only_small_holes_are_filled_and_a_bay_is_none():
    mask = np.ones((12, 12), bool)
    mask[2:4, 2:4] = False  # 4 pixels
    mask[6:10, 6:10] = False  # 16 pixels
    mask[0, 8] = False  # open to the border
    filled = fill_holes(mask, 4)
    assert filled[2:4, 2:4].all()
    assert not filled[6:10, 6:10].any()
    assert not filled[0, 8]


@given(LABELS, st.integers(0, 6))
def test_small_instances_go_and_the_others_keep_their_order(labels, smallest):
    kept = [k for k in (2, 3, 7, 40) if (labels == k).sum() >= max(smallest, 1)]
    expected = np.where(labels < 0, labels, 0)
    for number, k in enumerate(kept, start=1):
        expected[labels == k] = number
    np.testing.assert_array_equal(drop_small(labels, max(smallest, 1)), expected)


@given(LABELS)
def test_renumbering_is_one_to_one(labels):
    found = renumber(labels)
    assert len(areas_px(found)) - 1 == len(set(np.unique(labels)) - {-1, 0})
    assert ((found > 0) == (labels > 0)).all()
    assert ((found < 0) == (labels < 0)).all()
    np.testing.assert_array_equal(renumber(found), found)


def test_areas_count_ignored_pixels_as_background():
    np.testing.assert_array_equal(areas_px(np.array([[-1, 0, 2], [2, 2, 1]], np.int32)), [2, 1, 3])


def test_the_disk_is_round():
    for radius in (0, 1, 2, 5, 8):
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        found = disk(radius).astype(bool)
        assert found.shape == y.shape
        assert found[np.hypot(y, x) <= radius - 0.5].all()
        assert not found[np.hypot(y, x) > radius + 1].any()
