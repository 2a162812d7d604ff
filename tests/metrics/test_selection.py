"""Laws of the label-free signs."""

import numpy as np
import pytest

from histocli.instances.targets import mean_within
from histocli.metrics.selection import SMALLEST_UM2, ObjectThresholds, agreement, choose_thresholds


def grid(n: int, side: int = 5) -> np.ndarray:
    """Return ``n`` squares in a row."""
    labels = np.zeros((12, 12 * n + 12), np.int32)
    for k in range(n):
        labels[3 : 3 + side, 12 * k + 3 : 12 * k + 3 + side] = k + 1
    return labels


def test_agreement_is_one_with_itself_and_symmetric():
    one, other = grid(4), grid(4)
    other[other == 2] = 0
    assert agreement(one, [one, one]) == 1
    assert agreement(one, [other]) == pytest.approx(agreement(other, [one]))
    # 3 of 3 + half a missed one: PQ = 3 / 3.5
    assert agreement(one, [other]) == pytest.approx(3 / 3.5)
    assert agreement(one, [one, other]) == pytest.approx((1 + 3 / 3.5) / 2)


def test_the_threshold_parts_false_objects_from_true_ones():
    """Four true squares of probability 0.9 and four false ones of 0.6; without false ones, no
    threshold is needed."""
    found = grid(8)
    truth = np.where(found <= 4, found, 0)
    probability = np.where(found == 0, 0.1, np.where(found <= 4, 0.9, 0.6)).astype(np.float32)
    chosen = choose_thresholds([truth, truth], [found, found], [probability, probability], 1.0)
    assert 0.6 < chosen.confidence <= 0.9
    assert chosen.score == pytest.approx(2)
    assert choose_thresholds([found], [found], [probability], 1.0) == ObjectThresholds(
        0.0, SMALLEST_UM2[0], 2.0
    )


def test_the_least_area_parts_false_specks_from_true_nuclei():
    """Specks of 2 x 2 pixels of one square micrometre are as sure as the nuclei, and none of them
    is one."""
    truth = grid(6)
    found = truth.copy()
    side = found.shape[0]
    specks = [(0, 0), (side - 2, side - 2)]
    assert all((found[y : y + 2, x : x + 2] == 0).all() for y, x in specks)
    for number, (y, x) in enumerate(specks, truth.max() + 1):
        found[y : y + 2, x : x + 2] = number
    probability = np.where(found > 0, 0.95, 0.1).astype(np.float32)
    chosen = choose_thresholds([truth], [found], [probability], 1.0)
    assert chosen == ObjectThresholds(0.0, SMALLEST_UM2[1], 2.0)


def test_pale_true_nuclei_keep_the_threshold_low():
    """True squares of probability 0.55 are worth more than one false one of 0.6."""
    found = grid(6)
    truth = np.where(found <= 5, found, 0)
    probability = np.where(found == 0, 0.1, np.where(found <= 5, 0.55, 0.6)).astype(np.float32)
    assert choose_thresholds([truth], [found], [probability], 1.0).confidence <= 0.5


def test_means_are_taken_within_objects():
    labels = np.array([[0, 1, 1], [2, 2, 0]], np.int32)
    values = np.array([[9, 1, 3], [5, 7, 9]], np.float32)
    assert mean_within(labels, values).tolist() == [0, 2, 6]
