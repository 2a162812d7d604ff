"""Arrays are read like files of the same pixels."""

import numpy as np
import pytest
import tifffile

from histocli.base.errors import UnknownPixelSize, UnsupportedSlide
from histocli.slides.array import ArraySlide
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "pixels",
    [
        RNG.integers(0, 256, (20, 31, 3), np.uint8),
        RNG.integers(0, 256, (20, 31), np.uint8),
        RNG.integers(0, 65536, (20, 31, 3), np.uint16),
        RNG.random((20, 31, 3), np.float32),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_an_array_is_read_like_a_file_of_it(tmp_path, pixels):
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=kind, metadata=None)
    file, array = open_slide(tmp_path / "a.tif", mpp=0.5), ArraySlide(pixels, 0.5)
    part = 0, slice(3, 17), slice(5, 30)
    assert np.array_equal(array.read(*part), file.read(*part))
    assert shape_of(array) == shape_of(file) == (20, 31)
    assert (array.mpp, array.mpp_source) == (file.mpp, file.mpp_source)
    file.close()


@pytest.mark.parametrize("mpp", [None, 0.0, float("nan"), 9.0])
def test_an_array_needs_a_pixel_size(mpp):
    with pytest.raises(UnknownPixelSize, match="mpp="):
        ArraySlide(np.zeros((8, 8, 3), np.uint8), mpp)


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 5), np.uint8), np.zeros(8, np.uint8), np.full((8, 8), 999.0)]
)
def test_what_is_no_image_is_refused_at_once(pixels):
    with pytest.raises(UnsupportedSlide, match="image array"):
        ArraySlide(pixels, 0.5)
