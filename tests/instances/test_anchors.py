"""An anchor is a pixel of its object, and moves with it."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocli.instances.anchors import anchors, renumber_by_anchor


class TestAnchors:
    def test_the_middle_of_a_square_and_the_first_of_equals(self):
        labels = np.zeros((6, 8), np.int32)
        labels[1:4, 1:4] = 1
        labels[1:3, 5:7] = 2
        np.testing.assert_array_equal(anchors(labels), [[2, 2], [1, 5]])

    def test_an_anchor_is_a_pixel_of_its_object(self):
        ring = np.zeros((9, 9), np.int32)
        cv2.circle(ring, (4, 4), 3, 1)
        ((y, x),) = anchors(ring)
        assert ring[y, x] == 1

    @given(st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50))
    @settings(max_examples=50)
    def test_anchors_move_with_their_objects(self, seed, down, right):
        labels = ndimage.label(np.random.default_rng(seed).random((20, 20)) > 0.6)[0]
        moved = np.zeros((80, 90), labels.dtype)
        moved[down : down + 20, right : right + 20] = labels
        np.testing.assert_array_equal(anchors(moved), anchors(labels) + np.array([down, right]))

    @given(st.integers(0, 1000))
    @settings(max_examples=30)
    def test_nearest_to_the_centroid(self, seed):
        labels = ndimage.label(np.random.default_rng(seed).random((12, 12)) > 0.5)[0]
        for number, (y, x) in enumerate(anchors(labels), start=1):
            pixels = np.argwhere(labels == number)
            distance = np.hypot(*(pixels - pixels.mean(axis=0)).T)
            assert np.hypot(*((y, x) - pixels.mean(axis=0))) <= distance.min() + 1 / 128

    def test_nothing_and_gaps(self):
        assert anchors(np.zeros((3, 3), np.int32)).shape == (0, 2)
        labels = np.array([[3, 0, 1]], np.int32)
        np.testing.assert_array_equal(anchors(labels), [[0, 2], [-1, -1], [0, 0]])
        np.testing.assert_array_equal(renumber_by_anchor(labels), [[1, 0, 2]])

    def test_ignored_pixels_are_no_object(self):
        np.testing.assert_array_equal(renumber_by_anchor(np.array([[-1, 5]], np.int32)), [[0, 1]])
