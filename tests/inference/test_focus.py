"""Defocus is told from detail: of real tissue, and of tissue drawn in code."""

import itertools

import cv2
import numpy as np
import pytest
from skimage import data

from histocli.inference.focus import SHARP_FROM, TILE_PX, blurred_share, tile_sharpness
from tests.tissue import make_tissue

TISSUE = np.asarray(data.immunohistochemistry())


def blurred(image, sigma):
    return cv2.GaussianBlur(image, (0, 0), sigma)


@pytest.mark.parametrize("image", [TISSUE, make_tissue(512, 0.25).image], ids=["real", "drawn"])
def test_sharp_tissue_is_in_focus_and_blurred_tissue_is_not(image):
    assert blurred_share([image]) < 0.3
    for sigma in (3, 5, 8):
        assert blurred_share([blurred(image, sigma)]) == 1.0


def test_the_more_blur_the_less_fine_detail():
    found = [tile_sharpness(blurred(TISSUE, sigma)) for sigma in (0.5, 1, 2, 3, 5)]
    assert all(a > b for a, b in itertools.pairwise(found))


def test_the_share_counts_tiles_of_all_images():
    half = TISSUE.copy()
    half[:, TILE_PX:] = blurred(TISSUE, 4)[:, TILE_PX:]
    assert blurred_share([half]) == pytest.approx(0.5)
    assert blurred_share([TISSUE, blurred(TISSUE, 4)]) == pytest.approx(0.5)


def test_glass_can_not_tell():
    glass = np.full((600, 600, 3), 240, np.uint8)
    assert blurred_share([glass]) is None
    assert blurred_share([]) is None
    assert blurred_share([glass, TISSUE]) == blurred_share([TISSUE])


def test_a_small_image_is_one_tile():
    assert tile_sharpness(TISSUE[:40, :50]) > SHARP_FROM
    assert blurred_share([TISSUE[:40, :50]]) == 0.0
