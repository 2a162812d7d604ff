"""Where patches are cut from a reference: with nuclei, inside, apart from each other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histocli.reference.patches import corners_of_patches


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers())
def test_patches_hold_nuclei_and_do_not_overlap(height, width, side, most, seed):
    rng = np.random.default_rng(abs(seed))
    nuclei = rng.random((height, width)) < 0.02
    visits = np.zeros(nuclei.shape, int)
    corners = corners_of_patches(nuclei, side, most, rng)
    for top, left in corners:
        window = (slice(top, top + side), slice(left, left + side))
        assert nuclei[window].shape == (side, side)
        assert nuclei[window].any()
        visits[window] += 1
    assert visits.max() <= 1
    assert len(corners) <= most
    assert corners == sorted(corners)
