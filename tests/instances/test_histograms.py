"""Histograms of shared bins."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.instances import histograms as module
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES, bars, shares


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=60),
    st.sampled_from([AREA_EDGES_UM2, ELONGATION_EDGES]),
)
def test_shares_sum_to_one_and_count_each_value_once(values, edges):
    found = shares(np.array(values), edges)
    assert len(found) == len(edges) - 1
    assert sum(found) == pytest.approx(1)
    # counted one at a time: a bin holds its lower edge, the last one its upper edge too
    counts = [0] * len(found)
    for value in values:
        number = sum(value >= edge for edge in edges[1:-1])
        counts[number] += 1
    assert found == pytest.approx([count / len(values) for count in counts])


def test_outliers_count_in_the_outer_bins():
    assert shares(np.array([-5.0, 0.5, 1.5, 99.0, 1e9]), (0.0, 1.0, 2.0, 3.0)) == pytest.approx(
        (0.4, 0.2, 0.4)
    )


def test_nothing_has_no_shares():
    assert shares(np.zeros(0), (0.0, 1.0, 2.0)) == (0.0, 0.0)


def test_bins_are_two_an_octave():
    assert (AREA_EDGES_UM2[0], AREA_EDGES_UM2[-1]) == (8, 512)
    np.testing.assert_allclose(np.diff(np.log2(AREA_EDGES_UM2)), 0.5, atol=2e-3)
    assert list(ELONGATION_EDGES) == sorted(set(ELONGATION_EDGES))


def test_bars_are_as_tall_as_their_share():
    assert doctest.testmod(module).failed == 0
    assert bars([0.0, 0.125, 0.25, 0.5, 1.0]) == " ▁▂▄█"
    assert bars((0.2, 0.2)) == "██"
    assert bars([0.0, 0.0, 0.0]) == "   "
    assert bars([]) == ""
    rising = bars(list(np.linspace(0, 0.3, 9)))
    assert list(rising) == sorted(set(rising))
