"""Files as scanners, cameras and programs write them: what they record is found and understood."""

from contextlib import closing

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from histocli.slides.colours import Colours, to_rgb
from histocli.slides.open import open_slide, read_image
from histocli.slides.pixel_size import PixelSize, first_known, of_aperio, of_philips


def picture(side=64, seed=0):
    """Return a smooth picture of many colours."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 230, (side // 16, side // 16, 3), dtype=np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AppMag = 40|MPP = 0.2520", 0.252),
        ("AppMag = 40|MPP = 0,2520|Left = 1", 0.252),
        ("MPP=2.5e-1", 0.25),
        ("MPP = .5|x", 0.5),
        ("MPP = 0|AppMag = 40", None),
        ("MPP = -", None),
        ("MPP = nan", None),
        ("AppMag = 40", None),
        ("XMPP = 0.25", None),
    ],
)
def test_the_pixel_size_of_aperio(tmp_path, text, expected):
    found = of_aperio(text, tmp_path)
    assert (found.mpp if found else None) == expected


def philips(*spacings, kind="WSI"):
    """Return the XML of a Philips scanner: a label, and a slide with some spacings in mm."""

    def attribute(name, value):
        return f'<Attribute Name="{name}">{value}</Attribute>'

    def image(kind, levels):
        inside = attribute("PIM_DP_IMAGE_TYPE", kind) + "".join(
            f"<DataObject>{attribute('DICOM_PIXEL_SPACING', level)}</DataObject>"
            for level in levels
        )
        return f'<DataObject ObjectType="DPScannedImage">{inside}</DataObject>'

    label = image("LABELIMAGE", ['"0.0001" "0.0001"'])
    slide = image(kind, [f'"{each}" "{each}"' for each in spacings])
    return f'<?xml version="1.0"?><DataObject>{label}{slide}</DataObject>'


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (philips("0.00025", "0.0005"), 0.25),
        (philips("0.0005", "0.000227"), 0.227),
        (philips("2.5e-4"), 0.25),
        (philips("0"), None),
        (philips("0.00025", kind="MACROIMAGE"), None),
        (philips("0.00025")[:-9], None),
        ("DICOM_PIXEL_SPACING", None),
        ("", None),
    ],
)
def test_the_pixel_size_of_philips(tmp_path, description, expected):
    found = of_philips(description, tmp_path)
    assert (round(found.mpp, 6) if found else None) == expected
    assert found is None or found.source == "philips"


def test_sources_that_contradict_each_other_are_named(tmp_path, caplog):
    sizes = [None, PixelSize(0.25, "aperio"), PixelSize(0.3, "philips"), PixelSize(0.5, "tiff")]
    assert first_known(sizes, tmp_path) == (0.25, "aperio")
    assert "0.25 um by aperio, but 0.5 um by tiff" in caplog.text
    caplog.clear()
    assert first_known(sizes[:3], tmp_path) == (0.25, "aperio")
    assert first_known([None, None], tmp_path) is None
    assert not caplog.records


@pytest.mark.parametrize("top", [1.0, 1.0000001, 1.05])
@pytest.mark.parametrize("bottom", [0.0, -0.02])
def test_floats_that_leave_the_unit_interval_a_little(tmp_path, top, bottom):
    image = picture()
    values = (image / 255).astype(np.float32)
    values[0, 0], values[0, 1] = top, bottom
    found = to_rgb(values, tmp_path)
    assert np.array_equal(found[1:], image[1:])
    assert (found[0, 0] == 255).all()
    assert (found[0, 1] == 0).all()


def test_floats_of_another_scale_keep_it(tmp_path):
    image = picture()
    assert np.array_equal(to_rgb(image.astype(np.float32), tmp_path), image)


def test_brightness_and_colour_differences_become_colours(tmp_path):
    image = picture()
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    found = to_rgb(stored, tmp_path, Colours(luma_chroma=True))
    assert np.abs(found.astype(int) - image).max() <= 3


@pytest.mark.parametrize("codec", [33003, 33005])
def test_both_jpeg_2000_codecs_of_aperio(tmp_path, codec):
    """33003 stores brightness and colour differences, 33005 red, green and blue."""
    image = picture()
    stored = image
    if codec == 33003:
        stored = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    tiles = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(stored[y : y + 32, x : x + 32]),
            codecformat="j2k",
            mct=False,
            level=0,
            reversible=True,
        )
        for y in (0, 32)
        for x in (0, 32)
    ]
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=image.shape,
        dtype=np.uint8,
        photometric="rgb",
        tile=(32, 32),
        compression=codec,
        metadata=None,
        description="Aperio Image Library v10\n64x64 (32x32) J2K|AppMag = 40|MPP = 0.25",
    )
    assert np.abs(read_image(path).pixels.astype(int) - image).max() <= 3


def test_all_levels_of_twelve_bits_are_equally_bright(tmp_path):
    image = picture(128).astype(np.uint16) * 16
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        meta = {"SignificantBits": 12, "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "axes": "YXS"}
        more = {"photometric": "rgb", "tile": (64, 64)}
        file.write(image, subifds=1, metadata=meta, **more)
        file.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **more)
    with closing(open_slide(path)) as slide:
        means = [slide.read(level, slice(0, 64), slice(0, 64)).mean() for level in range(2)]
    assert means[0] > 100
    assert means[1] == pytest.approx(image.mean() / 16, rel=0.05)
