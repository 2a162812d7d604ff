"""Coarser levels: pictures are averaged, labels take the nearest pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.pyramid import nearest_level, shrink


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]))
def test_shrinking_averages_blocks(height, width, factor):
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    small = shrink(image, factor)
    assert small.shape == (-(-height // factor), -(-width // factor), 3)
    for y, x in ((0, 0), (small.shape[0] - 1, small.shape[1] - 1)):
        rows = np.minimum(np.arange(y * factor, (y + 1) * factor), height - 1)
        columns = np.minimum(np.arange(x * factor, (x + 1) * factor), width - 1)
        np.testing.assert_allclose(small[y, x], image[rows][:, columns].mean(axis=(0, 1)), atol=1)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8, 16, 64]))
def test_nearest_pixel_of_each_block(height, width, factor):
    labels = np.arange(height * width).reshape(height, width)
    coarse = nearest_level(labels, factor)
    rows, columns = (
        np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in (height, width)
    )
    np.testing.assert_array_equal(coarse, labels[rows][:, columns])
