"""Boundaries against brute force: every pixel with every pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance

from histocli.metrics import boundaries
from histocli.metrics.boundaries import boundary_hits, boundary_mask, hausdorff95, near

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
    assert list(boundary_hits(*masks, 1.5, WHOLE)) == wanted


def slow_hd95(truth: np.ndarray, prediction: np.ndarray) -> float:
    away = cdist(np.argwhere(boundary_mask(truth)), np.argwhere(boundary_mask(prediction)))
    return max(np.percentile(away.min(axis=axis), 95) for axis in (0, 1))


def blobs(seed: int, n: int = 12) -> np.ndarray:
    """Discs of many sizes, far enough from each other."""
    rng = np.random.default_rng(seed)
    image, (y, x) = np.zeros((120, 160), np.int32), np.mgrid[:120, :160]
    for k in range(n):
        centre = 20 + 40 * (k // 4), 20 + 40 * (k % 4)
        image[np.hypot(y - centre[0], x - centre[1]) < rng.uniform(1, 15)] = k + 1
    return image


@pytest.mark.parametrize("batch", [boundaries.BATCH_ELEMENTS, 1])
def test_hausdorff_agrees_with_all_distances(monkeypatch, batch):
    monkeypatch.setattr(boundaries, "BATCH_ELEMENTS", batch)
    truth, prediction = blobs(0), np.roll(blobs(1), 2, axis=1) * 7
    pairs = np.array([(k, 7 * k) for k in (3, 1, 12, 5, 7)])
    wanted = [slow_hd95(truth == one, prediction == two) for one, two in pairs]
    assert hausdorff95(truth, prediction, None, pairs) == pytest.approx(wanted)


def test_hausdorff_is_below_that_of_scikit_image_and_zero_for_the_same(monkeypatch):
    """The farthest 5 % left out; with none left out the two agree."""
    truth, prediction = blobs(0), blobs(1)
    pairs = np.array([(k, k) for k in range(1, 13)])
    theirs = [
        hausdorff_distance(boundary_mask(truth == k), boundary_mask(prediction == k))
        for k in range(1, 13)
    ]
    assert (hausdorff95(truth, prediction, None, pairs) <= np.array(theirs) + 1e-9).all()
    monkeypatch.setattr(boundaries, "PERCENTILE", 1.0)
    assert hausdorff95(truth, prediction, None, pairs) == pytest.approx(theirs)
    assert (hausdorff95(truth, truth, None, pairs) == 0).all()


def test_a_nucleus_that_fills_the_image_has_no_boundary():
    full = np.ones((4, 4), np.int32)
    assert np.isnan(hausdorff95(full, full, None, np.array([[1, 1]]))).all()
    assert len(hausdorff95(full, full, None, np.zeros((0, 2), int))) == 0
