"""Matches and assignments agree with slow dense ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocli.instances import matching
from histocli.instances.matching import best_prediction, matched_pairs, one_to_one
from histocli.instances.overlaps import overlaps

SHAPE = (5, 6)
truths = hnp.arrays(np.int32, SHAPE, elements=st.integers(-1, 5))
predictions = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 5))


@given(truths, predictions)
def test_no_nucleus_is_in_two_matches(truth, prediction):
    table = overlaps(truth, prediction)
    matched = matched_pairs(table)
    assert len(set(table.rows[matched])) == len(set(table.columns[matched])) == len(matched)


@given(truths, predictions)
def test_best_prediction_is_the_highest_iou_of_each_row(truth, prediction):
    table = overlaps(truth, prediction)
    best = best_prediction(table)
    assert (table.rows[best] == np.unique(table.rows)).all()
    for pair in best:
        assert table.iou[pair] == table.iou[table.rows == table.rows[pair]].max()


def largest_total_iou(table) -> float:
    """Try every injection of the smaller side into the larger."""
    dense = np.zeros((len(table.truth.areas), len(table.prediction.areas)))
    dense[table.rows, table.columns] = table.iou
    if dense.shape[0] > dense.shape[1]:
        dense = dense.T
    orders = itertools.permutations(range(dense.shape[1]), dense.shape[0])
    return max(sum(dense[i, j] for i, j in enumerate(order)) for order in orders)


@pytest.mark.parametrize(
    "dense_pairs", [matching.DENSE_PAIRS, 0], ids=["dense groups", "sparse groups"]
)
@settings(deadline=None)
@given(truth=truths, prediction=predictions)
def test_assignment_has_the_largest_total_iou(dense_pairs, truth, prediction):
    table = overlaps(truth, prediction)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "DENSE_PAIRS", dense_pairs)
        pairs = one_to_one(table)
    assert len(set(table.rows[pairs])) == len(set(table.columns[pairs])) == len(pairs)
    assert table.iou[pairs].sum() == pytest.approx(largest_total_iou(table))


def test_one_blob_over_everything_stays_sparse():
    """A prediction that covers 10,000 nuclei: 10,000 pairs, solved at once."""
    truth = np.zeros((300, 300), np.int32)
    truth[1::3, 1::3] = np.arange(1, 10_001).reshape(100, 100)
    prediction = np.ones_like(truth)
    table = overlaps(truth, prediction)
    assert len(table.rows) == 10_000
    assert len(one_to_one(table)) == 1


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (1, 1)])
def test_empty_images_have_no_pairs(shape):
    empty = np.zeros(shape, np.int32)
    table = overlaps(empty, empty)
    assert len(table.rows) == len(one_to_one(table)) == len(best_prediction(table)) == 0
