"""Means, pooled scores and intervals of sets of images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.metrics.counts import Counts, count
from histocli.metrics.summary import paired_differences, summarise


def some_counts(n: int) -> list[Counts]:
    rng = np.random.default_rng(0)
    return [count(rng.integers(0, 4, (8, 8)), rng.integers(0, 4, (8, 8))) for _ in range(n)]


def test_mean_weighs_images_and_pooled_weighs_nuclei():
    """One nucleus found in a small image, nine missed in a large one."""
    found, missed = (
        Counts(n_truth=1, n_prediction=1, true_positives=1, matched_iou_sum=1.0),
        Counts(n_truth=9),
    )
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
        if np.isnan(mean):
            assert summary.ci95[name] is None
            continue
        low, high = summary.ci95[name]
        assert low <= mean <= high
    assert set(summarise(some_counts(1)).ci95.values()) == {None}
    assert set(summarise(some_counts(5), bootstrap=0).ci95.values()) == {None}


def test_same_seed_same_interval():
    assert repr(summarise(some_counts(5), seed=1)) == repr(summarise(some_counts(5), seed=1))


def test_what_an_image_cannot_say_is_left_out_of_the_mean():
    """No truth: errors relative to it are unknown, in the mean and in each resampling."""
    none, some = (
        Counts(n_prediction=3, images=1),
        [Counts(n_truth=n, n_prediction=n + 1, images=1) for n in (1, 2, 4)],
    )
    summary = summarise([none, *some])
    assert summary.mean["count_error_relative"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert summary.known["count_error_relative"] == 3
    assert summary.known["pq"] == 4
    low, high = summary.ci95["count_error_relative"]
    assert 1 / 4 <= low < high <= 1


def test_groups_are_drawn_whole():
    """Two patients whose images agree among themselves: the interval knows two numbers, not
    twenty."""
    counts = [
        Counts(n_truth=2, n_prediction=2, true_positives=k, matched_iou_sum=float(k), images=1)
        for k in (0, 2)
    ]
    counts, groups = [counts[0]] * 10 + [counts[1]] * 10, ["a"] * 10 + ["b"] * 10
    by_image, by_group = summarise(counts), summarise(counts, groups=groups)
    assert by_group.ci95["pq"] == (0, 1)
    assert by_image.ci95["pq"][0] > 0.2
    assert by_group.mean == pytest.approx(by_image.mean, nan_ok=True)


def test_paired_differences_see_through_hard_and_easy_images():
    """B is always 0.1 better than A, while images differ by far more: the interval of the
    difference excludes 0."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.8, 30)
    sets = [
        [
            Counts(
                n_truth=1000,
                n_prediction=1000,
                true_positives=int(1000 * f),
                matched_iou_sum=1000 * f,
                images=1,
            )
            for f in side
        ]
        for side in (base, base + 0.1)
    ]
    found = paired_differences(*sets)["pq"]
    assert found.mean == pytest.approx(0.1, abs=0.002)
    assert found.ci95[0] > 0.09
    assert found.p_value < 0.001
    assert (found.better, found.worse) == (30, 0)
    back = paired_differences(*reversed(sets))["pq"]
    assert (back.mean, back.better) == (pytest.approx(-found.mean), 0)
    same = paired_differences(sets[0], sets[0])["pq"]
    assert (same.mean, same.ci95, same.p_value) == (0, (0, 0), 1)


def sets_with(gains: np.ndarray) -> list[list[Counts]]:
    """Two predictions whose panoptic quality differs by these gains."""
    return [
        [
            Counts(n_truth=1, n_prediction=1, true_positives=1, matched_iou_sum=q, images=1)
            for q in side
        ]
        for side in (np.full(len(gains), 0.5), 0.5 + gains)
    ]


@given(
    st.lists(st.floats(-0.4, 0.4).map(lambda gain: round(gain, 3)), min_size=6, max_size=14),
    st.integers(0, 2),
)
def test_the_interval_of_a_difference_leaves_0_out_where_p_is_below_5_per_cent(gains, seed):
    found = paired_differences(*sets_with(np.array(gains)), seed=seed)["pq"]
    low, high = found.ci95
    assert low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= high
    edge = min(abs(low), abs(high))
    if edge > 1e-9:  # at 0 rounding decides
        assert (low > 0 or high < 0) == (found.p_value < 0.05)


def test_the_interval_holds_the_shifts_that_the_test_does_not_reject():
    """The oracle shifts the differences and tests again."""
    gains = np.random.default_rng(4).normal(0.02, 0.05, 9)
    low, high = paired_differences(*sets_with(gains))["pq"].ci95

    def p_value(shift: float) -> float:
        return paired_differences(*sets_with(gains - shift))["pq"].p_value

    assert p_value(low - 1e-6) < 0.05 <= p_value(low + 1e-6)
    assert p_value(high + 1e-6) < 0.05 <= p_value(high - 1e-6)


def test_fewer_than_six_images_show_no_difference():
    found = paired_differences(*sets_with(np.full(5, 0.2)))["pq"]
    assert (found.ci95, found.p_value) == (None, 1 / 16)
    assert paired_differences(*sets_with(np.full(6, 0.2)))["pq"].ci95 is not None


def test_fewer_errors_are_better():
    near, far = ([Counts(n_truth=5, n_prediction=n, images=1)] * 4 for n in (6, 9))
    found = paired_differences(far, near)["count_error_abs"]
    assert (found.mean, found.better, found.worse) == (-3, 4, 0)


def test_the_sign_flip_test_is_exact_for_few_images():
    """Three images, all better: 2 of 8 sign patterns are as extreme."""
    one, two = (
        [Counts(n_truth=2, n_prediction=2, true_positives=k, matched_iou_sum=float(k), images=1)]
        * 3
        for k in (1, 2)
    )
    assert paired_differences(one, two)["pq"].p_value == pytest.approx(2 / 8)


def test_an_empty_set_has_no_mean():
    with pytest.raises(ValueError, match="at least one image"):
        summarise([])
