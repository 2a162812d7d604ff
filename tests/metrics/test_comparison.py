"""Everything about one image: windows change nothing, and neither does the way the border rule is
carried out.

The images are random patches of colour, so nuclei are of any size, touch, are disconnected and lie
across windows.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.base.errors import InvalidInput
from histocli.instances.overlaps import merge_overlaps, overlaps
from histocli.metrics import boundaries, windows
from histocli.metrics.comparison import Rules, compare, compare_windows, leave_out_border
from histocli.metrics.counts import count
from histocli.metrics.table import NAMES, scores_of
from histocli.metrics.windows import InMemory


def scene(seed: int, shape=(90, 110), n=40, ignored=True) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles over each other, and the same ones moved a little, some lost, some invented."""
    rng = np.random.default_rng(seed)
    truth, prediction = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for k in range(1, n + 1):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        h, w = rng.integers(2, 16, 2)
        if rng.random() < 0.9:
            truth[y : y + h, x : x + w] = k
        if rng.random() < 0.9:
            j, i = (max(0, int(edge + rng.integers(-2, 3))) for edge in (y, x))
            prediction[j : j + h, i : i + w] = 1000 + 3 * k
    if ignored:
        truth[10:22, 30:50] = -1
    return truth, prediction


def equal(one, two) -> bool:
    """Tables of overlaps, and their sides, array by array."""
    return all(
        (a == b).all() if isinstance(a, np.ndarray) else equal(a, b)
        for a, b in zip(vars(one).values(), vars(two).values(), strict=True)
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(8, 60), st.integers(8, 60))
def test_tables_of_windows_add_up(seed, height, width):
    truth, prediction = scene(seed)
    tables = [
        overlaps(
            truth[y : y + height, x : x + width],
            prediction[y : y + height, x : x + width],
            origin=(y, x),
        )
        for y in range(0, truth.shape[0], height)
        for x in range(0, truth.shape[1], width)
    ]
    np.random.default_rng(seed).shuffle(tables)
    assert equal(merge_overlaps(tables), overlaps(truth, prediction))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    core=st.integers(7, 70),
    overhang=st.sampled_from([0, 5, 20]),
    border=st.sampled_from(["count", "ignore"]),
)
def test_windows_change_nothing(seed, core, overhang, border):
    """Also where nuclei reach farther than the windows' margins, and with several threads."""
    truth, prediction = scene(seed)
    rules = Rules(mpp=0.5, tolerance_um=1.0, border=border)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(windows, "CORE_PX", core)
        patch.setattr(boundaries, "OVERHANG_PX", overhang)
        found = compare_windows(InMemory(truth), InMemory(prediction), rules, pool.map)
    wanted = compare(truth, prediction, rules)
    assert found.counts == wanted.counts
    assert equal(found.table, wanted.table)
    assert (found.fates.truth == wanted.fates.truth).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_the_border_rule_is_a_way_of_painting(seed):
    """Leaving nuclei out of the table is the same as painting them over and counting anew."""
    truth, prediction = scene(seed)
    no_truth, no_prediction = leave_out_border(overlaps(truth, prediction), truth.shape)
    table = overlaps(truth, prediction)
    painted = np.where(np.isin(truth, table.truth.ids[no_truth]), -1, truth)
    rest = np.where(np.isin(prediction, table.prediction.ids[no_prediction]), 0, prediction)
    found = compare(truth, prediction, Rules(border="ignore", boundaries=False)).counts
    assert dataclasses.replace(
        found, detections=0, detection_images=0, splits=0, merges=0
    ) == count(painted, rest)
    edge = np.concatenate([painted[0], painted[-1], painted[:, 0], painted[:, -1]])
    assert (edge <= 0).all()


@given(st.integers(0, 10**6), st.sampled_from(["count", "ignore"]))
@settings(deadline=None, max_examples=20)
def test_an_image_agrees_with_itself(seed, border):
    truth, _ = scene(seed)
    scores = scores_of(compare(truth, truth, Rules(border=border)).counts)
    assert tuple(scores) == NAMES
    for name in ("pq", "aji", "aji_plus", "dsb_ap", "detection_f1", "boundary_f1", "ensemble_dice"):
        assert scores[name] == 1
    assert scores["hd95_um"] == 0 or np.isnan(scores["hd95_um"])


def test_radius_and_tolerance_are_in_micrometres():
    """A square moved by 4 px is found within 1 um at 0.25 um/px but not at 0.5."""
    truth = np.zeros((40, 40), np.int32)
    truth[10:20, 10:20] = 1
    moved = np.roll(truth, 4, axis=1)
    fine, coarse = (
        compare(truth, moved, Rules(mpp=mpp, radius_um=1.0, tolerance_um=1.0)).counts
        for mpp in (0.25, 0.5)
    )
    assert (fine.detections, coarse.detections) == (1, 0)
    assert fine.boundary_f1 == 1
    assert coarse.boundary_f1 < 1


def test_empty_images():
    empty, full = np.zeros((9, 9), np.int32), np.pad(np.ones((3, 3), np.int32), 3)
    for pair, wanted in (((empty, empty), 1), ((empty, full), 0), ((full, empty), 0)):
        scores = scores_of(compare(*pair, Rules()).counts)
        assert [
            scores[name] for name in ("pq", "detection_f1", "boundary_f1", "detection_recall")
        ] == [wanted] * 4
        assert np.isnan(scores["hd95_um"])


def test_windows_must_be_of_one_size():
    with pytest.raises(InvalidInput, match="both must agree"):
        compare_windows(InMemory(np.zeros((3, 3), int)), InMemory(np.zeros((3, 4), int)), Rules())
