"""Pictures are as viewers show them; what is not applied is said."""

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from histocli.slides.metadata import ORIENTATION, turned
from histocli.slides.open import read_image
from tests.slides.files import gradient

PIXELS = gradient(40, 60)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_a_photograph_is_upright(tmp_path, caplog, orientation, suffix):
    """Pillow is the other implementation."""
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exact = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(PIXELS).save(path, exif=exif, **exact)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_image(path).pixels
    assert found.shape == expected.shape
    # two JPEG decoders differ by a few levels
    assert np.abs(found.astype(int) - expected).max() <= (0 if suffix != "jpg" else 8)
    assert ("EXIF orientation" in caplog.text) == (orientation > 1)


def test_orientations_that_do_not_exist():
    for orientation in (0, 1, 9, 77):
        assert turned(PIXELS, orientation) is PIXELS


def test_a_colour_profile_that_is_not_srgb_is_said(tmp_path, caplog):
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(PIXELS).save(tmp_path / "usual.png", icc_profile=usual)
    np.testing.assert_array_equal(read_image(tmp_path / "usual.png").pixels, PIXELS)
    assert caplog.text == ""
    Image.fromarray(PIXELS).save(tmp_path / "other.png", icc_profile=other)
    np.testing.assert_array_equal(read_image(tmp_path / "other.png").pixels, PIXELS)
    assert "colour profile" in caplog.text
    assert "is not applied" in caplog.text
    caplog.clear()
    Image.fromarray(PIXELS).save(tmp_path / "broken.png", icc_profile=b"nothing")
    np.testing.assert_array_equal(read_image(tmp_path / "broken.png").pixels, PIXELS)
    assert "damaged" in caplog.text
