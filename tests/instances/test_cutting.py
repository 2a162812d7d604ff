"""Cutting: every labelled pixel arrives exactly once, with its colour and its nucleus."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.instances import cutting
from histocli.instances.cutting import cut_patch, looks_like_a_mask, windows_of


def test_the_docstrings_tell_the_truth():
    assert doctest.testmod(cutting).failed == 0


@given(st.integers(1, 500), st.integers(1, 100))
def test_windows_lie_inside_and_cover_the_axis(length, patch_px):
    starts = [window.y for window in windows_of((length, 1), patch_px)]
    covered = np.zeros(length, bool)
    for start in starts:
        assert start == 0 or start + patch_px <= length
        covered[start : start + patch_px] = True
    assert covered.all()
    assert len(starts) == -(-length // patch_px)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(3, 25), st.integers(0, 2**32 - 1))
def test_every_pixel_arrives_once_with_its_colour_and_its_nucleus(height, width, patch_px, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.integers(-1, 5, (height, width)) * 1000
    labels[labels < 0] = -1
    visits = np.zeros((height, width), int)
    for window in windows_of((height, width), patch_px):
        patch, patch_labels = cut_patch(image, labels, window, patch_px)
        assert patch.shape == (patch_px, patch_px, 3)
        assert patch_labels.dtype == np.int32
        positive = np.unique(patch_labels[patch_labels > 0])
        np.testing.assert_array_equal(positive, np.arange(1, len(positive) + 1))
        pixels = image[window.y : window.y + patch_px, window.x : window.x + patch_px]
        np.testing.assert_array_equal(patch[: pixels.shape[0], : pixels.shape[1]], pixels)
        truth = labels[window.y : window.y + patch_px, window.x : window.x + patch_px]
        found = patch_labels[: truth.shape[0], : truth.shape[1]]
        own = np.zeros(truth.shape, bool)
        own[window.own_y - window.y :, window.own_x - window.x :] = True
        visits[window.y : window.y + patch_px, window.x : window.x + patch_px] += own
        assert (found[~own] == -1).all()
        np.testing.assert_array_equal(found[own] > 0, truth[own] > 0)
        np.testing.assert_array_equal(found[own] == -1, truth[own] == -1)
        assert len(
            set(zip(found[own & (truth > 0)], truth[own & (truth > 0)], strict=True))
        ) == len(positive)
        outside = np.ones(patch_labels.shape, bool)
        outside[: truth.shape[0], : truth.shape[1]] = False
        assert (patch_labels[outside] == -1).all()
    assert (visits == 1).all()


@pytest.mark.parametrize(
    ("labels", "is_mask"),
    [([[1, 0, 1]], True), ([[1, 1, 0]], False), ([[1, 0, 2]], False), ([[0, 0, -1]], False)],
)
def test_separate_objects_of_one_id_look_like_a_mask(labels, is_mask):
    assert looks_like_a_mask(np.array(labels)) == is_mask
