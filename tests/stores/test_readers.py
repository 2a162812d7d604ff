"""Slides by regions: every back-end shows the same pixels, and every region is a region of the
whole."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.base.errors import UnknownPixelSize, UnsupportedSlide
from histocli.base.pyramid import shrink
from histocli.stores.readers import (
    OpenSlideSlide,
    ResampledSlide,
    apply_taps,
    describe,
    open_slide,
    shape_of,
    shrunk,
    taps,
)
from histocli.stores.slides import read_image, resample
from tests.stores.test_slides import SLIDES, write_ome_zarr

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (203, 150, 3), np.uint8)

needs_slides = pytest.mark.skipif(
    not SLIDES.is_dir(), reason="the sample slides are not on this machine"
)


def whole(slide) -> np.ndarray:
    height, width = shape_of(slide)
    return slide.read(0, slice(0, height), slice(0, width))


def write(path: Path, image: np.ndarray = PIXELS, **more) -> Path:
    tifffile.imwrite(
        path,
        image,
        **({"photometric": "rgb", "resolution": (2e4, 2e4), "resolutionunit": 3} | more),
    )
    return path


@pytest.mark.parametrize(
    "more",
    [
        {"tile": (64, 48)},
        {"rowsperstrip": 17},
        {},
        {"tile": (64, 64), "compression": "zlib", "predictor": True},
        {"tile": (64, 64), "bigtiff": True},
        {"tile": (64, 64), "planarconfig": "separate"},
        {"tile": (64, 64), "compression": "jpeg2000"},
        {"tile": (64, 64), "compression": "jpeg"},
        {"tile": (64, 64), "compression": "webp"},
    ],
    ids=str,
)
def test_regions_of_any_tiff_are_regions_of_the_image(tmp_path, more):
    image = np.moveaxis(PIXELS, 2, 0) if "planarconfig" in more else PIXELS
    path = write(tmp_path / "s.tif", np.ascontiguousarray(image), **more)
    expected = read_image(path).pixels
    slide = open_slide(path)
    assert (slide.backend, slide.mpp, slide.mpp_source) == ("tifffile", 0.5, "tiff")
    np.testing.assert_array_equal(whole(slide), expected)
    for rows, columns in (
        (slice(0, 1), slice(0, 1)),
        (slice(60, 140), slice(40, 110)),
        (slice(200, 203), slice(149, 150)),
    ):
        np.testing.assert_array_equal(slide.read(0, rows, columns), expected[rows, columns])
    slide.close()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_both_versions(tmp_path, version):
    write_ome_zarr(tmp_path / "s.ome.zarr", PIXELS, version=version, mpp=0.3)
    slide = open_slide(tmp_path / "s.ome.zarr")
    assert (slide.backend, slide.mpp, slide.mpp_source) == ("zarr", 0.3, "ome-zarr")
    assert [level.downsample for level in slide.levels] == [1.0, 2.0]
    np.testing.assert_array_equal(whole(slide), PIXELS)
    np.testing.assert_array_equal(
        slide.read(1, slice(3, 9), slice(5, 8)), PIXELS[::2, ::2][3:9, 5:8]
    )


@pytest.mark.parametrize("kind", ["grey", "16 bits", "palette", "opacity", "min is white"])
def test_other_values_become_rgb_by_the_same_rules(tmp_path, kind):
    path = tmp_path / "s.tif"
    match kind:
        case "grey":
            write(path, PIXELS[..., 0], photometric="minisblack", tile=(64, 64))
        case "16 bits":
            write(path, PIXELS.astype(np.uint16) * 257, tile=(64, 64))
        case "palette":
            write(
                path,
                PIXELS[..., 0],
                photometric="palette",
                colormap=RNG.integers(0, 2**16, (3, 256), np.uint16),
                tile=(64, 64),
            )
        case "opacity":
            write(
                path,
                np.concatenate([PIXELS, PIXELS[..., :1]], axis=2),
                extrasamples=["unassalpha"],
                tile=(64, 64),
            )
        case "min is white":
            write(path, PIXELS[..., 0], photometric="miniswhite", tile=(64, 64))
    slide = open_slide(path)
    np.testing.assert_array_equal(whole(slide), read_image(path).pixels)
    slide.close()


def test_a_pyramid_shows_its_levels_and_neither_label_nor_macro(tmp_path):
    with tifffile.TiffWriter(tmp_path / "s.ome.tif") as tiff:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        }
        tiff.write(PIXELS, subifds=1, tile=(64, 64), photometric="rgb", metadata=metadata)
        tiff.write(shrink(PIXELS, 2), subfiletype=1, tile=(64, 64), photometric="rgb")
        tiff.write(np.zeros((900, 900, 3), np.uint8), photometric="rgb", metadata={"Name": "macro"})
    slide = open_slide(tmp_path / "s.ome.tif")
    assert [level.shape for level in slide.levels] == [(203, 150), (102, 75)]
    assert [level.downsample for level in slide.levels] == [1.0, 2.0]
    np.testing.assert_array_equal(whole(slide), PIXELS)
    told = describe(slide)
    assert (told["backend"], told["mpp_source"], told["height_px"], told["width_px"]) == (
        "tifffile",
        "ome-xml",
        203,
        150,
    )
    assert [level["mpp"] for level in told["levels"]] == [0.5, 1.0]
    slide.close()


@needs_slides
def test_two_back_ends_show_the_sample_slide_alike():
    path = SLIDES / "CMU-1-Small-Region.svs"
    first, second = open_slide(path), OpenSlideSlide(path)
    assert (first.backend, second.backend) == ("tifffile", "openslide")
    assert first.levels == second.levels
    assert first.mpp == second.mpp == 0.499
    np.testing.assert_array_equal(whole(first), whole(second))
    first.close()
    second.close()


def test_generic_tiff_through_openslide(tmp_path):
    path = write(tmp_path / "s.tif", tile=(64, 64))
    slide = OpenSlideSlide(path, mpp=0.5)
    np.testing.assert_array_equal(whole(slide), PIXELS)
    slide.close()
    with pytest.raises(UnsupportedSlide, match="openslide"):
        open_slide(write(tmp_path / "no.mrxs"))


def test_pixels_that_are_not_square_need_a_word(tmp_path):
    path = write(tmp_path / "s.tif", tile=(64, 64), resolution=(2e4, 4e4))
    with pytest.raises(UnknownPixelSize, match="not square"):
        open_slide(path)
    slide = open_slide(path, mpp=0.5)
    assert slide.mpp == 0.5
    slide.close()


def test_what_was_never_stored_is_glass(tmp_path):
    path = write(tmp_path / "s.tif", np.zeros((128, 128, 3), np.uint8), tile=(64, 64))
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags[325]
        place, size = tag.valueoffset, {3: 2, 4: 4}[int(tag.dtype)]
    with path.open("r+b") as stream:
        stream.seek(place + size)  # the second of four counts
        stream.write(bytes(size))
    slide = open_slide(path)
    image = whole(slide)
    assert (image[:64, 64:] == 255).all()
    assert (image[:64, :64] == 0).all()
    slide.close()


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
        from histocli.stores.readers import Level

        self._images = [pixels, *levels]
        self.mpp, self.mpp_source, self.backend, self.path, self.name = (
            mpp,
            "given",
            "memory",
            Path("m"),
            "m",
        )
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
    monkeypatch.setattr("histocli.stores.readers.STRIP_PX", 4000)
    np.testing.assert_array_equal(
        shrunk(InMemory(PIXELS, 0.25), factor, shrink), shrink(PIXELS, factor)
    )


def test_images_without_tiles(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(PIXELS))
    zarr.save_array(tmp_path / "b.zarr", PIXELS)
    zarr.save_array(tmp_path / "c.zarr", PIXELS / 255)
    for name in ("a.png", "b.zarr", "c.zarr"):
        np.testing.assert_array_equal(whole(open_slide(tmp_path / name, mpp=0.5)), PIXELS)
