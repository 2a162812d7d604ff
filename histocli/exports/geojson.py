"""Outlines of nuclei as compressed GeoJSON, in slide pixels; each is a QuPath ``detection``.

The record of how the file was made is the member ``histosynth``, before ``features``.
"""

import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import valid_unicode
from histocli.base.types import Json
from histocli.exports.content import Content
from histocli.instances.outlines import trace_outlines

GZIP_LEVEL = 4  # level 9 takes three times as long for a twentieth of the bytes
BLOCK_PX = 4096  # side of the squares of the slide that are traced one at a time
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "histosynth/nuclei")
LONGEST_RECORD = 1 << 16  # uncompressed bytes that a reader takes; the record must end in them
FEATURES = b',"features":['
MEASURED = {
    "area_um2": "Area um^2",
    "eccentricity": "Eccentricity",
    "hematoxylin": "Hematoxylin mean",
    "probability": "Probability",
}
"""Columns that are written as QuPath measurements, with their names in QuPath."""


def write_outlines(path: Path, content: Content, record: Json) -> None:
    """Write the outlines of all nuclei, one square of the slide after the other.

    The UUID (version 5) of a nucleus depends on slide, model and id only. Coordinates are in slide
    pixels from the outer (top left) corner of the slide's first pixel.
    """
    source = "/".join(record.get(of, {}).get("sha256", "") for of in ("source", "model"))
    columns = content.nuclei.columns
    boxes = np.asarray(columns["box"][...])
    measured = {
        title: np.asarray(columns[name][...]) for name, title in MEASURED.items() if name in columns
    }
    with (
        replace_atomically(path) as partial,
        partial.open("wb") as file,
        # without a name, since that of the unfinished file differs from run to run
        gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as stream,
    ):
        stream.write(b'{"type":"FeatureCollection","%s":' % ATTRIBUTE.encode())
        stream.write(orjson.dumps(valid_unicode(record)))
        stream.write(FEATURES)
        separator = b"\n"
        for rows in _squares(boxes):
            box = boxes[rows]
            top, left = int(box[:, 0].min()), int(box[:, 1].min())
            labels = content.nuclei.level(0)[top : box[:, 2].max(), left : box[:, 3].max()]
            polygons = trace_outlines(np.asarray(labels), rows + 1, box, (top, left))
            values = [column[rows].tolist() for column in measured.values()]
            lines = [
                _feature(uuid.uuid5(NAMESPACE, f"{source}/{number}"), polygon, measured, row)
                for number, polygon, *row in zip(
                    (rows + 1).tolist(), polygons, *values, strict=True
                )
            ]
            stream.write(separator + b",\n".join(lines))
            separator = b",\n"
        stream.write(b"\n]}\n")


def _squares(boxes: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield, for each square of the slide, the table rows of nuclei whose box begins in it."""
    if not len(boxes):
        return
    place = (boxes[:, 0] // BLOCK_PX).astype(np.int64) << 32 | boxes[:, 1] // BLOCK_PX
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order])) + 1
    yield from map(np.sort, np.split(order, starts))


def _feature(name: uuid.UUID, polygon: Any, titles: Any, values: list[float]) -> bytes:
    told = ",".join(f'"{title}":{value:.4g}' for title, value in zip(titles, values, strict=True))
    ring = orjson.dumps(polygon, option=orjson.OPT_SERIALIZE_NUMPY)
    ring = ring.replace(b".0,", b",").replace(b".0]", b"]")
    return (
        b'{"type":"Feature","id":"%s","geometry":{"type":"Polygon","coordinates":[%s]},'
        b'"properties":{"objectType":"detection","measurements":{%s}}}'
        % (str(name).encode(), ring, told.encode())
    )


def read_geojson_record(path: Path) -> Any:
    """Return the record of a GeoJSON file."""
    with gzip.open(path, "rb") as stream:
        head = stream.read(LONGEST_RECORD)
    return json.loads(head[: head.index(FEATURES)] + b"}")[ATTRIBUTE]
