"""One verdict, which never contradicts its p-values."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.metrics.summary import Difference
from histocli.metrics.verdict import Versus, holm, judge

INTERVAL = (-0.5, 0.5)


def difference(mean: float, p_value: float, interval=INTERVAL) -> Difference:
    return Difference(
        mean=mean, ci95=interval, p_value=p_value, better=1, worse=1, images=20 if interval else 3
    )


@given(st.integers(-300, 300).map(lambda n: n / 1000), st.floats(0.0001, 1))
def test_of_two_predictions_one_is_better_exactly_where_p_says_so(mean, p_value):
    found = judge(["a", "b"], [0.5, 0.5 + mean], [Versus(0, 1, difference(mean, p_value))])
    assert bool(found.beaten) == (p_value < 0.05 and mean != 0)
    assert ("is better than" in found.text) == bool(found.beaten)
    assert ("no difference is shown" in found.text) == (not found.beaten)
    if found.beaten:
        better = "b is better than a" if mean > 0 else "a is better than b"
        assert better in found.text
        assert " +0." in found.text  # the higher minus the lower


def test_numbers_of_the_verdict_are_of_the_higher_minus_the_lower():
    versus = [Versus(0, 1, difference(-0.02, 0.01, (-0.03, -0.01)))]
    text = judge(["a", "b"], [0.52, 0.5], versus).text
    assert "a is better than b: PQ +0.020 (95 % +0.010 to +0.030, p = 0.010" in text


def test_few_images_cannot_tell():
    found = judge(["a", "b"], [0.1, 0.9], [Versus(0, 1, difference(0.8, 0.25, None))])
    assert found.beaten == ()
    assert "over 3 images" in found.text


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_keep_their_order_and_do_not_fall(p_values):
    adjusted = holm(p_values)
    assert all(0 <= p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (q - s) * (p - r) >= 0
    assert min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_the_best_of_three_names_those_that_it_beats():
    versus = [
        Versus(0, 1, difference(0.1, 0.001)),
        Versus(0, 2, difference(0.09, 0.2)),
        Versus(1, 2, difference(-0.01, 0.03)),
    ]
    found = judge(["a", "b", "c"], [0.4, 0.5, 0.49], versus)
    assert (found.best, found.beaten) == (1, (0,))  # 0.03 becomes 0.06 among three pairs
    assert "is better than a and is not shown to be better than c" in found.text
