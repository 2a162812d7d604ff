"""Stores of other hands: several images in one, a level named by itself, zip files, and images of
fluorescence microscopes, which are refused by name."""

import shutil
import zipfile

import numpy as np
import pytest
import zarr

from histocli.base.errors import UnsupportedSlide
from histocli.slides.open import open_slide, read_image
from histocli.slides.slide import slide_stem
from tests.slides.files import gradient, write_ome_zarr

PIXELS = gradient(40, 60)


def images(path, *names, version="0.4", **attributes):
    """A group with an image at each of these places."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    group.attrs.update({"ome": attributes} if version == "0.5" else attributes)
    for name in names:
        above = path / name
        zarr.open_group(path, mode="a").require_group(name)
        shutil.rmtree(above)
        write_ome_zarr(above, PIXELS, version=version, mpp=0.4)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_of_a_plate_is_named_by_its_path(tmp_path, version):
    path = images(tmp_path / "plate.zarr", "A/1/0", "A/1/1", version=version, plate={})
    with pytest.raises(UnsupportedSlide, match=r"holds images \(A/1/0, A/1/1\).*plate\.zarr/A/1/0"):
        open_slide(path)
    with pytest.raises(UnsupportedSlide, match=r"holds images \(0, 1\)"):
        open_slide(path / "A" / "1")
    slide = open_slide(path / "A" / "1" / "1")
    assert slide.mpp == 0.4
    np.testing.assert_array_equal(slide.whole(), PIXELS)
    assert slide_stem(path / "A" / "1" / "1") == "plate_A_1_1"
    assert slide_stem("x.ome.zarr/labels/nuclei") == "nuclei"


def test_the_first_of_several_series_is_read_and_the_others_are_told(tmp_path, caplog):
    path = images(tmp_path / "scan.zarr", "0", "1", **{"bioformats2raw.layout": 3})
    np.testing.assert_array_equal(read_image(path).pixels, PIXELS)
    assert "holds 2 images; the first is read; name another one as" in caplog.text
    caplog.clear()
    path = images(tmp_path / "one.zarr", "0", **{"bioformats2raw.layout": 3})
    assert read_image(path).mpp == 0.4
    assert caplog.text == ""


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_knows_its_pixel_size(tmp_path, version):
    write_ome_zarr(tmp_path / "x.zarr", PIXELS, version=version, mpp=0.3)
    for level, step in enumerate((1, 2)):
        image = read_image(tmp_path / "x.zarr" / str(level))
        assert image.mpp == pytest.approx(0.3 * step)
        np.testing.assert_array_equal(image.pixels, PIXELS[::step, ::step])


@pytest.mark.parametrize("inside", ["", "x.zarr/"])
def test_a_zip_file_is_read_as_the_store_in_it(tmp_path, inside):
    write_ome_zarr(tmp_path / "x.zarr", PIXELS, version="0.5", mpp=0.3)
    path = tmp_path / "packed.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((tmp_path / "x.zarr").rglob("*")):
            if file.is_file():
                archive.write(file, inside + file.relative_to(tmp_path / "x.zarr").as_posix())
    before = path.read_bytes()
    image = read_image(path)
    assert image.mpp == 0.3
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert path.read_bytes() == before
    assert slide_stem(path) == "packed"


def test_zip_files_that_hold_no_store(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("a.txt", "nothing")
    with pytest.raises(UnsupportedSlide, match="without Zarr metadata"):
        open_slide(tmp_path / "text.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "text.zip").read_bytes()[:40])
    with pytest.raises(UnsupportedSlide, match=r"cut\.zip"):
        read_image(tmp_path / "cut.zip")


@pytest.mark.parametrize(
    ("planes", "labels", "refused"),
    [
        (2, None, "2 channels"),
        (4, None, "4 channels, as images of fluorescence"),
        (4, ["DAPI", "FITC", "Cy3", "Cy5"], r"4 channels \(DAPI, FITC, Cy3, Cy5\)"),
        (3, ["DAPI", "CD3", "CD8"], r"3 channels \(DAPI, CD3, CD8\)"),
        (3, ["Red", "Green", "Blue"], None),
        (3, None, None),
        (1, None, None),
    ],
)
def test_channels_of_fluorescence_are_refused_by_name(tmp_path, planes, labels, refused):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, planes), np.uint8)
    write_ome_zarr(tmp_path / "x.zarr", noise, version="0.4", mpp=0.3)
    if labels:
        group = zarr.open_group(tmp_path / "x.zarr", mode="a")
        group.attrs["omero"] = {"channels": [{"label": label} for label in labels]}
    if refused is None:
        assert open_slide(tmp_path / "x.zarr").levels[0].shape == (40, 60)
        return
    with pytest.raises(UnsupportedSlide, match=refused):
        open_slide(tmp_path / "x.zarr")


def test_opacity_is_still_opacity(tmp_path):
    opaque = np.concatenate([PIXELS, np.full((40, 60, 1), 255, np.uint8)], axis=2)
    write_ome_zarr(tmp_path / "x.zarr", opaque, version="0.4", mpp=0.3)
    np.testing.assert_array_equal(read_image(tmp_path / "x.zarr").pixels, PIXELS)
