"""What the tests of this room share."""

import numpy as np
import pytest

from tests.slides.files import gradient


@pytest.fixture
def pixels() -> np.ndarray:
    """A colourful gradient of 20 by 30 pixels."""
    return gradient()
