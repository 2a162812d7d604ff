"""A patch in the stains of another reference."""

import numpy as np

from histocli.optics.density import optical_density_to_rgb
from histocli.optics.stains import TYPICAL_STAINS, mix
from histocli.reference.restaining import restain_like

OWN = {
    "stain_matrix": TYPICAL_STAINS.tolist(),
    "hematoxylin": [0, 0, 0, 0.8],
    "eosin": [0, 0, 0, 0.5],
}


def tissue():
    amounts = np.random.default_rng(0).uniform(0.2, 0.6, (8, 8, 2))
    return amounts, optical_density_to_rgb(mix(amounts, TYPICAL_STAINS))


def test_twice_the_hematoxylin_of_a_reference_is_twice_that_of_the_patch():
    amounts, image = tissue()
    other = OWN | {"hematoxylin": [0, 0, 0, 1.6]}
    expected = optical_density_to_rgb(mix(amounts * [2, 1], TYPICAL_STAINS))
    assert np.abs(restain_like(image, OWN, other).astype(int) - expected).max() <= 3


def test_a_patch_stays_as_it_is_where_stains_are_not_recorded():
    _, image = tissue()
    assert restain_like(image, OWN, {}) is image
    assert restain_like(image, {}, OWN) is image
