"""Label TIFF: uint32 labels of a slide at full resolution, compressed, with resolution tags.

The record of how the file was made is JSON in ``ImageDescription``, under the key ``histosynth``.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json
from histocli.exports.content import Content

TILE_PX = 512  # side of a tile; images whose longer side is at most this have strips instead
TILES_AT_ONCE = 8  # neighbouring tiles of a row that are read at once
BIG_BYTES = 2**31  # uncompressed bytes above which BigTIFF is used: classic TIFF ends at 4 GiB
DEFLATE_LEVEL = 1  # labels are runs of equal values: higher levels are slower and save little


def write_label_tiff(path: Path, content: Content, record: Json) -> None:
    """Write the labels of a slide or of a window of it, a few tiles at a time."""
    labels = content.nuclei.level(0)
    if content.window is not None:
        labels = labels[content.window]
    per_cm = 10_000.0 / content.nuclei.mpp
    height, width = labels.shape
    tiled = max(labels.shape) > TILE_PX
    with replace_atomically(path) as partial:
        tifffile.imwrite(
            partial,
            _tiles(labels) if tiled else np.asarray(labels[:, :]).astype(np.uint32, copy=False),
            shape=(height, width),
            dtype=np.uint32,
            bigtiff=4 * height * width > BIG_BYTES,
            photometric="minisblack",
            tile=(TILE_PX, TILE_PX) if tiled else None,
            compression="zlib",
            compressionargs={"level": DEFLATE_LEVEL},
            predictor=False,
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            description=json.dumps({ATTRIBUTE: record}),
            metadata=None,
        )


def _tiles(labels: Any) -> Iterator[npt.NDArray[np.uint32]]:
    """Yield the tiles of a label image, row by row; edge tiles are padded with background."""
    height, width = labels.shape
    step = TILE_PX * TILES_AT_ONCE
    for top in range(0, height, TILE_PX):
        for left in range(0, width, step):
            part = np.asarray(labels[top : top + TILE_PX, left : left + step]).astype(np.uint32)
            columns = -(-part.shape[1] // TILE_PX) * TILE_PX
            part = np.pad(part, ((0, TILE_PX - part.shape[0]), (0, columns - part.shape[1])))
            yield from (
                np.ascontiguousarray(part[:, x : x + TILE_PX]) for x in range(0, columns, TILE_PX)
            )


def read_tiff_record(path: Path) -> Any:
    """Return the record of a label TIFF."""
    with tifffile.TiffFile(path) as tiff:
        return json.loads(str(tiff.pages.first.description))[ATTRIBUTE]
