"""Centroids: most pairs first, then the nearest, against trying every pairing."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.metrics.comparison import match_centroids

points = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=5).map(
    lambda p: np.array(p, float).reshape(-1, 2)
)


def best_by_trying(truth, prediction, radius):
    """Most pairs, then the smallest total distance, over all injections of subsets."""
    best = (0, 0.0)
    for k in range(1, min(len(truth), len(prediction)) + 1):
        for rows in itertools.combinations(range(len(truth)), k):
            for columns in itertools.permutations(range(len(prediction)), k):
                away = [
                    np.hypot(*(truth[r] - prediction[c]))
                    for r, c in zip(rows, columns, strict=True)
                ]
                if max(away) <= radius:
                    best = max(best, (k, -sum(away)))
    return best


@settings(deadline=None, max_examples=60)
@given(points, points, st.sampled_from([1.0, 2.0, 3.0, 5.0]))
def test_most_pairs_then_nearest(truth, prediction, radius):
    rows, columns = match_centroids(truth, prediction, radius)
    assert len(set(rows)) == len(set(columns)) == len(rows)
    away = np.hypot(*(truth[rows] - prediction[columns]).T)
    assert (away <= radius).all()
    k, total = best_by_trying(truth, prediction, radius)
    assert len(rows) == k
    assert away.sum() == pytest.approx(-total)


def test_the_radius_itself_is_within():
    assert len(match_centroids(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), 5.0)[0]) == 1
    assert len(match_centroids(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), 4.99)[0]) == 0
