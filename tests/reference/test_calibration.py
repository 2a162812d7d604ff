"""Errors of known size are measured, and taken off priors again."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from histocli.reference.calibration import (
    FEWEST_MATCHES,
    TRUSTED,
    UNCALIBRATED,
    Calibration,
    calibration_of,
    compare_areas,
)
from tests.tissue import make_tissue, measure_morphology


def squares(side, size=60, step=20):
    """Nine squares with a side of so many pixels."""
    labels = np.zeros((size, size), np.int32)
    for number in range(9):
        y, x = divmod(number, 3)
        labels[y * step + 2 : y * step + 2 + side, x * step + 2 : x * step + 2 + side] = number + 1
    return labels


@pytest.mark.parametrize(("truth", "predicted"), [(12, 10), (10, 12), (12, 12), (10, 9)])
def test_the_area_ratio_is_that_of_the_squares(truth, predicted):
    ratios, found, drawn = compare_areas(squares(truth), squares(predicted))
    assert ratios == pytest.approx([predicted**2 / truth**2] * 9)
    assert (found, drawn) == (9, 9)


def test_eroded_labels_give_the_area_that_is_left():
    truth = make_tissue(192).labels
    eroded = np.where(ndimage.binary_erosion(truth > 0), truth, 0).astype(np.int32)
    ratios, found, drawn = compare_areas(truth, eroded)
    left = (
        np.bincount(eroded.ravel(), minlength=truth.max() + 1)[1:] / np.bincount(truth.ravel())[1:]
    )
    matched = left > 0.5  # of an eroded label, this is the IoU
    assert sorted(ratios) == pytest.approx(sorted(left[matched]))
    assert found == (left > 0).sum()
    assert drawn == truth.max()
    area = calibration_of(ratios, found, drawn).area_factor
    assert area == pytest.approx(np.median(left[matched]))


def test_missed_and_invented_nuclei_change_the_recall_only():
    truth, predicted = squares(12), squares(12)
    missed = np.where(np.isin(predicted, [2, 5, 8]), 0, predicted)
    assert compare_areas(truth, missed) == ([1.0] * 6, 6, 9)
    assert compare_areas(missed, predicted) == ([1.0] * 6, 9, 6)
    assert compare_areas(np.zeros_like(truth), predicted) == ([], 9, 0)
    assert compare_areas(truth, np.zeros_like(truth)) == ([], 0, 9)


def test_what_is_ignored_is_not_false():
    """A prediction that lies mostly on ignored pixels is neither found nor invented; ids need not
    be consecutive."""
    predicted = squares(12) * 7
    truth = squares(12)
    ignored = np.where(np.isin(truth, [1, 2, 3]), -1, truth)
    assert compare_areas(ignored, predicted) == ([1.0] * 6, 6, 6)
    # a third of a nucleus ignored leaves it counted, two thirds do not
    slight, mostly = truth.copy(), truth.copy()
    slight[2:6, 2:14] = -1
    mostly[2:10, 2:14] = -1
    assert compare_areas(slight, predicted)[1:] == (9, 9)
    assert compare_areas(mostly, predicted)[1] == 8
    nothing_known = np.full_like(truth, -1)
    assert compare_areas(nothing_known, predicted) == ([], 0, 0)


def test_few_matches_calibrate_nothing():
    few, enough = [0.8] * (FEWEST_MATCHES - 1), [0.8] * FEWEST_MATCHES
    assert calibration_of(few, 20, 40) == UNCALIBRATED
    assert calibration_of([], 0, 0) == UNCALIBRATED
    assert calibration_of(enough, 30, 40) == Calibration(area_factor=0.8, recall=0.75)


def test_the_median_decides_and_wild_errors_are_not_believed():
    ratios = [0.8] * 30 + [5.0] * 10
    assert calibration_of(ratios, 90, 100).area_factor == pytest.approx(0.8)
    low = calibration_of([0.51] * 50, 10, 100)
    assert (low.area_factor, low.recall) == (pytest.approx(0.51), TRUSTED[0])
    high = calibration_of([1.9] * 50, 400, 100)
    assert (high.area_factor, high.recall) == (TRUSTED[1], TRUSTED[1])


@pytest.fixture(scope="module")
def morphology():
    labels = make_tissue(192).labels
    return measure_morphology(labels, np.ones(labels.shape, bool), 0.5)


def test_correction_divides(morphology):
    found = Calibration(area_factor=0.8, recall=0.5).correct(morphology)
    assert found.n_nuclei == round(morphology.n_nuclei / 0.5)
    assert found.density_per_mm2 == pytest.approx(morphology.density_per_mm2 / 0.5)
    assert found.nuclear_fraction == pytest.approx(min(1, morphology.nuclear_fraction / 0.8 / 0.5))
    assert found.area_um2 == pytest.approx([area / 0.8 for area in morphology.area_um2])
    assert found.typical_area_um2 == pytest.approx(
        [area / 0.8 for area in morphology.typical_area_um2]
    )
    untouched = (
        "log_area_sd",
        "elongation",
        "direction_sharing",
        "touching_share",
        "area_shares",
        "elongation_shares",
    )
    for name in untouched:
        assert getattr(found, name) == getattr(morphology, name)


def test_no_error_corrects_nothing_and_no_more_than_all_is_nucleus(morphology):
    assert UNCALIBRATED.correct(morphology) == morphology
    dense = replace(morphology, nuclear_fraction=0.7)
    assert Calibration(area_factor=0.5, recall=0.5).correct(dense).nuclear_fraction == 1


def test_correcting_a_known_error_gives_the_truth_back():
    """Nuclei eroded by a pixel, every fourth missed: the calibrated priors are those of the whole
    ones again."""
    truth = make_tissue(256).labels
    everywhere = np.ones(truth.shape, bool)
    eroded = np.where(ndimage.binary_erosion(truth > 0) & (truth % 4 != 0), truth, 0).astype(
        np.int32
    )
    calibration = calibration_of(*compare_areas(truth, eroded))
    wrong, right = (measure_morphology(labels, everywhere, 0.5) for labels in (eroded, truth))
    found = calibration.correct(wrong)
    assert wrong.nuclear_fraction < 0.65 * right.nuclear_fraction
    assert found.nuclear_fraction == pytest.approx(right.nuclear_fraction, rel=0.05)
    assert found.density_per_mm2 == pytest.approx(right.density_per_mm2, rel=0.02)
    assert found.area_um2[2] == pytest.approx(right.area_um2[2], rel=0.05)
