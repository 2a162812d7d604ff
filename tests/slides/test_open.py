"""Slides by regions: every back-end shows the same pixels, and every region is a region of the
whole."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from histocli.annotations.images import read_label_image
from histocli.base.errors import InvalidInput, OutOfResources, UnknownPixelSize, UnsupportedSlide
from histocli.base.pyramid import shrink
from histocli.slides.open import open_slide, read_image
from histocli.slides.openslide import OpenSlideSlide
from histocli.slides.slide import shape_of
from tests.slides.files import SLIDES, write_ndpi, write_ome_zarr

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
    slide = OpenSlideSlide(path, 0.5)
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


def test_the_same_pixels_in_every_kind_of_file_are_the_same_image(tmp_path):
    for encode in ("png", "bmp"):
        data = getattr(imagecodecs, f"{encode}_encode")(PIXELS)
        (tmp_path / f"s.{encode}").write_bytes(data)
    (tmp_path / "s.webp").write_bytes(imagecodecs.webp_encode(PIXELS, lossless=True))
    for name in ("s.tif", "s.btf", "s.svs", "s.mrxs", "s.scn", "s.dcm"):
        write(tmp_path / name, tile=(64, 64))  # openslide reads generic TIFFs of any name
    write(tmp_path / "strips.tif", rowsperstrip=7)
    write_ndpi(tmp_path / "s.ndpi", PIXELS, 0.5)
    planes = np.ascontiguousarray(np.moveaxis(PIXELS, 2, 0))
    write(tmp_path / "s.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    write_ome_zarr(tmp_path / "s.ome.zarr", PIXELS, version="0.5", mpp=0.5)
    zarr.save_array(tmp_path / "bytes.zarr", PIXELS)
    zarr.save_array(tmp_path / "floats.zarr", PIXELS / 255)
    backends = set()
    for path in sorted(tmp_path.iterdir()):
        slide = open_slide(path, mpp=0.5)
        backends.add(slide.backend)
        everything = slide.read(0, slice(0, 203), slice(0, 150))
        np.testing.assert_array_equal(everything, PIXELS, err_msg=path.name)
        np.testing.assert_array_equal(slide.whole(), PIXELS, err_msg=path.name)
        region = slide.read(0, slice(60, 140), slice(40, 110))
        np.testing.assert_array_equal(region, PIXELS[60:140, 40:110], err_msg=path.name)
        slide.close()
    assert backends == {"imagecodecs", "tifffile", "openslide", "zarr"}


def test_a_slide_of_openslide_is_read_in_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("histocli.slides.openslide.STRIP_PX", 1000)
    path = write(tmp_path / "s.mrxs", tile=(64, 64))
    np.testing.assert_array_equal(read_image(path).pixels, PIXELS)
    monkeypatch.setattr("histocli.slides.slide.MEMORY_SHARE", 1e-12)
    with pytest.raises(OutOfResources, match="memory"):
        read_image(path)


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", ["label", "macro", "thumbnail", ""])
@pytest.mark.parametrize("ome", [True, False])
def test_pictures_beside_the_slide_are_not_the_slide(tmp_path, place, name, ome):
    """Also where they come first; a named one is left out even if it is larger."""
    beside = np.full((300, 400, 3) if name else (20, 30, 3), 90, np.uint8)
    path = tmp_path / ("s.ome.tif" if ome else "s.tif")
    pictures = [(beside, name), (PIXELS, "scan")]
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for pixels, called in pictures if place == "first" else reversed(pictures):
            about = {"metadata": {"Name": called}} if ome else {"description": called or None}
            tiff.write(pixels, photometric="rgb", tile=(64, 64), **about)
    slide = open_slide(path, mpp=0.5)
    np.testing.assert_array_equal(whole(slide), PIXELS)
    slide.close()


def test_an_orientation_that_is_not_applied_is_said(tmp_path, caplog):
    tifffile.imwrite(
        tmp_path / "s.tif", PIXELS, photometric="rgb", extratags=[(274, 3, 1, 6, True)]
    )
    slide = open_slide(tmp_path / "s.tif", mpp=0.5)
    np.testing.assert_array_equal(whole(slide), PIXELS)
    assert "its orientation (6) is not applied" in caplog.text
    slide.close()


def test_pages_in_a_ring_are_refused(tmp_path):
    """The second page says that it is the next one, too; a reader that believes it never ends."""
    path = tmp_path / "ring.tif"
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(2):
            tiff.write(PIXELS, photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        second = tiff.pages[1].offset
    content = bytearray(path.read_bytes())
    entries = int.from_bytes(content[second : second + 2], "little")
    following = second + 2 + 12 * entries
    content[following : following + 4] = second.to_bytes(4, "little")
    path.write_bytes(content)
    for read in (read_image, read_label_image):
        with pytest.raises((UnsupportedSlide, InvalidInput), match="in a ring"):
            read(path)
