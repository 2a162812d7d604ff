"""Means, pooled scores and intervals of sets of images."""

import numpy as np
import pytest

from histocli.metrics.counts import Counts, count
from histocli.metrics.summary import summarise


def some_counts(n: int) -> list[Counts]:
    rng = np.random.default_rng(0)
    return [count(rng.integers(0, 4, (8, 8)), rng.integers(0, 4, (8, 8))) for _ in range(n)]


def test_mean_weighs_images_and_pooled_weighs_nuclei():
    """One nucleus found in a small image, nine missed in a large one."""
    found, missed = Counts(n_truth=1, n_prediction=1, true_positives=1, matched_iou_sum=1.0), Counts(n_truth=9)
    summary = summarise([found, missed])
    assert summary.mean["f1"] == 0.5
    assert summary.pooled["f1"] == pytest.approx(2 / 11)


def test_interval_is_the_percentile_bootstrap_of_the_mean():
    counts = some_counts(7)
    values = np.array([item.panoptic_quality for item in counts])
    draws = np.random.default_rng(3).integers(0, 7, (500, 7))
    expected = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    assert summarise(counts, bootstrap=500, seed=3).ci95["pq"] == pytest.approx(tuple(expected))


def test_interval_holds_the_mean_and_needs_two_images():
    summary = summarise(some_counts(9))
    for name, mean in summary.mean.items():
        low, high = summary.ci95[name]
        assert low <= mean <= high
    assert set(summarise(some_counts(1)).ci95.values()) == {None}
    assert set(summarise(some_counts(5), bootstrap=0).ci95.values()) == {None}


def test_same_seed_same_interval():
    assert summarise(some_counts(5), seed=1) == summarise(some_counts(5), seed=1)


def test_an_empty_set_has_no_mean():
    with pytest.raises(ValueError, match="at least one image"):
        summarise([])
