"""PNG pictures: overlays (outlines on the slide), quality pictures, previews of training.

The record of how an exported picture was made is a JSON object in the text chunk ``histosynth``.
"""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.pyramid import nearest_level
from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.exports.content import Content, SegmentedSlide, Window
from histocli.figures.colours import LINE, PALETTE, Colours, graded
from histocli.figures.overlays import add_colour_bar, add_scale_bar, outline_overlay
from histocli.figures.qc import CROP_PX, Crop, qc_picture

PNG_LEVEL = 4  # twice the speed of level 6 for a few per cent more bytes on stained tissue
JPEG_LEVEL = 88  # thin lines stay free of rings
HEADER_BYTES = 33  # signature of a PNG file (8) and its first chunk (25); the text chunk follows
TEXT_KEY = ATTRIBUTE.encode() + b"\0"
OVERLAY_LINE_UM = 0.5  # width of outlines, in micrometres
OVERLAY_PX = 100_000_000  # most pixels of an overlay, so that viewers open it; larger ones shrink
QC_CROPS = 6  # most crops in a quality picture
QC_BYTES = 500_000  # a quality picture is smaller, so that hundreds can be looked through or mailed
QC_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # sizes, tried until one is small enough
FEW_COLOURS = 160  # of a picture that would otherwise be too large
AREA_TAIL = 5  # per cent of the nuclei whose area lies beyond each end of the colours


def png_bytes(image: RGBImage) -> bytes:
    """Return the PNG file of a picture, uint8, shape (H, W, 3); equal pictures give equal bytes."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=PNG_LEVEL))


def jpeg_bytes(image: RGBImage) -> bytes:
    """Return the JPEG of a picture, a fifth of its PNG; colours of thin lines are kept."""
    content = np.ascontiguousarray(image)
    return bytes(imagecodecs.jpeg8_encode(content, level=JPEG_LEVEL, subsampling="444"))


def small_png_bytes(image: RGBImage, most_bytes: int) -> bytes:
    """Return a PNG of at most ``most_bytes``: of full colour, or few colours and as large as fits.

    A picture that does not fit at the smallest of ``QC_SHARES`` is returned at that size.
    """
    content = png_bytes(image)
    for share in QC_SHARES:
        if len(content) <= most_bytes:
            break
        size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
        smaller = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if share < 1 else image
        few = Image.fromarray(np.asarray(smaller, np.uint8)).quantize(
            FEW_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        stream = io.BytesIO()
        few.save(stream, "PNG", optimize=True)
        content = stream.getvalue()
    return content


def write_png(path: Path, image: RGBImage, record: Json | None = None) -> None:
    """Write a picture, with a record of how it was made if given; an older file is replaced.

    Raises ``OutOfResources`` if ``path`` cannot be written, ``StoreExists`` if it is a folder.
    """
    write_png_bytes(path, png_bytes(image), record)


def write_png_bytes(path: Path, content: bytes, record: Json | None = None) -> None:
    """Write the content of a PNG file as :func:`write_png` does."""
    if record is not None:
        text = b"tEXt" + TEXT_KEY + json.dumps({ATTRIBUTE: record}).encode("ascii")
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        content = content[:HEADER_BYTES] + chunk + content[HEADER_BYTES:]
    with replace_atomically(path) as partial:
        partial.write_bytes(content)


def read_png_record(path: Path) -> Any:
    """Return the record of an exported picture."""
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        length, kind = struct.unpack(">I4s", file.read(8))
        text = file.read(length) if kind == b"tEXt" else b""
    return json.loads(text.removeprefix(TEXT_KEY))[ATTRIBUTE]


def write_overlay(path: Path, content: Content, record: Json) -> None:
    """Draw outlines of nuclei on the slide or a window; shrunk to at most ``OVERLAY_PX``."""
    nuclei = content.nuclei
    rows, columns = content.window or (slice(0, nuclei.shape[0]), slice(0, nuclei.shape[1]))
    factor = 1
    while (rows.stop - rows.start) * (columns.stop - columns.start) > OVERLAY_PX * factor**2:
        factor *= 2
    if factor == 1:
        (pixels,) = content.read_windows([(rows, columns)])
    else:
        rows, columns = (
            slice(side.start // factor, -(-side.stop // factor)) for side in (rows, columns)
        )
        pixels = content.read_shrunk(factor)[rows, columns]
    level = factor.bit_length() - 1
    if level < nuclei.n_levels:
        labels = np.asarray(nuclei.level(level)[rows, columns])
    else:
        labels = nearest_level(nuclei.labels(), factor)[rows, columns]
    mpp = nuclei.mpp * factor
    thick = content.thickness_px or max(1, round(OVERLAY_LINE_UM / mpp))
    colours, key = _line_colours(nuclei, content.colour)
    drawn = outline_overlay(pixels, labels, thickness_px=thick, colours=colours)
    drawn = add_scale_bar(drawn, mpp)
    write_png(path, add_colour_bar(drawn, *key) if key else drawn, record)


def _line_colours(
    nuclei: SegmentedSlide, colour: str
) -> tuple[Colours, tuple[float, float, str] | None]:
    """Return the colours of outlines by id, and the ends and name of a scale of colours."""
    if colour == "id":
        return PALETTE, None
    if colour == "one" or not nuclei.n_nuclei:
        return LINE, None
    if colour == "area":
        values = np.asarray(nuclei.columns["area_um2"][...])
        low, high = (float(each) for each in np.percentile(values, [AREA_TAIL, 100 - AREA_TAIL]))
        name = "area, um2"
    else:
        values = np.asarray(nuclei.columns["probability"][...])
        low, high, name = float(np.floor(10 * values.min()) / 10), 1.0, "probability"
    # ids count from 1; no line has the colour of id 0
    return np.concatenate([LINE, graded(values, low, high)]), (low, high, name)


def write_qc(path: Path, content: Content, record: Json) -> None:
    """Draw the quality picture: the slide, the density of nuclei, crops around some nuclei."""
    nuclei = content.nuclei
    overview, tissue = nuclei.overview(), nuclei.tissue
    factor = max(1, round(max(nuclei.shape) / max(overview.shape[:2])))
    mpp = nuclei.mpp * factor
    centres = (
        np.stack([np.asarray(nuclei.columns[name][...]) for name in ("y_um", "x_um")], axis=1) / mpp
    )
    # Crops are centred on random nuclei or, if the slide has none, on random tissue.
    places = centres * factor if len(centres) else np.argwhere(tissue) * float(factor) + factor / 2
    crops = _crops(content, _windows(nuclei.shape, places, content.seed), factor)
    mm2 = nuclei.facts.get("mm2") or 0.0
    found = f"{nuclei.n_nuclei:,} nuclei on {mm2:.3g} mm2"
    density = f" ({nuclei.n_nuclei / mm2:,.0f} per mm2)" if mm2 else ""
    title = f"{nuclei.path.name}: {found}{density}, {nuclei.mpp:.4g} um/px"
    drawn = qc_picture(overview, tissue, centres, mpp, crops, title, mpp=nuclei.mpp)
    write_png_bytes(path, small_png_bytes(drawn, QC_BYTES), record)


def _crops(content: Content, windows: list[Window], factor: int) -> list[Crop]:
    """Read the pixels and labels of windows, and their centres on the overview."""
    level = content.nuclei.level(0)
    labels = [np.asarray(level[window]).astype(np.int64) for window in windows]
    centres = [
        ((rows.start + rows.stop) / 2 / factor, (columns.start + columns.stop) / 2 / factor)
        for rows, columns in windows
    ]
    return [
        Crop(*each) for each in zip(content.read_windows(windows), labels, centres, strict=True)
    ]


def _windows(shape: tuple[int, int], places: npt.NDArray[np.float64], seed: int) -> list[Window]:
    """Return at most ``QC_CROPS`` square windows around random places (y, x), top to bottom.

    No two overlap, so a small image has fewer.
    """
    side = min(CROP_PX, *shape)
    corners: list[tuple[int, int]] = []
    for place in places[rng_for(seed, "qc", 0).permutation(len(places))]:
        top, left = (
            int(np.clip(round(middle) - side // 2, 0, size - side))
            for middle, size in zip(place, shape, strict=True)
        )
        if all(abs(top - y) >= side or abs(left - x) >= side for y, x in corners):
            corners.append((top, left))
        if len(corners) == QC_CROPS:
            break
    return [(slice(y, y + side), slice(x, x + side)) for y, x in sorted(corners)]
