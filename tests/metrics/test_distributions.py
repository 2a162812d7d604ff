"""Distributions of one image, and the square with most mistakes."""

import numpy as np
import pytest

from histocli.metrics.comparison import Rules, compare
from histocli.metrics.distributions import PROBABILITY_BINS, distributions_of, worst_square


def squares(n, side=8, step=16):
    """Squares in a row, far from each other."""
    labels = np.zeros((step, step * n), np.int32)
    for k in range(n):
        labels[4 : 4 + side, step * k + 4 : step * k + 4 + side] = k + 1
    return labels


def test_every_nucleus_is_in_one_bin_and_images_add_up():
    truth = squares(5)
    prediction = np.where(truth == 2, 0, truth)
    one = distributions_of(compare(truth, prediction, Rules()), 0.25, None)
    assert (one.ious[0], one.ious[-1]) == (1, 4)  # one is not found, four are found exactly
    assert one.areas.sum(axis=1).tolist() == [5, 4]
    both = one + one
    assert both.ious.tolist() == (2 * one.ious).tolist()
    assert both.reliability is None


def test_reliability_counts_known_probabilities():
    """Nucleus 3 has none, nucleus 4 an unknown one; nucleus 2 is false."""
    truth = np.where(squares(4) == 2, 0, squares(4))
    ids, values = np.array([1, 2, 4]), np.array([0.95, 0.15, np.nan])
    found = compare(truth, squares(4), Rules())
    one = distributions_of(found, 0.25, (ids, values)).reliability
    assert one.table.shape == (PROBABILITY_BINS, 3)
    assert one.points == [(0.15, 0.0), (0.95, 1.0)]
    assert one.calibration_error == pytest.approx((0.15 + 0.05) / 2)
    pooled = distributions_of(found, 0.25, (ids, values)) + distributions_of(found, 0.25, None)
    assert pooled.reliability.points == one.points


def test_the_square_with_most_mistakes():
    truth = squares(6)
    prediction = np.where(truth >= 5, 0, truth)
    assert worst_square(compare(truth, prediction, Rules()), 32) == (0, 64)
    assert worst_square(compare(truth, truth, Rules()), 32) == (0, 0)
