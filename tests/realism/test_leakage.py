"""Edits along labels are told; edits that know nothing of them are not."""

import numpy as np
import pytest

from histocli.realism.leakage import residual_auc

RNG = np.random.default_rng(0)


def patches(n=12, side=48):
    """Noise, and labels of two squares at random places."""
    images = [RNG.integers(100, 220, (side, side, 3), np.uint8) for _ in range(n)]
    labels = []
    for _ in range(n):
        label = np.zeros((side, side), np.int32)
        for number in (1, 2):
            y, x = RNG.integers(0, side - 14, 2)
            label[y : y + 14, x : x + 14] = number
        labels.append(label)
    return images, labels, np.arange(n) % 4


def darker(image, amount):
    return np.clip(image * (1 - amount[..., None]), 0, 255).astype(np.uint8)


def test_edits_in_the_shape_of_labels_leak():
    images, labels, groups = patches()
    inside = [darker(image, 0.1 * (label > 0)) for image, label in zip(images, labels, strict=True)]
    assert residual_auc(images, inside, labels, groups) > 0.95
    anywhere = [darker(image, 0.1 * RNG.random(image.shape[:2])) for image in images]
    assert residual_auc(images, anywhere, labels, groups) == pytest.approx(0.5, abs=0.05)
    assert residual_auc(images, images, labels, groups) == 0.5


def test_what_cannot_be_judged():
    images, labels, groups = patches(4)
    assert np.isnan(residual_auc(images, images, labels, groups * 0))
    nothing = [label * 0 for label in labels]
    assert np.isnan(residual_auc(images, images, nothing, groups))
