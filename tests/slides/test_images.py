"""Images as a whole: every way of storing pixels gives the same RGB, other files are refused."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from histocli.base.errors import InputNotFound, OutOfResources, UnsupportedSlide
from histocli.slides import slide as slides
from histocli.slides.open import read_image
from histocli.slides.slide import slide_stem
from tests.slides.files import SLIDES, write_ome_zarr


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
            assert (image.mpp, image.mpp_source) == (0.5, "given")

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
        assert (image.mpp, image.mpp_source) == (0.5, "ome-zarr")

    def test_plain_zarr_channels_first(self, tmp_path, pixels):
        zarr.save_array(tmp_path / "a.zarr", np.ascontiguousarray(np.moveaxis(pixels, 2, 0)))
        np.testing.assert_array_equal(read_image(tmp_path / "a.zarr", mpp=1).pixels, pixels)

    def test_kind_is_told_by_content(self, tmp_path, pixels):
        (tmp_path / "misnamed.jpg").write_bytes(imagecodecs.png_encode(pixels))
        np.testing.assert_array_equal(read_image(tmp_path / "misnamed.jpg").pixels, pixels)


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
