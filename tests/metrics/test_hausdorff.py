"""Hausdorff distances against brute force and against scikit-image."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from skimage.metrics import hausdorff_distance

from histocli.metrics import hausdorff
from histocli.metrics.boundaries import boundary_mask
from histocli.metrics.hausdorff import hausdorff95


def distances(truth, prediction, pairs):
    return hausdorff95(truth, prediction, boundary_mask(truth), boundary_mask(prediction), pairs)


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


@pytest.mark.parametrize("batch", [hausdorff.BATCH_ELEMENTS, 1])
def test_hausdorff_agrees_with_all_distances(monkeypatch, batch):
    monkeypatch.setattr(hausdorff, "BATCH_ELEMENTS", batch)
    truth, prediction = blobs(0), np.roll(blobs(1), 2, axis=1) * 7
    pairs = np.array([(k, 7 * k) for k in (3, 1, 12, 5, 7)])
    wanted = [slow_hd95(truth == one, prediction == two) for one, two in pairs]
    assert distances(truth, prediction, pairs) == pytest.approx(wanted)


def test_hausdorff_is_below_that_of_scikit_image_and_zero_for_the_same(monkeypatch):
    """The farthest 5 % left out; with none left out the two agree."""
    truth, prediction = blobs(0), blobs(1)
    pairs = np.array([(k, k) for k in range(1, 13)])
    theirs = [
        hausdorff_distance(boundary_mask(truth == k), boundary_mask(prediction == k))
        for k in range(1, 13)
    ]
    assert (distances(truth, prediction, pairs) <= np.array(theirs) + 1e-9).all()
    monkeypatch.setattr(hausdorff, "PERCENTILE", 1.0)
    assert distances(truth, prediction, pairs) == pytest.approx(theirs)
    assert (distances(truth, truth, pairs) == 0).all()


def test_a_nucleus_that_fills_the_image_has_no_boundary():
    full = np.ones((4, 4), np.int32)
    assert np.isnan(distances(full, full, np.array([[1, 1]]))).all()
    assert len(distances(full, full, np.zeros((0, 2), int))) == 0
