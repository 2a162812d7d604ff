"""The whole judgement on noise of known colour: what is the same is not told apart, what differs
is, and copies are found."""

import numpy as np
import pytest
import torch

from histocli.realism.judgement import Patches, judge_patches
from histocli.realism.morphology import Histograms
from histocli.stages.shared.networks import public_trunk
from histocli.training.two_sample import TwoSampleSchedule

QUICK = TwoSampleSchedule(folds=2, steps=15, batch=8, crop_px=24)
CPU = {"device": torch.device("cpu"), "dtype": torch.float32, "schedule": QUICK}
IMAGES = 5


def patches(n, seed, shift=0.0, side=24):
    """Noise whose colour differs a little between images."""
    rng = np.random.default_rng(seed)
    image = np.arange(n) % IMAGES
    base = np.array([180, 120, 170]) + np.array([0, 6, -5, 9, -8])[image, None] + shift
    noise = rng.normal(0, rng.uniform(8, 12, (n, 1, 1, 1)), (n, side, side, 3))
    return Patches(np.clip(base[:, None, None] + noise, 0, 255).astype(np.uint8), image)


def test_the_same_and_another_kind():
    real = patches(60, 1)
    same, other = (
        judge_patches(real, patches(60, seed, shift), **CPU)
        for seed, shift in ((2, 0.0), (3, -30.0))
    )
    for key in ("kid_named", "stain", "own_reference"):
        assert other[key].value > 3 * abs(same[key].value), key
        low, high = same[key].ci95
        assert low <= same[key].value <= high
    low, high = same["kid_named"].ci95
    assert low < 0 < high
    assert other["stain"].ci95[0] > same["stain"].ci95[1]
    assert all(
        each[key].ci95[0] >= 0 for each in (same, other) for key in ("stain", "spectrum", "copies")
    )
    assert same["own_reference"].value < same["other_references"].value
    assert all(measure.meaning for measure in same.measures)
    assert same["copies"].value < 0.2
    assert (same.real, same.synthetic, same.images) == (60, 60, IMAGES)
    assert same.to_json()["measures"]["auc"]["ci95"]
    assert other.features["mean of red"] > 5 * same.features["mean of red"]


def test_copies_are_found():
    """Patches taken from the references with the last bit of noise changed."""
    real = patches(60, 1)
    noise = np.random.default_rng(0).integers(0, 2, real.images.shape).astype(np.uint8)
    found = judge_patches(real, Patches(real.images ^ noise, real.references), **CPU)
    assert found["memorisation"].value > 0.95
    assert found["copies"].value > 0.9


def test_the_trunk_sees_texture_that_colour_hides():
    """Noise of equal mean and spread, once coarse: only the trunk's features tell it apart; of two
    draws of one kind they tell nothing."""
    trunk = public_trunk()
    real, alike = patches(60, 1, side=32), patches(60, 2, side=32)
    coarse = patches(60, 3, side=16)
    coarse = Patches(coarse.images.repeat(2, axis=1).repeat(2, axis=2), coarse.references)
    same, other = (judge_patches(real, each, trunk=trunk, **CPU) for each in (alike, coarse))
    assert other["auc_trunk"].value > 0.99
    assert 0.35 < same["auc_trunk"].value < 0.65
    assert other["kid_trunk"].value > 10 * abs(same["kid_trunk"].value)
    assert other["stain"].value < 2 * same["stain"].value + 0.1


def test_morphology_by_histogram():
    """All nuclei one bin too large: the distance is one bin; references count as often as they were
    followed."""
    real = patches(20, 1)
    measured = np.zeros((IMAGES, 4))
    measured[:, 1] = 10
    drawn = np.zeros((20, 4))
    drawn[:, 2] = 3
    found = judge_patches(
        real, patches(20, 2), morphology={"area": Histograms(measured, drawn, 0.5)}, **CPU
    )
    assert found["morphology_area"].value == pytest.approx(0.5)
    assert found["morphology_area"].ci95 == pytest.approx((0.5, 0.5))


def test_one_image_cannot_be_judged():
    real = Patches(patches(8, 1).images, np.zeros(8, np.int64))
    with pytest.raises(ValueError, match="at least two images"):
        judge_patches(real, real, **CPU)
