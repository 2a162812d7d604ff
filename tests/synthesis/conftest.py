"""References made in code.

``reference``: 192 x 192 at 0.5 um per pixel, pink with dark ellipses. ``empty_reference``: the same
without nuclei. ``glass``: white.
"""

import numpy as np
import pytest

from histocli.base.rng import rng_for
from histocli.reference.statistics import analyse_reference
from tests.tissue import make_tissue


@pytest.fixture(scope="session")
def reference():
    return analyse_reference(make_tissue().image, 0.5, "tissue.png", rng_for(0, "analyse"))


@pytest.fixture(scope="session")
def empty_reference():
    return analyse_reference(
        make_tissue(nuclei=False).image, 0.5, "stroma.png", rng_for(0, "analyse")
    )


@pytest.fixture(scope="session")
def glass():
    return analyse_reference(
        np.full((96, 96, 3), 255, np.uint8), 0.5, "glass.png", rng_for(0, "analyse")
    )
