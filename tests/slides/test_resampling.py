"""Other pixel sizes: locked to the origin, without aliasing, and regions fit together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.base.pyramid import shrink
from histocli.slides.resampling import (
    ResampledSlide,
    apply_taps,
    resample,
    resample_labels,
    resampled_shape,
    shrunk,
    taps,
)
from histocli.slides.slide import Level

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (203, 150, 3), np.uint8)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.05, 5),
    st.floats(0.05, 5).filter(lambda mpp: mpp < 4),
)
@settings(max_examples=60)
def test_a_flat_image_stays_flat_and_any_size_works(shape, from_mpp, to_mpp):
    if from_mpp / to_mpp > 8:
        from_mpp = to_mpp * 8
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    out = resample(image, from_mpp, to_mpp)
    assert out.shape == (*resampled_shape(shape, from_mpp, to_mpp), 3)
    assert (out == (200, 100, 50)).all()
    back = resample_labels(np.ones(out.shape[:2], np.uint32), to_mpp, from_mpp, shape)
    assert back.shape == shape
    assert (back == 1).all()


@pytest.mark.parametrize(
    ("from_mpp", "to_mpp"), [(0.25, 0.5), (0.23, 0.25), (0.499, 0.25), (0.2527, 0.5), (0.5, 0.37)]
)
@pytest.mark.parametrize("size", [301, 400])
def test_grid_is_locked_to_the_origin_whatever_the_size(from_mpp, to_mpp, size):
    """A spot keeps its distance in micrometres from the outer corner of pixel (0, 0), at the
    far end too."""
    for place in (20, size - 20):
        spot = 250 * np.exp(-(((np.arange(size) - place) / 4.0) ** 2) / 2)
        image = np.rint(np.tile(spot[None, :, None], (9, 1, 3))).astype(np.uint8)
        line = resample(image, from_mpp, to_mpp)[2, :, 0].astype(float)
        centre_um = (line * (np.arange(line.size) + 0.5)).sum() / line.sum() * to_mpp
        assert centre_um == pytest.approx((place + 0.5) * from_mpp, abs=0.03 * from_mpp)


def test_a_larger_image_begins_with_the_pixels_of_a_smaller_one():
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    whole, part = resample(image, 0.3, 0.5), resample(image[:100, :120], 0.3, 0.5)
    np.testing.assert_array_equal(whole[:58, :70], part[:58, :70])


def test_shrinking_does_not_alias():
    """A one-pixel checkerboard becomes grey; picking pixels would keep it black and white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    out = resample(np.repeat(board[..., None], 3, axis=2), 0.25, 1.0)
    assert np.abs(out.astype(int) - 127).max() <= 1


def test_same_size_is_the_same_array():
    image = np.zeros((4, 4, 3), np.uint8)
    assert resample(image, 0.25, 0.25) is image


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
def test_labels_come_back_from_a_finer_grid(height, width, factor):
    labels = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    fine = resample_labels(labels, 1.0, 1.0 / factor)
    np.testing.assert_array_equal(fine, labels.repeat(factor, axis=0).repeat(factor, axis=1))
    np.testing.assert_array_equal(resample_labels(fine, 1.0 / factor, 1.0), labels)


def test_a_label_pixel_is_the_one_that_holds_the_centre():
    labels = np.array([[1, 2, 3]], np.uint16)
    out = resample_labels(labels, 0.5, 0.4, (1, 5))  # centres at 0.2, 0.6, 1.0, 1.4, 1.8 um
    np.testing.assert_array_equal(out, [[1, 2, 3, 3, 3]])
    assert out.dtype == np.uint16


@settings(max_examples=60)
@given(
    st.sampled_from([0.23, 0.25, 0.499, 0.5, 0.7, 1.3]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(0, 80),
    st.integers(0, 60),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_resampled_regions_fit_together_bit_by_bit(mpp, to_mpp, top, left, height, width):
    view = ResampledSlide(InMemory(PIXELS, mpp), to_mpp)
    full = view.read(*(slice(0, side) for side in view.shape))
    top, left = (min(place, side - 1) for place, side in zip((top, left), view.shape, strict=True))
    rows, columns = (
        slice(start, min(start + length, side))
        for start, length, side in zip((top, left), (height, width), view.shape, strict=True)
    )
    np.testing.assert_array_equal(view.read(rows, columns), full[rows, columns])
    oracle = resample(PIXELS, mpp, to_mpp).astype(int)
    if view.shape == PIXELS.shape[:2]:
        return  # OpenCV copies where the size stays, though the pixel size does not
    # OpenCV rounds its weights
    assert np.abs(full.astype(int) - oracle)[:-4, :-4].max(initial=0) <= 1


class InMemory:
    """A slide of one level."""

    def __init__(self, pixels: np.ndarray, mpp: float, levels=()) -> None:
        self._images = [pixels, *levels]
        self.mpp, self.mpp_source, self.backend = mpp, "given", "memory"
        self.levels = tuple(
            Level(image.shape[:2], round(len(pixels) / len(image))) for image in self._images
        )

    def read(self, level, rows, columns):
        return self._images[level][rows, columns]

    def close(self):
        pass


def test_the_coarsest_level_that_is_fine_enough_is_taken():
    levels = [shrink(PIXELS, 2), shrink(PIXELS, 8)]
    slide = InMemory(PIXELS, 0.25, levels)
    assert [
        ResampledSlide(slide, mpp).level for mpp in (0.2, 0.25, 0.49, 0.5, 1.0, 1.99, 2.0, 4.0)
    ] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_weights_sum_to_one_and_shrinking_keeps_the_mean():
    for ratio in (0.3, 0.501, 1.37, 3.2):
        weights, _ = taps(slice(0, 20), ratio, 200)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    image = RNG.integers(0, 256, (120, 120, 3), np.uint8)
    down, _ = taps(slice(0, 40), 3.0, 120)
    np.testing.assert_allclose(apply_taps(image, down, down).mean(), image.mean(), atol=0.2)


@pytest.mark.parametrize("factor", [1, 2, 8, 32])
def test_an_overview_made_in_strips_is_that_of_the_whole(monkeypatch, factor):
    monkeypatch.setattr("histocli.slides.resampling.STRIP_PX", 4000)
    np.testing.assert_array_equal(shrunk(InMemory(PIXELS, 0.25), factor), shrink(PIXELS, factor))
