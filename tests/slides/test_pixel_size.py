"""Pixel sizes: every way of recording one gives the same micrometres, and none is guessed."""

import math

import imagecodecs
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.errors import UnknownPixelSize
from histocli.base.units import sane_mpp
from histocli.slides.open import read_image, read_pixel_size
from tests.slides.files import per_cm, write_ome_zarr


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_only_what_a_scan_can_have_is_sane(value):
    assert sane_mpp(value) == (value if not math.isnan(value) and 0.05 <= value <= 5 else None)


@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("CENTIMETER", per_cm(0.25), 0.25),
        ("INCH", (25400 / 0.5, 25400 / 0.5), 0.5),
        ("INCH", (72, 72), None),
        ("INCH", (96, 96), None),
        ("INCH", (300, 300), None),
        ("NONE", per_cm(0.25), None),
        ("CENTIMETER", (0, 0), None),
    ],
)
def test_resolution_tags_are_unit_aware(tmp_path, pixels, unit, resolution, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, resolution=resolution, resolutionunit=unit)
    if expected is None:
        for read in (read_image, read_pixel_size):
            with pytest.raises(UnknownPixelSize, match="--mpp"):
                read(path)
        assert read_image(path, mpp=0.3).mpp_source == "given"
    else:
        image = read_image(path)
        assert image.mpp == pytest.approx(expected, rel=1e-4)
        assert image.mpp_source == "tiff"
        assert read_pixel_size(path) == (image.mpp, "tiff")


@pytest.mark.parametrize(
    ("unit", "size"), [("µm", 0.5), ("nm", 500), ("mm", 0.0005), ("cm", 0.00005)]
)
def test_ome_units(tmp_path, pixels, unit, size):
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": size,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": size,
        "PhysicalSizeYUnit": unit,
    }
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        pixels,
        metadata=metadata,
        resolution=per_cm(2.0),
        resolutionunit="CENTIMETER",
    )
    image = read_image(tmp_path / "a.ome.tif")
    assert (image.mpp, image.mpp_source) == (pytest.approx(0.5), "ome-xml")


def test_an_insane_ome_size_leaves_it_to_the_next_source(tmp_path, pixels):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.0, "PhysicalSizeY": 0.0}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        pixels,
        metadata=metadata,
        resolution=per_cm(2.0),
        resolutionunit="CENTIMETER",
    )
    image = read_image(tmp_path / "a.ome.tif")
    assert (image.mpp, image.mpp_source) == (pytest.approx(2.0), "tiff")


def test_pixels_that_are_not_square_are_refused_unless_a_size_is_given(tmp_path, pixels):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=metadata)
    for read in (read_image, read_pixel_size):
        with pytest.raises(UnknownPixelSize, match="not square"):
            read(tmp_path / "a.ome.tif")
    assert read_image(tmp_path / "a.ome.tif", mpp=0.5).mpp == 0.5


def test_aperio_writes_it_in_the_description(tmp_path, pixels):
    description = (
        "Aperio Image Library v11.2.1\r\n46000x32914 [0,0 30x20] (240x240)|AppMag = "
        "20|MPP = 0.4990|Left = 25.7"
    )
    tifffile.imwrite(
        tmp_path / "a.svs",
        pixels,
        description=description,
        metadata=None,
        tile=(240, 240),
        resolution=(72, 72),
        resolutionunit="INCH",
    )
    image = read_image(tmp_path / "a.svs")
    assert (image.mpp, image.mpp_source) == (0.499, "aperio")


def test_imagej_names_its_unit(tmp_path, pixels):
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, imagej=True, resolution=(4.0, 4.0), metadata={"unit": "um"}
    )
    tifffile.imwrite(
        tmp_path / "pixels.tif",
        pixels,
        imagej=True,
        resolution=(4.0, 4.0),
        metadata={"unit": "pixel"},
    )
    assert read_pixel_size(tmp_path / "a.tif") == (0.25, "imagej")
    with pytest.raises(UnknownPixelSize):
        read_pixel_size(tmp_path / "pixels.tif")


def test_ome_zarr_units(tmp_path, pixels):
    write_ome_zarr(tmp_path / "a.ome.zarr", pixels, version="0.5", mpp=500, unit="nanometer")
    assert read_pixel_size(tmp_path / "a.ome.zarr") == (0.5, "ome-zarr")


def test_png_may_be_assumed_and_the_source_says_so(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert (read_image(tmp_path / "a.png").mpp, read_image(tmp_path / "a.png").mpp_source) == (
        0.25,
        "assumed",
    )
    assert read_pixel_size(tmp_path / "a.png") == (0.25, "assumed")


def test_zarr_is_not_guessed(tmp_path, pixels):
    zarr.save_array(tmp_path / "a.zarr", pixels)
    with pytest.raises(UnknownPixelSize, match="--mpp"):
        read_image(tmp_path / "a.zarr")
    zarr.open_array(tmp_path / "a.zarr", mode="r+").attrs["mpp"] = 0.5
    assert read_image(tmp_path / "a.zarr").mpp_source == "zarr"
