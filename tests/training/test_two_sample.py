"""Two samples: curves and weights against what is known in closed form, folds of whole images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from histocli.training.two_sample import (
    TwoSampleSchedule,
    TwoSampleScores,
    _steps,
    area_under_curve,
    effective_share,
    fit_log_odds,
    folds_of,
    importance_weights,
    judge,
    weights_of_kept,
)

CPU = torch.device("cpu")


def scores_of(real, synthetic):
    return TwoSampleScores(
        np.asarray(real, float),
        np.asarray(synthetic, float),
        np.arange(len(real)),
        np.arange(len(synthetic)),
    )


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
)
def test_the_area_under_the_curve_is_that_of_a_known_library(real, synthetic):
    expected = mannwhitneyu(real, synthetic).statistic / (len(real) * len(synthetic))
    assert area_under_curve(real, synthetic) == pytest.approx(expected)


def test_scores_that_are_missing_do_not_count():
    assert area_under_curve([1, np.nan], [0]) == 1
    assert np.isnan(area_under_curve([np.nan], [1]))


def test_the_patches_of_an_image_share_its_fold_and_folds_are_even():
    images = np.repeat(np.arange(10), 7)
    fold = folds_of(images, 3, seed=0)
    assert all(len(np.unique(fold[images == image])) == 1 for image in range(10))
    assert sorted(np.bincount(fold) // 7) == [3, 3, 4]


def test_log_odds_that_are_fit_log_oddsd_stay_and_overconfident_ones_shrink():
    rng = np.random.default_rng(0)
    # log odds of two Gaussians: the score
    real, synthetic = rng.normal(1, np.sqrt(2), 4000), rng.normal(-1, np.sqrt(2), 4000)
    slope, offset = fit_log_odds(scores_of(real, synthetic))
    assert slope == pytest.approx(1, abs=0.08)
    assert offset == pytest.approx(0, abs=0.08)
    assert fit_log_odds(scores_of(3 * real, 3 * synthetic))[0] == pytest.approx(slope / 3, rel=0.02)


def test_weights_make_the_synthetic_mean_that_of_real_ones():
    """With the score as the feature: importance weights turn the mean of one Gaussian into that of
    the other."""
    rng = np.random.default_rng(1)
    # the log odds are the value itself
    real, synthetic = rng.normal(0.5, 1, 20_000), rng.normal(-0.5, 1, 20_000)
    weights = importance_weights(scores_of(real, synthetic), limits=(1e-3, 1e3))
    assert weights.mean() == pytest.approx(1)
    assert (weights * synthetic).mean() == pytest.approx(0.5, abs=0.1)
    # exp(-d^2) for Gaussians d apart
    assert effective_share(weights) == pytest.approx(np.exp(-1), abs=0.06)


def test_where_the_classifier_is_nearly_perfect_weights_are_flattened():
    rng = np.random.default_rng(2)
    sharp = scores_of(rng.normal(8, 3, 500), rng.normal(-8, 3, 500))
    assert effective_share(importance_weights(sharp)) < 0.3
    weights = importance_weights(sharp, least_effective=0.5)
    assert effective_share(weights) >= 0.5
    assert len(np.unique(weights)) > 2
    ranks = np.argsort(sharp.synthetic)
    assert (np.diff(weights[ranks]) >= 0).all()  # the likelier still weigh more


def test_patches_that_are_not_kept_weigh_nothing_and_the_mean_of_the_others_is_one():
    weights = weights_of_kept(np.array([3.0, 1.0]), np.array([0, 2]), np.array([1.0, 1, 1, 0]))
    assert np.allclose(weights, np.array([3, 1, 1, 0]) * 3 / 5)
    assert not weights_of_kept(np.ones(2), np.arange(2), np.zeros(2)).any()


def test_equal_weights_all_count():
    assert effective_share(np.ones(7)) == 1
    assert effective_share([1, 0, 0, 0]) == 0.25


def noise(n, spread, seed):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(128, spread, (n, 32, 32, 3)), 0, 255).astype(np.uint8)


SCHEDULE = TwoSampleSchedule(folds=2, steps=25, batch=8, crop_px=32, learning_rate=5e-3)


def test_other_noise_is_told_apart_on_images_never_seen_and_equal_noise_is_not():
    images = np.arange(24) // 4
    different = judge(
        noise(24, 10, 0), noise(24, 40, 1), images, images, SCHEDULE, CPU, torch.float32
    )
    assert different.auc > 0.95
    assert np.isfinite(different.synthetic).all()
    low, high = different.interval(draws=50)
    assert low <= different.auc <= high
    equal = judge(noise(24, 20, 2), noise(24, 20, 3), images, images, SCHEDULE, CPU, torch.float32)
    assert 0.2 < equal.auc < 0.8


def test_the_verdict_is_the_same_every_time():
    images = np.arange(12) // 3
    runs = [
        judge(noise(12, 10, 0), noise(12, 40, 1), images, images, SCHEDULE, CPU, torch.float32)
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].synthetic, runs[1].synthetic)


def test_one_image_leaves_nothing_to_hold_out():
    with pytest.raises(ValueError, match="at least two images"):
        judge(
            noise(4, 10, 0),
            noise(4, 10, 1),
            np.zeros(4, int),
            np.zeros(4, int),
            SCHEDULE,
            CPU,
            torch.float32,
        )


def test_a_time_limit_ends_the_training_of_classifiers(monkeypatch):
    """A clock that moves on by a second a step: three of the steps fit."""
    now = iter(np.arange(1000.0))
    monkeypatch.setattr("histocli.training.two_sample.time.monotonic", lambda: float(next(now)))
    taken = [step for step, _ in _steps(TwoSampleSchedule(steps=200, time_s=4.0))]
    assert taken == [0, 1, 2]
    shares = [share for _, share in _steps(TwoSampleSchedule(steps=4))]
    assert shares == [0, 0.25, 0.5, 0.75]


def test_judging_reports_how_much_is_done():
    seen = []
    images = np.arange(12) // 3
    pictures = noise(12, 10, 0), noise(12, 40, 1)
    judge(*pictures, images, images, SCHEDULE, CPU, torch.float32, seen.append)
    assert seen == sorted(seen)
    assert len(seen) == SCHEDULE.folds * SCHEDULE.steps
    assert 0.9 < seen[-1] <= 1
