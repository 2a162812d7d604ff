"""Boundaries against brute force: every pixel with every pixel."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from histocli.metrics.boundaries import boundary_hits, boundary_mask, near

SHAPE = (9, 11)
labels = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 3))
WHOLE = np.s_[:, :]


def slow_boundary(image: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    found = np.zeros(image.shape, bool)
    for y, x in np.ndindex(image.shape):
        for j, i in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= j < image.shape[0] and 0 <= i < image.shape[1]
            if (
                image[y, x] > 0
                and inside
                and image[j, i] != image[y, x]
                and not (ignored[y, x] or ignored[j, i])
            ):
                found[y, x] = True
    return found


@settings(deadline=None)
@given(labels, hnp.arrays(bool, SHAPE))
def test_boundary_is_what_has_a_stranger_beside_it(image, ignored):
    assert (boundary_mask(image, ignored) == slow_boundary(image, ignored)).all()
    assert (boundary_mask(image) == slow_boundary(image, np.zeros(SHAPE, bool))).all()


@settings(deadline=None)
@given(hnp.arrays(bool, SHAPE), st.sampled_from([0.5, 1.0, 1.5, 2.0, 5**0.5, 4.0, 5.0, 7.3]))
def test_near_is_within_the_radius(mask, radius):
    points = np.argwhere(mask)
    everywhere = np.argwhere(np.ones(SHAPE, bool))
    wanted = (
        (cdist(everywhere, points).min(axis=1) <= radius).reshape(SHAPE)
        if len(points)
        else np.zeros(SHAPE, bool)
    )
    assert (near(mask, radius) == wanted).all()


@settings(deadline=None)
@given(labels, labels)
def test_hits_by_hand(truth, prediction):
    masks = boundary_mask(truth), boundary_mask(prediction)
    points = [np.argwhere(mask) for mask in masks]
    away = (
        cdist(*points)
        if len(points[0]) and len(points[1])
        else np.full((len(points[0]), len(points[1])), np.inf)
    )
    wanted = [len(points[0]), 0, len(points[1]), 0]
    if away.size:
        wanted[1], wanted[3] = (
            int((away.min(axis=1) <= 1.5).sum()),
            int((away.min(axis=0) <= 1.5).sum()),
        )
    found = boundary_hits(*masks, 1.5, WHOLE)
    assert [found.truth_px, found.truth_hits, found.prediction_px, found.prediction_hits] == wanted
