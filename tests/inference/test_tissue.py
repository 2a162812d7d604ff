"""Tissue is found on pale sections and beside ink, and glass is left out."""

import cv2
import numpy as np
import pytest
import skimage.data

from histocli.inference.tissue import tissue_mask
from histocli.optics.density import white_level

MPP = 4.0
INKS = {
    "green": (20, 120, 60),
    "blue": (30, 40, 140),
    "black": (15, 15, 18),
    "red": (200, 30, 40),
    "cyan": (20, 150, 190),
}


def section(
    strength: float = 1.0, glass: int = 242, noise: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """A disc of pink with purple spots on glass, and where it is."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:400, :500]
    tissue = (y - 180) ** 2 + (x - 200) ** 2 < 120**2
    density = np.where(tissue[..., None], [0.10, 0.35, 0.15], 0.0)
    spots = tissue & (rng.random(tissue.shape) < 0.1)
    density = np.where(spots[..., None], [0.8, 1.0, 0.4], density) * strength
    image = glass * np.exp(-density) + rng.normal(0, noise, density.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), tissue


def find(image):
    return tissue_mask(image, MPP, white_level(image))


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("glass", [200, 242, 254])
def test_a_section_is_found_however_pale_and_glass_is_left_out(strength, glass):
    image, tissue = section(strength, glass)
    found = find(image)
    assert found[tissue].mean() > 0.99
    far = cv2.dilate(tissue.astype(np.uint8), np.ones((41, 41), np.uint8)) == 0
    assert found[far].mean() < 0.01


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_ink_is_no_tissue_and_does_not_hide_a_pale_section(ink, strength):
    image, tissue = section(strength)
    stroke = np.zeros(tissue.shape, np.uint8)
    cv2.line(stroke, (380, 60), (450, 360), 1, 25)
    image[stroke > 0] = INKS[ink]
    found = find(image)
    assert found[tissue].mean() > 0.99
    assert found[stroke > 0].mean() < 0.05


def test_fields_of_view_without_glass_are_tissue_everywhere():
    image = skimage.data.immunohistochemistry()
    for mpp in (0.25, 0.5):
        assert tissue_mask(image, mpp, white_level(image)).all()


def test_glass_alone_is_empty():
    image = np.clip(np.random.default_rng(0).normal(243, 2, (300, 300, 3)), 0, 255).astype(np.uint8)
    assert find(image).mean() < 0.01
    assert find(np.full((1, 1, 3), 255, np.uint8)).sum() == 0


def test_lumina_belong_to_the_tissue_around_them():
    image, tissue = section()
    image[160:190, 180:215] = 242
    assert find(image)[tissue].all()


def test_the_mask_has_the_overview_s_shape_at_any_pixel_size():
    image, _ = section()
    for mpp in (0.25, 0.7, 3.0, 4.0, 8.0, 30.0):
        assert tissue_mask(image, mpp, 243.0).shape == image.shape[:2]
