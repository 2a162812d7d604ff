"""The sparse table of overlaps agrees with counting each pair."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocli.base.errors import InvalidInput
from histocli.instances.overlaps import overlaps

SHAPE = (5, 6)
truths = hnp.arrays(np.int32, SHAPE, elements=st.integers(-1, 5))
predictions = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 5))


@given(truths, predictions)
def test_places_of_labels_are_their_order(truth, prediction):
    """Labels that the side does not know, and background, become 0."""
    side = overlaps(truth, prediction).truth
    places = side.numbered(truth)
    assert (places[truth > 0] > 0).all()
    assert (side.ids[places[truth > 0] - 1] == truth[truth > 0]).all()
    assert (places[truth <= 0] == 0).all()
    assert (side.numbered(np.full((2, 2), 77)) == 0).all()


@given(truths, predictions)
def test_table_agrees_with_counting_each_pair(truth, prediction):
    table = overlaps(truth, prediction)
    valid = truth >= 0
    assert table.truth.ids.tolist() == [i for i in range(1, 6) if (truth == i).any()]
    assert table.prediction.ids.tolist() == [
        i for i in range(1, 6) if ((prediction == i) & valid).any()
    ]
    dense = np.zeros((len(table.truth.ids), len(table.prediction.ids)), int)
    dense[table.rows, table.columns] = table.intersection
    for (row, t), (column, p) in itertools.product(
        enumerate(table.truth.ids), enumerate(table.prediction.ids)
    ):
        assert dense[row, column] == ((truth == t) & (prediction == p)).sum()
        assert table.truth.areas[row] == (truth == t).sum()
        assert table.prediction.areas[column] == ((prediction == p) & valid).sum()
    assert (table.intersection > 0).all()


@given(truths, predictions, st.integers(0, 2**31))
def test_renumbering_changes_nothing_but_ids(truth, prediction, seed):
    """Also with ids so large that counting them would need gigabytes."""
    rng = np.random.default_rng(seed)
    names = np.sort(rng.choice(2**40, 5, replace=False)) + 1
    renamed = np.where(truth > 0, names[np.maximum(truth, 1) - 1], truth.astype(np.int64))
    before, after = overlaps(truth, prediction), overlaps(renamed, prediction)
    assert (before.rows == after.rows).all()
    assert (before.columns == after.columns).all()
    assert (before.intersection == after.intersection).all()
    assert (after.truth.ids == names[before.truth.ids - 1]).all()


def test_unsigned_and_boolean_labels_are_welcome():
    truth = np.array([[0, 2**32 - 1]], np.uint32)
    table = overlaps(truth, truth > 0)
    assert table.truth.ids.tolist() == [2**32 - 1]
    assert table.iou.tolist() == [1.0]


def test_shapes_must_agree():
    with pytest.raises(InvalidInput, match=r"shape \(2, 2\) but prediction has \(2, 3\)"):
        overlaps(np.zeros((2, 2), int), np.zeros((2, 3), int))


def test_probabilities_are_no_labels():
    with pytest.raises(InvalidInput, match="prediction has type float64"):
        overlaps(np.zeros((2, 2), int), np.zeros((2, 2)))
