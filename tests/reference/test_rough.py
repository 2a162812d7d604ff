"""Rough nuclei: about right on tissue, none where there are none."""

import cv2
import numpy as np
import pytest
from skimage import data

from histocli.optics.density import rgb_to_optical_density, white_level
from histocli.reference.rough import blur_um, find_rough_nuclei, split_touching, stained_tissue
from tests.tissue import make_tissue, paint_ellipses


def rough_of(image, mpp=0.5):
    return find_rough_nuclei(rgb_to_optical_density(image, white_level(image)), mpp)


@pytest.mark.parametrize(("mpp", "side"), [(0.25, 256), (0.5, 192), (1.0, 128)])
def test_nuclei_of_known_place_are_found(mpp, side):
    tissue = make_tissue(side, mpp)
    found = rough_of(tissue.image, mpp).labels
    truth, mask = tissue.labels > 0, found > 0
    assert 2 * (truth & mask).sum() / (truth.sum() + mask.sum()) > 0.85
    assert found.max() == pytest.approx(tissue.labels.max(), rel=0.15)


def test_real_tissue_has_a_sensible_number():
    """The image of scikit-image shows a colon, 512 x 512; by eye some 300 nuclei at roughly 0.5 um
    per pixel."""
    image = data.immunohistochemistry()
    found = rough_of(image)
    assert 120 < found.labels.max() < 700
    share = (found.labels > 0).mean()
    assert 0.05 < share < 0.4
    assert found.contrast > 0.1
    red = rgb_to_optical_density(image)[..., 0]
    assert red[found.labels > 0].mean() > red[found.labels == 0].mean() + 0.15
    assert not (found.suspicious & (found.labels > 0)).any()


@pytest.mark.parametrize(
    "colour",
    [(255, 255, 255), (0, 0, 0), (128, 128, 128), (236, 180, 210)],
    ids=["white", "black", "grey", "pink"],
)
@pytest.mark.parametrize("side", [1, 7, 96])
def test_an_even_image_has_no_nuclei(colour, side):
    found = rough_of(np.full((side, side, 3), colour, np.uint8))
    assert found.labels.shape == (side, side)
    assert found.labels.max() == 0
    assert not found.suspicious.any()


def test_clumps_of_red_cells_are_background_and_purple_nuclei_stay():
    """Discs as dark in red light as nuclei, but several times darker in green and blue light."""
    tissue = make_tissue(256, 0.25)
    before = rough_of(tissue.image, 0.25)
    density = rgb_to_optical_density(tissue.image, white_level(tissue.image))
    centres = [(40, 200), (200, 60), (128, 128)]
    clumps = paint_ellipses((256, 256), centres, 10, 10, [0, 0, 0]) > 0
    density[clumps] = density[clumps].mean(axis=0) + np.float32([0.45, 3.6, 3.2])
    after = find_rough_nuclei(density, 0.25)
    assert (after.labels[clumps] > 0).mean() < 0.02
    assert after.suspicious[clumps].mean() < 0.05  # of blurred rims
    kept = (before.labels > 0) & ~cv2.dilate(clumps.astype(np.uint8), np.ones((25, 25))).astype(
        bool
    )
    assert (after.labels[kept] > 0).mean() > 0.9
    # a staining in which all nuclei are purple: none of them is redder than the others
    purple = rgb_to_optical_density(tissue.image, white_level(tissue.image))
    purple[..., 1] = 3 * purple[..., 0]
    assert find_rough_nuclei(purple, 0.25).labels.max() == before.labels.max()


def test_tissue_without_nuclei_has_none():
    assert rough_of(make_tissue(nuclei=False).image).labels.max() == 0


def test_glass_is_no_tissue_and_has_no_nuclei():
    tissue = make_tissue(glass=True)
    found = rough_of(tissue.image)
    glass = np.zeros_like(found.tissue)
    glass[:, :56] = True  # the border between glass and tissue at 64 is soft
    assert not found.tissue[glass].any()
    assert found.tissue[:, 72:].all()
    assert found.labels[glass].max() == 0
    assert found.labels.max() == len(np.unique(tissue.labels)) - 1


def test_the_tissue_mask_is_that_of_absorbance():
    density = np.zeros((40, 80, 3), np.float32)
    density[:, 40:] = 0.4
    mask = stained_tissue(density, 0.5)
    assert not mask[:, :25].any()
    assert mask[:, 50:].all()


def test_touching_nuclei_are_parted():
    labels = paint_ellipses((90, 130), [(45, 40), (45, 84)], 23, 20, [0, 0])
    found = split_touching(labels > 0, 0.25)
    assert found.max() == 2
    np.testing.assert_array_equal(found > 0, labels > 0)


def test_blur_at_reduced_resolution_is_blur():
    image = np.random.default_rng(0).random((200, 220)).astype(np.float32)
    coarse = blur_um(image, 6.0, 0.5)  # 12 pixels: computed at a third of the resolution
    # 12 pixels as well
    fine = blur_um(np.pad(image, 40, mode="symmetric"), 3.9, 0.325)[40:-40, 40:-40]
    assert coarse.shape == image.shape
    assert abs(float(coarse.mean()) - float(image.mean())) < 0.01
    assert np.abs(coarse - fine).max() < 0.02
    assert coarse.std() < 0.1 * image.std()
