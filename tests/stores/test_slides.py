"""Images on disk: every way of storing pixels and pixel sizes gives the same RGB and the same
micrometres."""

import io
import math
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.base.errors import InputNotFound, OutOfResources, UnknownPixelSize, UnsupportedSlide
from histocli.config.common import MPP_RANGE
from histocli.stores import slides
from histocli.stores.slides import (
    read_image,
    read_pixel_size,
    resample,
    resample_labels,
    resampled_shape,
    sane_mpp,
    slide_stem,
)

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"
CM_PER_UM = 1e-4


@pytest.fixture
def pixels() -> np.ndarray:
    """A colourful gradient of 20 by 30 pixels."""
    y, x = np.mgrid[:20, :30]
    return np.stack([y * 12, x * 8, 255 - y * 6 - x * 4], axis=2).astype(np.uint8)


def per_cm(mpp: float) -> tuple[float, float]:
    return (1 / (mpp * CM_PER_UM), 1 / (mpp * CM_PER_UM))


def write_ome_zarr(
    path: Path, pixels: np.ndarray, *, version: str, mpp: float, unit: str = "micrometer"
) -> None:
    """Level 1 of a store whose axes are c, y, x; ``0`` is full resolution."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    planes = np.moveaxis(pixels, 2, 0)
    for level, step in enumerate((1, 2)):
        group.create_array(str(level), data=np.ascontiguousarray(planes[:, ::step, ::step]))
    multiscales = [
        {
            "version": version,
            "axes": [{"name": "c", "type": "channel"}]
            + [{"name": name, "type": "space", "unit": unit} for name in "yx"],
            "datasets": [
                {
                    "path": str(level),
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [1, mpp * step, mpp * step]}
                    ],
                }
                for level, step in enumerate((1, 2))
            ],
        }
    ]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": multiscales}
    else:
        group.attrs["multiscales"] = multiscales


class TestPixels:
    def test_lossless_files_read_back_what_was_written(self, tmp_path, pixels):
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        (tmp_path / "a.webp").write_bytes(imagecodecs.webp_encode(pixels, lossless=True))
        (tmp_path / "a.bmp").write_bytes(imagecodecs.bmp_encode(pixels))
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        tifffile.imwrite(
            tmp_path / "tiled.tif", pixels, tile=(16, 16), compression="zlib", predictor=True
        )
        tifffile.imwrite(tmp_path / "big.btf", pixels, bigtiff=True)
        tifffile.imwrite(
            tmp_path / "planar.tif",
            np.moveaxis(pixels, 2, 0),
            planarconfig="separate",
            photometric="rgb",
        )
        tifffile.imwrite(
            tmp_path / "first.ome.tif",
            np.moveaxis(pixels, 2, 0),
            photometric="minisblack",
            metadata={"axes": "CYX"},
        )
        for path in sorted(tmp_path.iterdir()):
            image = read_image(path, mpp=0.5)
            np.testing.assert_array_equal(image.pixels, pixels, err_msg=path.name)
            assert image.pixels.dtype == np.uint8
            assert image.pixels.flags.c_contiguous
            assert (image.mpp, image.mpp_source, image.path) == (0.5, "given", path)

    def test_jpeg_is_close(self, tmp_path, pixels):
        (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(pixels, level=98))
        tifffile.imwrite(
            tmp_path / "a.tif",
            pixels,
            compression="jpeg",
            compressionargs={"level": 98},
            tile=(16, 16),
        )
        for name in ("a.jpg", "a.tif"):
            off = read_image(tmp_path / name, mpp=1).pixels.astype(int) - pixels
            assert np.abs(off).mean() < 6

    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
    def test_one_pixel_is_an_image(self, tmp_path, shape):
        tiny = np.full((*shape, 3), 77, np.uint8)
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(tiny))
        tifffile.imwrite(tmp_path / "a.tif", tiny, photometric="rgb")
        zarr.save_array(tmp_path / "a.zarr", tiny)
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(read_image(path, mpp=1).pixels, tiny)

    def test_grey_is_repeated_and_min_is_white_is_turned(self, tmp_path, pixels):
        grey = pixels[..., 0].copy()
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(grey))
        tifffile.imwrite(tmp_path / "a.tif", grey)
        tifffile.imwrite(tmp_path / "b.tif", 255 - grey, photometric="miniswhite")
        zarr.save_array(tmp_path / "a.zarr", grey)
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(
                read_image(path, mpp=1).pixels, np.repeat(grey[..., None], 3, axis=2)
            )

    def test_opacity_is_composited_on_white(self, tmp_path, pixels):
        alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        alpha[:10] = 0
        alpha[10] = 51
        (tmp_path / "a.png").write_bytes(
            imagecodecs.png_encode(np.concatenate([pixels, alpha], axis=2))
        )
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.concatenate([pixels, alpha], axis=2),
            photometric="rgb",
            extrasamples=["unassalpha"],
        )
        multiplied = np.rint(pixels * (alpha / 255.0)).astype(np.uint8)
        tifffile.imwrite(
            tmp_path / "m.tif",
            np.concatenate([multiplied, alpha], axis=2),
            photometric="rgb",
            extrasamples=["assocalpha"],
        )
        for path in sorted(tmp_path.iterdir()):
            read = read_image(path, mpp=1).pixels
            assert (read[:10] == 255).all()
            np.testing.assert_allclose(read[10], 255 * 0.8 + pixels[10] * 0.2, atol=1)
            np.testing.assert_array_equal(read[11:], pixels[11:])

    def test_a_fourth_channel_of_unknown_meaning_is_left_out(self, tmp_path, pixels):
        four = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=2)
        tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unspecified"])
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", mpp=1).pixels, pixels)

    def test_grey_with_opacity(self, tmp_path):
        grey_alpha = np.array([[[100, 255], [100, 0]]], np.uint8)
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(grey_alpha))
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.png").pixels[0], [[100] * 3, [255] * 3]
        )

    @pytest.mark.parametrize("suffix", ["png", "tif", "zarr"])
    def test_16_bits_keep_the_full_range_and_are_never_stretched(self, tmp_path, pixels, suffix):
        path = tmp_path / f"a.{suffix}"
        deep = pixels.astype(np.uint16) * 257
        if suffix == "png":
            path.write_bytes(imagecodecs.png_encode(deep))
        elif suffix == "tif":
            tifffile.imwrite(path, deep, photometric="rgb")
        else:
            zarr.save_array(path, deep)
        np.testing.assert_array_equal(read_image(path, mpp=1).pixels, pixels)

    def test_recorded_significant_bits_say_what_white_is(self, tmp_path):
        twelve = np.array([[0, 2048, 4095]], np.uint16)
        tifffile.imwrite(
            tmp_path / "a.ome.tif", twelve, metadata={"axes": "YX", "SignificantBits": 12}
        )
        tifffile.imwrite(tmp_path / "b.tif", twelve)
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.ome.tif", mpp=1).pixels[0, :, 0], [0, 128, 255]
        )
        np.testing.assert_array_equal(
            read_image(tmp_path / "b.tif", mpp=1).pixels[0, :, 0], [0, 8, 16]
        )

    def test_floats_are_0_to_1_or_0_to_255(self, tmp_path, pixels):
        tifffile.imwrite(tmp_path / "a.tif", (pixels / 255).astype(np.float32), photometric="rgb")
        tifffile.imwrite(tmp_path / "b.tif", pixels.astype(np.float64), photometric="rgb")
        zarr.save_array(tmp_path / "c.zarr", (pixels / 255).astype(np.float32))
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(read_image(path, mpp=1).pixels, pixels)

    def test_masks_are_black_and_white(self, tmp_path):
        mask = np.array([[True, False]])
        tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
        zarr.save_array(tmp_path / "a.zarr", mask)
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(read_image(path, mpp=1).pixels[0, :, 0], [255, 0])

    def test_palette_of_16_bits(self, tmp_path):
        colormap = np.zeros((3, 256), np.uint16)
        colormap[:, 1] = (65535, 32896, 0)
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.array([[0, 1]], np.uint8),
            photometric="palette",
            colormap=colormap,
        )
        np.testing.assert_array_equal(
            read_image(tmp_path / "a.tif", mpp=1).pixels[0], [[0, 0, 0], [255, 128, 0]]
        )

    def test_a_pyramid_is_read_at_full_resolution(self, tmp_path, pixels):
        with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
            tiff.write(pixels, subifds=1, photometric="rgb", metadata={"axes": "YXS"})
            tiff.write(pixels[::2, ::2], subfiletype=1, photometric="rgb")
        with tifffile.TiffWriter(tmp_path / "b.tif") as tiff:  # a thumbnail first
            tiff.write(pixels[::5, ::5], photometric="rgb")
            tiff.write(pixels, photometric="rgb")
        for path in sorted(tmp_path.iterdir()):
            np.testing.assert_array_equal(read_image(path, mpp=1).pixels, pixels)

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_ome_zarr(self, tmp_path, pixels, version):
        write_ome_zarr(tmp_path / "s.ome.zarr", pixels, version=version, mpp=0.5)
        image = read_image(tmp_path / "s.ome.zarr")
        np.testing.assert_array_equal(image.pixels, pixels)
        assert (image.mpp, image.mpp_source, image.name) == (0.5, "ome-zarr", "s")

    def test_plain_zarr_channels_first(self, tmp_path, pixels):
        zarr.save_array(tmp_path / "a.zarr", np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))
        np.testing.assert_array_equal(read_image(tmp_path / "a.zarr", mpp=1).pixels, pixels)

    def test_kind_is_told_by_content(self, tmp_path, pixels):
        (tmp_path / "misnamed.jpg").write_bytes(imagecodecs.png_encode(pixels))
        np.testing.assert_array_equal(read_image(tmp_path / "misnamed.jpg").pixels, pixels)


class TestPixelSize:
    def test_range_is_the_one_of_the_options(self):
        assert slides.SANE_MPP == MPP_RANGE

    @given(st.floats(allow_nan=True, allow_infinity=True))
    def test_only_what_a_scan_can_have_is_sane(self, value):
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
    def test_resolution_tags_are_unit_aware(self, tmp_path, pixels, unit, resolution, expected):
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
    def test_ome_units(self, tmp_path, pixels, unit, size):
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

    def test_an_insane_ome_size_leaves_it_to_the_next_source(self, tmp_path, pixels):
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

    def test_pixels_that_are_not_square_are_refused_unless_a_size_is_given(self, tmp_path, pixels):
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
        tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=metadata)
        for read in (read_image, read_pixel_size):
            with pytest.raises(UnknownPixelSize, match="not square"):
                read(tmp_path / "a.ome.tif")
        assert read_image(tmp_path / "a.ome.tif", mpp=0.5).mpp == 0.5

    def test_aperio_writes_it_in_the_description(self, tmp_path, pixels):
        description = "Aperio Image Library v11.2.1\r\n46000x32914 [0,0 30x20] (240x240)|AppMag = 20|MPP = 0.4990|Left = 25.7"
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

    def test_imagej_names_its_unit(self, tmp_path, pixels):
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

    def test_ome_zarr_units(self, tmp_path, pixels):
        write_ome_zarr(tmp_path / "a.ome.zarr", pixels, version="0.5", mpp=500, unit="nanometer")
        assert read_pixel_size(tmp_path / "a.ome.zarr") == (0.5, "ome-zarr")

    def test_png_may_be_assumed_and_the_source_says_so(self, tmp_path, pixels):
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        assert (read_image(tmp_path / "a.png").mpp, read_image(tmp_path / "a.png").mpp_source) == (
            0.25,
            "assumed",
        )
        assert read_pixel_size(tmp_path / "a.png") == (0.25, "assumed")
        with pytest.raises(UnknownPixelSize, match="--mpp"):
            read_image(tmp_path / "a.png", allow_assumed=False)

    def test_zarr_is_not_guessed(self, tmp_path, pixels):
        zarr.save_array(tmp_path / "a.zarr", pixels)
        with pytest.raises(UnknownPixelSize, match="--mpp"):
            read_image(tmp_path / "a.zarr")
        zarr.open_array(tmp_path / "a.zarr", mode="r+").attrs["mpp"] = 0.5
        assert read_image(tmp_path / "a.zarr").mpp_source == "zarr"


class TestBadInput:
    """Everything a user can hand over that is not an image: one line, never a traceback of a
    decoder."""

    def check(self, path: Path, match: str = ".") -> None:
        with pytest.raises(UnsupportedSlide, match=match) as caught:
            read_image(path, mpp=1)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 3

    def test_missing(self, tmp_path):
        with pytest.raises(InputNotFound, match=r"no such image"):
            read_image(tmp_path / "none.png")

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.svs"])
    def test_empty(self, tmp_path, name):
        (tmp_path / name).touch()
        self.check(tmp_path / name, "empty")

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.svs"])
    def test_text(self, tmp_path, name):
        (tmp_path / name).write_text("not an image, whatever its name says")
        self.check(tmp_path / name, "known kind")

    @pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.99])
    @pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "strips", "tiles", "lzw"])
    def test_truncated(self, tmp_path, kind, keep):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        file = io.BytesIO()
        if kind == "strips":
            tifffile.imwrite(file, noise, rowsperstrip=8)
        elif kind == "tiles":
            tifffile.imwrite(file, noise, tile=(16, 16), compression="zlib")
        elif kind == "lzw":
            tifffile.imwrite(file, noise, compression="lzw")
        else:
            encode = {"png": "png", "jpg": "jpeg8", "webp": "webp", "bmp": "bmp"}[kind]
            file.write(getattr(imagecodecs, f"{encode}_encode")(noise))
        data = file.getvalue()
        path = tmp_path / f"a.{kind if len(kind) < 5 else 'tif'}"
        path.write_bytes(data[: int(len(data) * keep)])
        self.check(path)

    def test_noise_inside_a_png(self, tmp_path, pixels):
        data = bytearray(imagecodecs.png_encode(pixels))
        data[60:90] = bytes(range(30))
        (tmp_path / "a.png").write_bytes(data)
        self.check(tmp_path / "a.png", "decoded")

    def test_a_stack_is_not_one_image(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((5, 8, 8), np.uint8), photometric="minisblack"
        )
        self.check(tmp_path / "a.tif", "stack")

    def test_cmyk_and_lab(self, tmp_path, pixels):
        four = np.concatenate([pixels, pixels[..., :1]], axis=2)
        tifffile.imwrite(tmp_path / "a.tif", four, photometric="separated")
        tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="cielab")
        (tmp_path / "a.jpg").write_bytes(
            imagecodecs.jpeg8_encode(four, colorspace="CMYK", outcolorspace="CMYK")
        )
        for path in sorted(tmp_path.iterdir()):
            self.check(path, "RGB")

    @pytest.mark.parametrize(
        "values",
        [
            np.full((4, 4), -1.0),
            np.full((4, 4), np.nan),
            np.full((4, 4), 1e6),
            np.zeros((4, 4), np.int32),
        ],
    )
    def test_values_without_a_known_white(self, tmp_path, values):
        tifffile.imwrite(tmp_path / "a.tif", values)
        self.check(tmp_path / "a.tif", "8-bit")

    def test_too_many_channels(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "a.ome.tif",
            np.zeros((7, 8, 8), np.uint8),
            metadata={"axes": "CYX"},
            photometric="minisblack",
        )
        self.check(tmp_path / "a.ome.tif", "7 channels")

    def test_folders_that_are_no_image(self, tmp_path, pixels):
        (tmp_path / "folder").mkdir()
        (tmp_path / "empty.zarr").mkdir()
        zarr.open_group(tmp_path / "group.zarr", mode="w")
        foreign = zarr.open_group(tmp_path / "patches.zarr", mode="w")
        foreign.attrs["histosynth"] = {"contract": "histosynth-patches/1"}
        self.check(tmp_path / "folder", "Zarr metadata")
        self.check(tmp_path / "empty.zarr", "Zarr metadata")
        self.check(tmp_path / "group.zarr", "multiscales")
        self.check(tmp_path / "patches.zarr", "histosynth-patches/1")

    def test_damaged_zarr(self, tmp_path, pixels):
        zarr.save_array(tmp_path / "chunk.zarr", pixels)
        for chunk in (tmp_path / "chunk.zarr" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(chunk.read_bytes()[:5])
        zarr.save_array(tmp_path / "meta.zarr", pixels)
        (tmp_path / "meta.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node')
        write_ome_zarr(tmp_path / "level.zarr", pixels, version="0.5", mpp=0.5)
        (tmp_path / "level.zarr" / "0" / "zarr.json").unlink()
        for path in sorted(tmp_path.iterdir()):
            self.check(path)

    def test_pixels_that_do_not_fit_in_memory(self, tmp_path, pixels, monkeypatch):
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        monkeypatch.setattr(slides, "MEMORY_SHARE", 1e-12)
        with pytest.raises(OutOfResources, match="memory"):
            read_image(tmp_path / "a.tif", mpp=1)


class TestResample:
    @given(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.floats(0.05, 5),
        st.floats(0.05, 5).filter(lambda mpp: mpp < 4),
    )
    @settings(max_examples=60)
    def test_a_flat_image_stays_flat_and_any_size_works(self, shape, from_mpp, to_mpp):
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
        ("from_mpp", "to_mpp"),
        [(0.25, 0.5), (0.23, 0.25), (0.499, 0.25), (0.2527, 0.5), (0.5, 0.37)],
    )
    @pytest.mark.parametrize("size", [301, 400])
    def test_grid_is_locked_to_the_origin_whatever_the_size(self, from_mpp, to_mpp, size):
        """A spot keeps its distance in micrometres from the outer corner of pixel (0, 0), at the
        far end too."""
        for place in (20, size - 20):
            spot = 250 * np.exp(-(((np.arange(size) - place) / 4.0) ** 2) / 2)
            image = np.rint(np.tile(spot[None, :, None], (9, 1, 3))).astype(np.uint8)
            line = resample(image, from_mpp, to_mpp)[2, :, 0].astype(float)
            centre_um = (line * (np.arange(line.size) + 0.5)).sum() / line.sum() * to_mpp
            assert centre_um == pytest.approx((place + 0.5) * from_mpp, abs=0.03 * from_mpp)

    def test_a_larger_image_begins_with_the_pixels_of_a_smaller_one(self):
        image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
        whole, part = resample(image, 0.3, 0.5), resample(image[:100, :120], 0.3, 0.5)
        np.testing.assert_array_equal(whole[:58, :70], part[:58, :70])

    def test_shrinking_does_not_alias(self):
        """A one-pixel checkerboard becomes grey; picking pixels would keep it black and white."""
        board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
        out = resample(np.repeat(board[..., None], 3, axis=2), 0.25, 1.0)
        assert np.abs(out.astype(int) - 127).max() <= 1

    def test_same_size_is_the_same_array(self):
        image = np.zeros((4, 4, 3), np.uint8)
        assert resample(image, 0.25, 0.25) is image

    @given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 6))
    def test_labels_come_back_from_a_finer_grid(self, height, width, factor):
        labels = np.arange(height * width, dtype=np.uint32).reshape(height, width)
        fine = resample_labels(labels, 1.0, 1.0 / factor)
        np.testing.assert_array_equal(fine, labels.repeat(factor, axis=0).repeat(factor, axis=1))
        np.testing.assert_array_equal(resample_labels(fine, 1.0 / factor, 1.0), labels)

    def test_a_label_pixel_is_the_one_that_holds_the_centre(self):
        labels = np.array([[1, 2, 3]], np.uint16)
        out = resample_labels(labels, 0.5, 0.4, (1, 5))  # centres at 0.2, 0.6, 1.0, 1.4, 1.8 um
        np.testing.assert_array_equal(out, [[1, 2, 3, 3, 3]])
        assert out.dtype == np.uint16


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b/slide.ome.tif", "slide"),
        ("slide.OME.TIFF", "slide"),
        ("slide.ome.zarr", "slide"),
        ("slide.svs", "slide"),
        ("TCGA-18.x.y.png", "TCGA-18.x.y"),
        ("synth.zarr", "synth"),
        (".ome.tif", ".ome"),
    ],
)
def test_double_suffixes_are_stripped_whole(name, stem):
    assert slide_stem(name) == stem


@pytest.mark.skipif(not SLIDES.is_dir(), reason="the sample slides are not on this machine")
def test_sample_slides():
    svs, ome = (
        read_image(SLIDES / f"CMU-1-Small-Region{suffix}") for suffix in (".svs", ".ome.tif")
    )
    assert svs.pixels.shape == ome.pixels.shape == (2967, 2220, 3)
    assert (svs.mpp, svs.mpp_source) == (0.499, "aperio")
    assert (ome.mpp, ome.mpp_source) == (0.499, "ome-xml")
    assert np.abs(svs.pixels.astype(np.int16) - ome.pixels).mean() < 4
