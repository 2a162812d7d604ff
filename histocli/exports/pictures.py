"""PNG pictures: overlays (outlines on the slide), quality pictures, previews of training.

The record of how an exported picture was made is a JSON object in the text chunk ``histosynth``.
"""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.pyramid import nearest_level
from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.exports.content import Content, Window
from histocli.figures.overlays import add_scale_bar, outline_overlay
from histocli.figures.qc import CROP_PX, qc_picture

PNG_LEVEL = 4  # twice the speed of level 6 for a few per cent more bytes on stained tissue
HEADER_BYTES = 33  # signature of a PNG file (8) and its first chunk (25); the text chunk follows
TEXT_KEY = ATTRIBUTE.encode() + b"\0"
OVERLAY_LINE_UM = 0.5  # width of outlines, in micrometres
OVERLAY_PX = 100_000_000  # most pixels of an overlay, so that viewers open it; larger ones shrink
QC_CROPS = 12  # most crops in a quality picture


def png_bytes(image: RGBImage) -> bytes:
    """Return the PNG file of a picture, uint8, shape (H, W, 3); equal pictures give equal bytes."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=PNG_LEVEL))


def write_png(path: Path, image: RGBImage, record: Json | None = None) -> None:
    """Write a picture, with a record of how it was made if given; an older file is replaced.

    Raises ``OutOfResources`` if ``path`` cannot be written, ``StoreExists`` if it is a folder.
    """
    content = png_bytes(image)
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
    drawn = outline_overlay(pixels, labels, thickness_px=max(1, round(OVERLAY_LINE_UM / mpp)))
    write_png(path, add_scale_bar(drawn, mpp), record)


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
    windows = _windows(nuclei.shape, places, content.seed)
    labels = [np.asarray(nuclei.level(0)[window]).astype(np.int64) for window in windows]
    crops = list(zip(content.read_windows(windows), labels, strict=True))
    side_um = min(CROP_PX, *nuclei.shape) * nuclei.mpp
    mm2 = nuclei.facts.get("mm2") or 0.0
    found = f"{nuclei.n_nuclei} nuclei on {mm2:.3g} mm2 at {nuclei.mpp:.4g} um/px"
    title = f"{nuclei.path.name}: {found}; crops of {side_um:.0f} um"
    write_png(path, qc_picture(overview, tissue, centres, mpp, crops, title), record)


def _windows(shape: tuple[int, int], places: npt.NDArray[np.float64], seed: int) -> list[Window]:
    """Return square windows around at most ``QC_CROPS`` random places (y, x), top to bottom."""
    rng = rng_for(seed, "qc", 0)
    side = min(CROP_PX, *shape)
    if len(places):
        places = places[rng.choice(len(places), min(QC_CROPS, len(places)), replace=False)]
    windows = []
    for place in places[np.lexsort((places[:, 1], places[:, 0]))]:
        top, left = (
            int(np.clip(round(middle) - side // 2, 0, size - side))
            for middle, size in zip(place, shape, strict=True)
        )
        windows.append((slice(top, top + side), slice(left, left + side)))
    return windows
