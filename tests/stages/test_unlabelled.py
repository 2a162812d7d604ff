"""Unlabelled patches as a teacher sees them: what becomes of its findings, and how two models are
compared."""

import numpy as np
import pytest
import torch
from histocli.stages.unlabelled import (
    Findings,
    compare,
    disagreements,
    find_nuclei,
    mixed,
    pseudo_labelled,
)

from histocli.base.progress import silent
from histocli.inference.predict import Predictor
from histocli.model.segmenter import build_segmenter
from histocli.training.self_training import Acceptance
from tests.training.easy import easy_patches, patch_set

MPP = 0.5


@pytest.fixture
def patches():
    return easy_patches(4)


def findings(labels, sure=0.97):
    return Findings(
        [each.astype(np.int32) for each in labels],
        [np.where(each > 0, sure, 0.02).astype(np.float32) for each in labels],
    )


def test_findings_become_patches_whose_borders_are_not_learnt(patches):
    images, labels = patches
    made, about = pseudo_labelled(images, findings(labels), MPP, Acceptance(share=1.0))
    assert about["objects"] == about["accepted"] == 16
    assert about["coverage"] == pytest.approx((labels > 0).mean(), abs=1e-3)
    assert (made.nucleus[made.valid] == (labels > 0)[made.valid]).all()
    assert 0.5 < made.valid.mean() < 1
    assert made.share.sum() == pytest.approx(1)
    assert not made.borders.any()


def test_mixed_sets_are_drawn_as_told_and_keep_what_is_known(patches):
    images, labels = patches
    made, _ = pseudo_labelled(images, findings(labels), MPP, Acceptance())
    both = mixed(patch_set(images[:3], labels[:3]), made, 0.25)
    assert len(both) == 7
    assert both.share[:3].sum() == pytest.approx(0.75)
    assert both.share[3:].sum() == pytest.approx(0.25)
    assert both.borders.tolist() == [True] * 3 + [False] * 4


def test_two_models_are_compared_patch_by_patch(patches):
    images, labels = patches
    other = labels.copy()
    other[2] = 0
    mean, each = compare(findings(labels), findings(other))
    assert each.tolist() == [1, 1, 0, 1]
    assert mean == 0.75
    shown, outlines = disagreements(images, findings(labels), findings(other), each, 1)
    assert all((image == images[2]).all() for image in shown)
    assert [outline.max() for outline in outlines] == [4, 0]
    assert findings(labels).count() == 16
    assert findings(other).median_area_px() == pytest.approx(
        np.median([(labels[0] == k).sum() for k in range(1, 5)]), abs=8
    )
    assert findings(np.zeros_like(labels)).median_area_px() == 0


def test_views_are_turned_back_before_they_are_averaged(patches, monkeypatch):
    """A network that answers with the brightness of each pixel answers the same in every view."""
    images, _ = patches
    torch.manual_seed(0)
    segmenter = build_segmenter({"family": "unet", "channels": [4, 4, 6, 6]})
    predictor = Predictor(segmenter, mpp=MPP, device=torch.device("cpu"), dtype=torch.float32)

    def brightness(tiles):
        grey = tiles.mean(axis=3) / 255
        return np.stack([grey, grey], axis=3).astype(np.float32)

    monkeypatch.setattr(predictor, "maps", brightness)
    found = find_nuclei(predictor, images, silent, "stopped")
    for image, probability in zip(images, found.probability, strict=True):
        np.testing.assert_allclose(probability, image.mean(axis=2) / 255, atol=1e-5)
