"""Self-training: what is accepted, what is learnt of it, and the teacher's weights."""

import numpy as np
import pytest
import torch

from histocli.training.self_training import (
    Acceptance,
    AveragedWeights,
    Findings,
    accept_within_strata,
    pseudo_labelled,
    pseudo_targets,
)
from tests.training.easy import easy_patches


def test_pale_and_small_nuclei_are_accepted_as_often_as_dark_and_large_ones():
    """One threshold of certainty would take dark nuclei only: here certainty is contrast."""
    rng = np.random.default_rng(0)
    contrast, area = rng.random(1200), rng.random(1200)
    confidence = contrast + 0.01 * rng.random(1200)
    accepted = accept_within_strata(confidence, contrast, area, Acceptance(share=0.7))
    for values in (contrast, area):
        for third in range(3):
            low, high = np.quantile(values, [third / 3, (third + 1) / 3])
            assert accepted[(values >= low) & (values <= high)].mean() == pytest.approx(
                0.7, abs=0.06
            )
    assert accepted.sum() == pytest.approx(0.7 * 1200, abs=6)
    dark = contrast > np.quantile(contrast, 0.7)
    assert not (accepted == dark).all()


def test_the_surest_of_those_alike_are_accepted():
    confidence = np.linspace(0, 1, 10)
    accepted = accept_within_strata(
        confidence, np.ones(10), np.ones(10), Acceptance(share=0.5, contrast_bins=1, area_bins=1)
    )
    assert accepted.tolist() == [False] * 5 + [True] * 5
    assert accept_within_strata(np.zeros(0), np.zeros(0), np.zeros(0), Acceptance()).shape == (0,)


@pytest.fixture
def findings():
    """Two squares of 12 px, the second not accepted, and a doubtful smear."""
    labels = np.zeros((40, 60), np.int32)
    labels[10:22, 10:22], labels[10:22, 34:46] = 1, 2
    probability = np.where(labels > 0, 0.97, 0.02)
    probability[30:34, 5:50] = 0.4
    probability[15, 15] = 0.6
    return labels, probability


def test_what_is_sure_is_learnt_and_the_rest_is_ignored(findings):
    labels, probability = findings
    target = pseudo_targets(
        labels, probability, np.array([False, True, False]), 0.25, Acceptance(border_um=0.5)
    )
    assert target.valid[16, 17]  # deep inside the accepted one
    assert target.nucleus[16, 17]
    assert not target.valid[labels == 2].any()  # not accepted: neither nucleus nor background
    assert not target.nucleus[labels == 2].any()
    assert not target.valid[30:34, 5:50].any()
    assert not target.valid[15, 15]  # a doubtful pixel inside
    assert target.valid[0, 0]
    assert not target.nucleus[0, 0]
    assert target.distance.max() == 255


@pytest.mark.parametrize("band", [1, 2, 3])
def test_a_band_along_borders_is_ignored(findings, band):
    labels, probability = findings
    target = pseudo_targets(
        labels, probability, np.ones(3, bool), 0.5, Acceptance(border_um=0.5 * band)
    )
    assert not target.valid[16, 10 - band : 10 + band].any()
    assert target.valid[16, 10 - band - 1]
    assert target.valid[16, 10 + band]


def test_the_teacher_is_the_mean_of_the_last_steps():
    network = torch.nn.Linear(2, 1, bias=False)
    averaged = AveragedWeights(network, keep=0.9)
    for value in range(400):
        with torch.no_grad():
            network.weight.fill_(float(value))
        averaged.after_step(network)
    # an exponential mean lags by keep / (1 - keep) steps
    assert averaged.values["weight"].mean().item() == pytest.approx(399 - 9, abs=0.5)
    assert network.weight.mean().item() == 399


def test_counters_are_copied_and_not_averaged():
    network = torch.nn.BatchNorm2d(2)
    averaged = AveragedWeights(network)
    network(torch.randn(4, 2, 3, 3))
    averaged.after_step(network)
    assert averaged.values["num_batches_tracked"] == 1


def findings_of(labels):
    return Findings(
        [each.astype(np.int32) for each in labels],
        [np.where(each > 0, 0.97, 0.02).astype(np.float32) for each in labels],
    )


def test_findings_become_patches_whose_borders_are_not_learnt():
    images, labels = easy_patches(4)
    contrast = [np.ones(4)] * 4
    made, about = pseudo_labelled(images, findings_of(labels), contrast, 0.5, Acceptance(share=1.0))
    assert about["objects"] == about["accepted"] == 16
    assert about["coverage"] == pytest.approx((labels > 0).mean(), abs=1e-3)
    assert (made.nucleus[made.valid] == (labels > 0)[made.valid]).all()
    assert 0.5 < made.valid.mean() < 1
    assert made.share.sum() == pytest.approx(1)
    assert not made.borders.any()


def test_findings_are_counted_and_their_drift_is_measured():
    _, labels = easy_patches(4)
    fewer = labels.copy()
    fewer[2:] = 0
    before, after = findings_of(labels), findings_of(fewer)
    assert (before.count(), after.count()) == (16, 8)
    areas = [(labels[0] == k).sum() for k in range(1, 5)]
    assert before.median_area_px() == pytest.approx(np.median(areas), abs=8)
    assert findings_of(np.zeros_like(labels)).median_area_px() == 0
    drift = after.drift_from(before.median_area_px(), before.count())
    assert drift.count == -0.5
    assert not drift.tolerable
    assert before.drift_from(before.median_area_px(), before.count()).tolerable
