"""Distances between image sets: zero for one kind, growing with what is known to differ."""

import numpy as np
import pytest

from histocli.realism.distances import (
    Kernels,
    distance_to_references,
    patch_spectra,
    standardise_by,
)
from histocli.realism.features import NAMES, random_convolutions, stain_and_texture


def patches(n=40, level=(180, 120, 170), noise=10.0, seed=0, side=32):
    rng = np.random.default_rng(seed)
    return np.clip(np.array(level) + rng.normal(0, noise, (n, side, side, 3)), 0, 255).astype(
        np.uint8
    )


def test_two_samples_of_one_kind_are_at_no_distance_and_others_are():
    for features in (stain_and_texture, random_convolutions):
        real = features(patches(200, seed=1))
        near, far = (
            Kernels(*standardise_by(real, features(other))).distance(
                np.ones(200, bool), np.ones(200, bool)
            )
            for other in (patches(200, seed=2), patches(200, level=(150, 120, 170), seed=3))
        )
        assert abs(near) < 0.1
        assert far > 20 * abs(near)


def test_features_have_their_names_and_are_the_same_every_time():
    images = patches(5)
    assert stain_and_texture(images).shape == (5, len(NAMES))
    assert random_convolutions(images).shape == (5, 96)
    assert np.array_equal(random_convolutions(images), random_convolutions(images, batch=2))
    assert not np.array_equal(random_convolutions(images), random_convolutions(images, seed=1))
    assert stain_and_texture(images[:0]).shape == (0, len(NAMES))


def test_named_features_measure_what_they_say():
    even = np.full((1, 16, 16, 3), (100, 150, 200), np.uint8)
    row = dict(zip(NAMES, stain_and_texture(even)[0], strict=True))
    assert row["mean of red"] == pytest.approx(np.log(256 / 101), abs=1e-5)
    assert row["spread of red"] == pytest.approx(0, abs=1e-3)
    assert row["detail below 1 px"] == pytest.approx(0, abs=1e-6)


def test_noise_has_the_same_power_at_all_frequencies_and_doubling_it_adds_log_four():
    flat, loud = (patch_spectra(patches(noise=noise, side=64)).mean(axis=0) for noise in (8, 16))
    assert np.ptp(flat[2:]) < 0.3
    assert np.mean(loud - flat) == pytest.approx(np.log(4), abs=0.1)


def test_patches_are_nearer_to_the_reference_they_follow():
    levels = [(180, 120, 170), (220, 150, 200), (140, 100, 190)]
    real = np.concatenate(
        [stain_and_texture(patches(10, level, seed=k)) for k, level in enumerate(levels)]
    )
    image_of = np.repeat(np.arange(3), 10)
    synthetic = np.concatenate(
        [stain_and_texture(patches(4, level, seed=9 + k)) for k, level in enumerate(levels)]
    )
    own, others = distance_to_references(real, image_of, synthetic, np.repeat(np.arange(3), 4))
    assert (own < others).all()
    wrong, _ = distance_to_references(real, image_of, synthetic, np.repeat([1, 2, 0], 4))
    assert (wrong > own).all()


def test_leaving_patches_out_of_the_kernels_is_computing_them_without():
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(30, 4)), rng.normal(0.3, 1, (25, 4))
    kept = rng.random(30) < 0.7, rng.random(25) < 0.7
    whole = Kernels(real, synthetic).distance(*kept)
    parts = real[kept[0]], synthetic[kept[1]]
    everything = [np.ones(len(part), bool) for part in parts]
    assert whole == pytest.approx(Kernels(*parts).distance(*everything))
    slow = [
        np.mean(
            [(a @ b / 4 + 1) ** 3 for i, a in enumerate(one) for j, b in enumerate(two) if i != j]
        )
        for one, two in ((parts[0], parts[0]), (parts[1], parts[1]))
    ]
    cross = np.mean([(a @ b / 4 + 1) ** 3 for a in parts[0] for b in parts[1]])
    assert whole == pytest.approx(sum(slow) - 2 * cross)
