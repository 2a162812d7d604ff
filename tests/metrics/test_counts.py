"""Counts agree with slow oracles written from the papers, pixel set by pixel set."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from histocli.base.errors import InvalidInput
from histocli.metrics.counts import count
from histocli.metrics.table import QUALITIES, scores_of

FIRST = ("dice", "aji", "aji_plus", "pq", "dq", "sq", "f1")
NOT_MEASURED = ("detection_f1", "detection_precision", "detection_recall", "boundary_f1")
MEASURED = [name for name in QUALITIES if name not in NOT_MEASURED]

SHAPE = (5, 6)
truths = hnp.arrays(np.int32, SHAPE, elements=st.integers(-1, 4))
predictions = hnp.arrays(np.int32, SHAPE, elements=st.integers(0, 4))


def pixel_sets(labels: np.ndarray, ignored: np.ndarray) -> list[frozenset]:
    """Each nucleus as the set of its pixels."""
    ids = sorted(set(labels[~ignored].tolist()) - {0, -1})
    return [frozenset(zip(*np.nonzero((labels == i) & ~ignored), strict=True)) for i in ids]


def iou(a: frozenset, b: frozenset) -> float:
    return len(a & b) / len(a | b)


def oracle(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Every metric from sets of pixels; AJI+ from trying all assignments."""
    ignored = truth < 0
    true, found = pixel_sets(truth, ignored), pixel_sets(prediction, ignored)
    if not true or not found:
        return dict.fromkeys(FIRST, float(len(true) == len(found)))
    all_true, all_found = frozenset().union(*true), frozenset().union(*found)
    pairs = [iou(t, p) for t in true for p in found if iou(t, p) > 0.5]
    dq = len(pairs) / (len(pairs) + (len(true) - len(pairs)) / 2 + (len(found) - len(pairs)) / 2)
    sq = sum(pairs) / len(pairs) if pairs else 0.0

    shared, union, taken = 0, 0, set()
    for t in true:
        touching = [p for p in found if t & p]
        if not touching:
            union += len(t)
            continue
        best = max(touching, key=lambda p: iou(t, p))
        taken.add(best)
        shared, union = shared + len(t & best), union + len(t | best)
    union += sum(len(p) for p in found if p not in taken)

    width = max(len(true), len(found))
    padded = found + [frozenset()] * (width - len(found))
    best_total, aji_plus = -1.0, set()
    for order in itertools.permutations(range(width), len(true)):
        chosen = [(t, padded[j]) for t, j in zip(true, order, strict=True)]
        total = sum(iou(t, p) for t, p in chosen)
        both = sum(len(t & p) for t, p in chosen)
        value = both / (len(all_true) + len(all_found) - both)
        if total > best_total + 1e-12:
            best_total, aji_plus = total, {value}
        elif total > best_total - 1e-12:
            aji_plus.add(value)  # several assignments are equally good: any of them will do
    return {
        "dice": 2 * len(all_true & all_found) / (len(all_true) + len(all_found)),
        "aji": shared / union,
        "aji_plus": aji_plus,
        "pq": dq * sq,
        "dq": dq,
        "sq": sq,
        "f1": dq,
    }


def has_tied_best(truth: np.ndarray, prediction: np.ndarray) -> bool:
    ignored = truth < 0
    found = pixel_sets(prediction, ignored)
    for t in pixel_sets(truth, ignored):
        values = sorted((iou(t, p) for p in found if t & p), reverse=True)
        if len(values) > 1 and values[0] == values[1]:
            return True
    return False


@settings(deadline=None, max_examples=200)
@given(truths, predictions)
def test_agrees_with_sets_of_pixels(truth, prediction):
    scores, expected = scores_of(count(truth, prediction)), oracle(truth, prediction)
    for name in FIRST:
        if name == "aji_plus" and isinstance(expected[name], set):
            assert min(abs(scores[name] - value) for value in expected[name]) < 1e-9
        elif name != "aji" or not has_tied_best(truth, prediction):
            assert scores[name] == pytest.approx(expected[name]), name


@given(truths)
def test_self_match_is_perfect(truth):
    scores = scores_of(count(truth, truth))
    assert {name: scores[name] for name in MEASURED} == pytest.approx(dict.fromkeys(MEASURED, 1.0))
    assert scores["count_error"] == 0


@given(predictions, predictions)
def test_swapping_arguments_swaps_the_mistakes(truth, prediction):
    forth, back = count(truth, prediction), count(prediction, truth)
    assert (forth.false_positives, forth.false_negatives) == (
        back.false_negatives,
        back.false_positives,
    )
    for name in ("dice", "pq", "f1"):
        assert scores_of(forth)[name] == pytest.approx(scores_of(back)[name])


@given(truths, predictions)
def test_what_lies_on_ignored_pixels_does_not_matter(truth, prediction):
    painted = np.where(truth < 0, 4, prediction)
    assert count(truth, painted) == count(truth, np.where(truth < 0, 0, prediction))


@given(truths, predictions)
def test_scores_lie_between_zero_and_one(truth, prediction):
    scores = scores_of(count(truth, prediction))
    assert all(0 <= scores[name] <= 1 for name in MEASURED)
    assert all(np.isnan(scores[name]) for name in NOT_MEASURED)
    assert (
        scores["aji_plus"] <= scores["aji"] + 1e-9
        or has_tied_best(truth, prediction)
        or scores["aji_plus"] <= 1
    )


@given(truths, predictions, truths, predictions)
def test_pooling_equals_one_large_image(truth_a, prediction_a, truth_b, prediction_b):
    """Two images beside each other, with nuclei of their own numbers, are the sum of both."""
    beside = np.hstack([truth_a, np.where(truth_b > 0, truth_b + 10, truth_b)])
    found = np.hstack([prediction_a, np.where(prediction_b > 0, prediction_b + 10, prediction_b)])
    pooled = count(truth_a, prediction_a) + count(truth_b, prediction_b)
    one, two = scores_of(pooled), scores_of(count(beside, found))
    del one["dsb_ap"], two["dsb_ap"]  # a mean over images, never pooled
    assert one == pytest.approx(two, nan_ok=True)


@pytest.mark.parametrize("name", MEASURED)
def test_empty_cases(name):
    empty, full = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert scores_of(count(empty, empty))[name] == 1
    assert scores_of(count(full, empty))[name] == 0
    assert scores_of(count(empty, full))[name] == 0
    assert scores_of(count(full * -1, full))[name] == 1


def test_half_an_overlap_is_no_match():
    """IoU of exactly 0.5: six pixels, four and... two of three shared; the rule asks for more than
    one half."""
    truth, prediction = np.array([[1, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    assert count(truth, prediction).true_positives == 0


def test_aji_may_use_a_prediction_twice_and_aji_plus_may_not():
    """Two nuclei of 4 px under one prediction of 8 px.

    truth       1111 2222      AJI   (4 + 4) / (8 + 8) = 0.5
    prediction  1111 1111      AJI+  4 / (8 + 4)       = 0.333
    """
    truth, prediction = np.array([[1] * 4 + [2] * 4]), np.array([[1] * 8])
    counts = count(truth, prediction)
    assert counts.aji == 0.5
    assert counts.aji_plus == pytest.approx(4 / 12)


def test_shapes_must_agree():
    with pytest.raises(InvalidInput, match="same height and width"):
        count(np.zeros((2, 2), int), np.zeros((2, 3), int))


def test_a_table_worked_by_hand():
    """One row of pixels; nucleus 1 is found too long, 2 in two pieces, 3 is missed, prediction 9 is
    false.

    truth       1 1 1 1 0 2 2 2 2 0 3 3 0 0
    prediction  5 5 5 5 5 6 6 7 7 0 0 0 9 9

    1-5: 4 of 5, 2-6 and 2-7: 2 of 4. Matched: 1-5 alone, since one half is not more than one half.
    """
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0, 0]])
    prediction = np.array([[5, 5, 5, 5, 5, 6, 6, 7, 7, 0, 0, 0, 9, 9]])
    counts = count(truth, prediction)
    assert counts.matched_at == (1, 1, 1, 1, 1, 1, 0, 0, 0, 0)  # 4 / 5 does not exceed 0.80
    wanted = {
        "dice": 16 / 21,
        "dice2": 2 * (4 + 2 + 2) / ((4 + 5) + (4 + 2) + (4 + 2)),
        "ensemble_dice": (16 / 21 + 16 / 21) / 2,
        "aji": (4 + 2) / ((5 + 4) + 2 + 2 + 2),  # 2 takes 6; 7, 9 and 3 are left
        "aji_plus": (4 + 2) / (10 + 11 - 6),
        "dq": 2 / 7,
        "sq": 0.8,
        "pq": 2 / 7 * 0.8,
        "precision": 1 / 4,
        "recall": 1 / 3,
        "f1_75": 2 / 7,
        "f1_80": 0,
        "f1_mean": 0.6 * 2 / 7,
        "dsb_ap": 0.6 * 1 / 6,
        "count_error": 1,
        "count_error_abs": 1,
        "count_error_relative": 1 / 3,
        "area_error_relative": 1 / 10,
        "matched_area_error": 1 / 4,
    }
    scores = scores_of(counts)
    assert {name: scores[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_an_iou_equal_to_a_threshold_is_no_match(percent):
    """An IoU of exactly n / 100, whatever floating point makes of it."""
    truth, prediction = np.ones((1, 100), int), (np.arange(100) < percent).astype(int)[None]
    above = (np.arange(100) < percent + 1).astype(int)[None]
    name = f"f1_{percent}"
    assert (scores_of(count(truth, prediction))[name], scores_of(count(truth, above))[name]) == (
        0,
        1,
    )


@given(truths, predictions, st.integers(0, 2**31))
def test_renumbering_changes_no_score(truth, prediction, seed):
    """Ids may have gaps and be huge; which pieces a nucleus has does not matter either."""
    names = np.random.default_rng(seed).choice(2**62, 5, replace=False) + 1
    names.sort()  # ties go to the smaller label, so the order is kept
    renamed = np.where(truth > 0, names[np.maximum(truth, 1) - 1], truth.astype(np.int64))
    assert count(renamed, prediction) == count(truth, prediction)


@given(truths, predictions, st.integers(0, 2**31))
def test_moving_pixels_about_changes_no_score(truth, prediction, seed):
    """Only how many pixels each pair shares counts: nuclei need not be connected."""
    order = np.random.default_rng(seed).permutation(truth.size)
    moved = [labels.ravel()[order].reshape(labels.shape) for labels in (truth, prediction)]
    assert count(*moved) == count(truth, prediction)


def test_splitting_lowers_pq_and_merging_too():
    truth = np.zeros((12, 24), int)
    truth[2:10, 2:10], truth[2:10, 10:18] = 1, 2
    split = truth.copy()
    split[6:10, 2:10] = 3
    merged = (truth > 0).astype(int)
    whole = count(truth, truth).panoptic_quality
    assert count(truth, split).panoptic_quality < whole
    assert count(truth, merged).panoptic_quality < whole
    assert count(truth, split).dice == count(truth, merged).dice == 1
