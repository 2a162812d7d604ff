"""Batches hold what patches hold, as often as asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.base.rng import rng_for
from histocli.training.augmentation import Augmentation
from histocli.training.sampling import draw_crops, whole_patches
from tests.training.easy import easy_patches, patch_set

CPU = torch.device("cpu")
STILL = Augmentation(
    scale=(1.0, 1.0), stain_gain=0, stain_mixing=0, underexposure=0, blur_px=0.3, noise=0
)


def draw(patches, size=8, crop_px=32, augmentation=STILL, seed=0):
    return draw_crops(patches, size, crop_px, augmentation, rng_for(seed, "batch"), CPU)


def test_a_batch_has_the_shapes_and_ranges_it_promises():
    batch = draw(patch_set(*easy_patches()), augmentation=Augmentation())
    assert batch.pixels.shape == (8, 3, 32, 32)
    for plane in (batch.nucleus, batch.distance, batch.valid):
        assert plane.shape == (8, 32, 32)
        assert plane.dtype == torch.float32
    assert batch.weight.shape == (8,)
    assert 0 <= batch.pixels.min() <= batch.pixels.max() <= 1
    assert set(batch.nucleus.unique().tolist()) == {0.0, 1.0}
    assert 0 <= batch.distance.min() <= batch.distance.max() <= 1
    assert (batch.distance[batch.nucleus == 0] == 0).all()
    assert (batch.valid == 1).all()


def test_targets_lie_over_the_pixels():
    batch = draw(patch_set(*easy_patches()), size=16)
    green = batch.pixels[:, 1]
    assert green[batch.nucleus > 0].mean() < green[batch.nucleus == 0].mean() - 0.3
    deep, shallow = green[batch.distance > 0.7], green[batch.nucleus == 0]
    assert deep.max() < shallow.median()


def test_ignored_pixels_and_what_they_blend_into_are_not_valid():
    images, labels = easy_patches()
    labels = np.where(np.arange(64)[None, :, None] % 16 < 4, -1, labels)
    patches = patch_set(images, labels)
    # black where ignored
    marked = np.where(labels[..., None] < 0, 0, 255).astype(np.uint8) * np.ones(3, np.uint8)
    batch = draw(patch_set(marked, labels), size=16)
    assert 0.3 < batch.valid.mean() < 0.85
    assert batch.pixels.mean(dim=1)[batch.valid > 0].min() > 0.75
    assert draw(patches).valid.mean() < 1


def test_patches_are_drawn_by_their_share():
    images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (30, 110, 220)])
    patches = patch_set(
        images, np.zeros((3, 32, 32), np.int32), weight=[1, 2, 3], share=[0.5, 0.5, 0]
    )
    batch = draw(patches, size=200)
    counts = torch.bincount(batch.weight.long(), minlength=4)
    assert counts[3] == 0
    assert abs(int(counts[1]) - 100) < 35
    # the weight belongs to the patch that was drawn
    assert batch.pixels[batch.weight == 1].mean() < batch.pixels[batch.weight == 2].mean() - 0.2


@pytest.mark.parametrize("side", [32, 48, 200])
def test_patches_may_be_smaller_or_much_larger_than_crops(side):
    images, labels = easy_patches(2, side)
    batch = draw(patch_set(images, labels), crop_px=64, augmentation=Augmentation())
    assert batch.pixels.shape == (8, 3, 64, 64)
    assert torch.isfinite(batch.pixels).all()


def test_the_generator_decides_all():
    patches = patch_set(*easy_patches())
    first, again, other = (
        draw(patches, seed=seed, augmentation=Augmentation()) for seed in (1, 1, 2)
    )
    for name in ("pixels", "nucleus", "distance", "valid", "weight"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.pixels, other.pixels)


def test_whole_patches_have_the_targets_of_their_labels():
    images, labels = easy_patches(2)
    labels[1, :4] = -1
    batch = whole_patches(images, labels, CPU)
    np.testing.assert_allclose(batch.pixels.permute(0, 2, 3, 1) * 255, images, atol=1e-3)
    assert torch.equal(batch.nucleus > 0, torch.from_numpy(labels > 0))
    assert torch.equal(batch.valid > 0, torch.from_numpy(labels >= 0))
    assert ((batch.distance > 0) == (batch.nucleus > 0)).all()


def test_mixed_sets_are_drawn_as_told_and_keep_what_is_known():
    images, labels = easy_patches(4)
    pseudo = replace(patch_set(images, labels), borders=np.zeros(4, bool))
    both = patch_set(images[:3], labels[:3]).mixed_with(pseudo, 0.25)
    assert len(both) == 7
    assert both.share[:3].sum() == pytest.approx(0.75)
    assert both.share[3:].sum() == pytest.approx(0.25)
    assert both.borders.tolist() == [True] * 3 + [False] * 4
    known = replace(patch_set(images, labels), contact=labels == 1)
    assert (known.mixed_with(pseudo, 0.5).contact.sum(axis=(1, 2))[4:] == 0).all()
    part = both.part(slice(1, 3))
    assert part.share.tolist() == [0.5, 0.5]
