"""The same numbers as implementations by other people, wherever definitions are the same; where
not, why.

===================  =====================================  =====================================
implementation       the same                               not the same
===================  =====================================  =====================================
torchmetrics         PQ, SQ, DQ                             -
cellseg-metrics      PQ, SQ, DQ, precision, DICE2           AJI takes the partner of largest
                                                            intersection, ours (as Kumar et al.
                                                            2017) that of largest IoU
stardist (optional)  F1, precision, recall,                 an IoU equal to the threshold matches
                     TP / (TP + FP + FN), PQ                there
                     at ten thresholds
torchmetrics         Dice (F1 of pixels)                    -
===================  =====================================  =====================================

Half of the images are small with ties everywhere, half are drawn to look like nuclei.
"""

import numpy as np
import pytest
import torch

from histocli.metrics.counts import THRESHOLDS_PERCENT, count
from histocli.metrics.table import scores_of

SEEDS = range(6)


def nuclei(seed: int, side: int = 160, n: int = 45) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses that touch; predicted with moved, split, merged, lost and invented ones."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth, prediction = np.zeros((side, side), np.int64), np.zeros((side, side), np.int64)
    for k in range(1, n + 1):
        cy, cx, a, b, turn = *rng.uniform(0, side, 2), *rng.uniform(4, 12, 2), rng.uniform(0, np.pi)

        def disc(dy, dx, grow, cy=cy, cx=cx, a=a, b=b, turn=turn):
            v, u = y - cy - dy, x - cx - dx
            p, q = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
            return (p / (a * grow)) ** 2 + (q / (b * grow)) ** 2 < 1

        fate = rng.random()
        if fate > 0.1:
            truth[disc(0, 0, 1)] = k
        if fate < 0.85:
            found = disc(*rng.normal(0, 1.5, 2), rng.uniform(0.8, 1.2))
            prediction[found] = k
            if fate < 0.25:
                prediction[found & (y > cy)] = n + k
    return truth, prediction


def noise(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, (7, 8)), rng.integers(0, 5, (7, 8))


IMAGES = [nuclei(seed) for seed in SEEDS] + [noise(seed) for seed in SEEDS]


def consecutive(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


@pytest.mark.parametrize("pair", IMAGES)
def test_panoptic_quality_of_torchmetrics(pair):
    """One class of things, one of stuff for the background."""
    functional = pytest.importorskip("torchmetrics.functional.detection")
    truth, prediction = (
        torch.from_numpy(np.stack([labels > 0, labels], axis=-1).astype(np.int64))[None]
        for labels in pair
    )
    theirs = functional.panoptic_quality(
        prediction, truth, things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True
    )
    scores = scores_of(count(*pair))
    assert [scores[name] for name in ("pq", "sq", "dq")] == pytest.approx(
        theirs[0].tolist(), abs=1e-5
    )


@pytest.mark.parametrize("pair", IMAGES)
def test_scores_of_cellseg_metrics(pair):
    theirs = pytest.importorskip("cellseg_metrics")
    scores = scores_of(count(*pair))
    quality = theirs.panoptic_quality(*pair)
    assert {name: scores[name] for name in quality} == pytest.approx(quality, abs=1e-6)
    assert scores["precision"] == pytest.approx(theirs.average_precision(*pair), abs=1e-6)
    assert scores["dice2"] == pytest.approx(theirs.dice2(*pair), abs=1e-6)


@pytest.mark.parametrize("pair", IMAGES[: len(SEEDS)])
def test_aji_of_cellseg_metrics_where_both_take_the_same_partners(pair):
    """The partner of largest intersection is not that of largest IoU for every nucleus: otherwise
    the two agree."""
    theirs = pytest.importorskip("cellseg_metrics")
    truth, prediction = pair
    for k in np.unique(truth[truth > 0]):
        mine = truth == k
        ids, shared = np.unique(prediction[mine & (prediction > 0)], return_counts=True)
        iou = [n / (mine | (prediction == i)).sum() for i, n in zip(ids, shared, strict=True)]
        if len(ids) and ((shared == shared.max()).sum() > 1 or np.argmax(iou) != np.argmax(shared)):
            truth = np.where(mine, 0, truth)
    assert len(np.unique(truth)) > 20
    assert count(truth, prediction).aji == pytest.approx(
        theirs.aggregated_jaccard_index(truth, prediction), abs=1e-6
    )


@pytest.mark.parametrize("pair", IMAGES)
def test_ten_thresholds_of_stardist(pair):
    """An IoU equal to the threshold is a match there, so the threshold is moved up by the smallest
    step."""
    matching = pytest.importorskip(
        "stardist.matching", reason="stardist is optional: it brings numba"
    )
    thresholds = [
        np.nextafter(np.float32(percent / 100), np.float32(1)) for percent in THRESHOLDS_PERCENT
    ]
    theirs = matching.matching(consecutive(pair[0]), consecutive(pair[1]), thresh=thresholds)
    counts = count(*pair)
    scores = scores_of(counts)
    assert [scores[f"f1_{percent}"] for percent in THRESHOLDS_PERCENT] == pytest.approx(
        [each.f1 for each in theirs]
    )
    assert scores["dsb_ap"] == pytest.approx(np.mean([each.accuracy for each in theirs]))
    first = theirs[0]
    assert (scores["precision"], scores["recall"]) == pytest.approx((first.precision, first.recall))
    assert scores["pq"] == pytest.approx(first.panoptic_quality, abs=1e-6)
    assert scores["sq"] == pytest.approx(first.mean_matched_score, abs=1e-6)


@pytest.mark.parametrize("pair", IMAGES)
def test_dice_is_the_f1_of_pixels(pair):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    theirs = functional.binary_f1_score(
        *(torch.from_numpy((labels > 0).astype(np.int64)) for labels in reversed(pair))
    )
    assert count(*pair).dice == pytest.approx(theirs.item(), abs=1e-6)
