"""Intervals from leaving one item out."""

import numpy as np
import pytest

from histocli.realism.jackknife import jackknife_interval


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(3, 2, 40)
    left = [np.delete(values, k).mean() for k in range(40)]
    low, high = jackknife_interval(values.mean(), left)
    error = values.std(ddof=1) / np.sqrt(40)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), rel=1e-4
    )
    assert jackknife_interval(1.0, [1.0, 1.0]) is None
