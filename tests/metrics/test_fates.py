"""What became of each nucleus, drawn in one row of pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocli.instances.overlaps import overlaps
from histocli.metrics.fates import Fate, tell_fates

M, L, S, G = Fate.MATCHED, Fate.LOST, Fate.SPLIT, Fate.MERGED
images = hnp.arrays(np.int32, (5, 6), elements=st.integers(0, 4))


@pytest.mark.parametrize(
    ("truth", "prediction", "of_truth", "of_prediction"),
    [
        ("1111", "1111", [M], [M]),
        ("1100", "0011", [L], [L]),
        ("111111", "112233", [S], [S, S, S]),
        ("112233", "111111", [G, G, G], [G]),
        ("111100", "110022", [L], [L, L]),  # one piece alone is no split
        ("11111110", "11111122", [M], [M, L]),  # a crumb beside a match is false
        ("1100", "1111", [L], [L]),  # an IoU of one half is no match, and one part alone no merger
    ],
)
def test_one_row(truth, prediction, of_truth, of_prediction):
    found = tell_fates(
        overlaps(*(np.array([[int(c) for c in row]]) for row in (truth, prediction)))
    )
    assert found.truth.tolist() == of_truth
    assert found.prediction.tolist() == of_prediction


@given(images, images)
def test_swapping_swaps_splits_and_mergers(truth, prediction):
    forth, back = (tell_fates(overlaps(truth, prediction)), tell_fates(overlaps(prediction, truth)))
    assert (forth.splits, forth.merges) == (back.merges, back.splits)
    assert (forth.truth == M).sum() == (back.truth == M).sum()
