"""Patches that a tiny network learns in some dozens of steps: dark disks on bright ground."""

from dataclasses import replace

import numpy as np

from histocli.training.sampling import PatchSet
from tests.tissue import paint_ellipses


def easy_patches(n=6, side=64, seed=0):
    """Return images (n, side, side, 3) and labels; four disks of radius 8 each, apart from one
    another."""
    rng = np.random.default_rng(seed)
    labels = np.stack(
        [
            paint_ellipses(
                (side, side),
                [
                    (y * side + rng.uniform(-3, 3), x * side + rng.uniform(-3, 3))
                    for y in (0.25, 0.75)
                    for x in (0.25, 0.75)
                ],
                8,
                8,
                [0] * 4,
            )
            for _ in range(n)
        ]
    )
    images = np.where(labels[..., None] > 0, [110, 60, 140], [235, 190, 215]) + rng.normal(
        0, 4, (n, side, side, 3)
    )
    return np.clip(images, 0, 255).astype(np.uint8), labels


def patch_set(images, labels, weight=None, share=None):
    """Return what the training loop takes."""
    patches = PatchSet.labelled(images, labels)
    if weight is not None:
        patches = replace(patches, weight=np.asarray(weight, np.float32))
    return patches if share is None else replace(patches, share=np.asarray(share, float))
