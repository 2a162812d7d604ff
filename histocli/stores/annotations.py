"""Outlines drawn by people or programs, as files of polygons: GeoJSON and Aperio ImageScope XML.

=====================  ===============================================================================================
``.geojson``,          A FeatureCollection, a list of features or one feature, as QuPath and this program write them; may be
``.geojson.gz``        gzipped. Polygons and MultiPolygons with holes count. Of a QuPath cell the nucleus counts where it is
                       given. A feature whose class begins with ``Ignore`` marks pixels that are
                       ignored; one whose ``objectType`` is ``tma_core``, and features without an
                       area, are left out.
``.xml``               ``Annotations/Annotation/Regions/Region/Vertices/Vertex`` with ``X`` and ``Y``, as ImageScope and the
                       MoNuSeg challenge write them. A region with ``NegativeROA="1"`` is a hole.
                       ``MicronsPerPixel`` is taken where it makes sense.
=====================  ===============================================================================================

Coordinates are pixels of the full resolution, from the corner of the first pixel, so a pixel's
centre lies at half integers. A pixel belongs to a polygon when its centre lies inside (even-odd
rule); of two polygons that share a line through a centre, one has the pixel. Where polygons
overlap, the later one in the file wins. Files do not say how large the image is: that comes from
what they are compared with.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
import orjson
from skimage.draw import polygon as polygon_pixels
from skimage.draw import polygon2mask

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.units import sane_mpp

ANNOTATION_SUFFIXES = (".geojson", ".geojson.gz", ".xml")
# how a QuPath class that is not to be counted begins
IGNORE_CLASS = re.compile(r"ignore", re.IGNORECASE)
NO_NUCLEI = ("tma_core",)

CENTRE = (-0.5 + 1e-7, -0.5 + 0.618e-7)
"""scikit-image has centres at whole numbers. The rest decides ties: of two polygons that share an
edge through the centre of a pixel, one has the pixel; without it both would, and straightened
outlines would be too large."""

Ring = npt.NDArray[np.float64]
"""(n, 2) x and y of the corners of a closed line, n >= 3."""


@dataclass(frozen=True)
class Outline:
    """One nucleus, or an area to ignore."""

    parts: tuple[tuple[Ring, ...], ...]
    """Of each part the outer ring, then its holes."""
    ignored: bool = False


@dataclass(frozen=True)
class Annotations:
    """What a file holds."""

    path: Path
    outlines: tuple[Outline, ...]
    mpp: float | None = None
    """Micrometres per pixel; None where the file does not say."""

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the smallest image that holds everything."""
        corners = [
            ring.max(axis=0) for outline in self.outlines for part in outline.parts for ring in part
        ]
        if not corners:
            return 0, 0
        width, height = np.ceil(np.max(corners, axis=0))
        return max(0, int(height)), max(0, int(width))

    def labels(self, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
        """Draw the outlines.

        Parameters
        ----------
        shape : (int, int)
            Height and width of the image; what lies outside is cut off.

        Returns
        -------
        ndarray of int32, shape (H, W)
            0 = background, k = the k-th nucleus of the file, -1 = ignored.
        """
        labels = np.zeros(shape, np.int32)
        number = 0
        for outline in self.outlines:
            number += not outline.ignored
            for part in outline.parts:
                rows, columns = _pixels(part, shape)
                labels[rows, columns] = -1 if outline.ignored else number
        return labels


def _pixels(
    rings: tuple[Ring, ...], shape: tuple[int, int]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the pixels whose centre lies inside the first ring and in none of the others."""
    x, y = rings[0].T
    if len(rings) == 1:
        rows, columns = polygon_pixels(y + CENTRE[0], x + CENTRE[1], shape)
        return rows, columns
    top, left = max(int(y.min()), 0), max(int(x.min()), 0)
    bottom, right = min(int(np.ceil(y.max())), shape[0]), min(int(np.ceil(x.max())), shape[1])
    if bottom <= top or right <= left:
        nothing = np.zeros(0, np.intp)
        return nothing, nothing
    box = bottom - top, right - left
    inside = np.zeros(box, bool)
    for ring in rings:
        inside ^= polygon2mask(box, ring[:, ::-1] + CENTRE - (top, left))
    rows, columns = np.nonzero(inside)
    return rows + top, columns + left


def read_annotations(path: str | Path) -> Annotations:
    """Read outlines.

    Parameters
    ----------
    path : str or Path
        A file of :data:`ANNOTATION_SUFFIXES`.

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        It cannot be read, or is neither kind of file; the message says which rule it breaks.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFound(f"{path}: no such annotation file; check the path")
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInput(
                f"{path}: cannot be unzipped ({error}); is the file damaged?"
            ) from error
    return (
        _read_xml(path, content)
        if path.name.lower().endswith(".xml")
        else _read_geojson(path, content)
    )


def _read_geojson(path: Path, content: bytes) -> Annotations:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(
            f"{path}: is no JSON ({' '.join(str(error).split())}); a GeoJSON file was expected"
        ) from error
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    features = [document] if isinstance(document, dict) else document
    if not isinstance(features, list):
        raise InvalidInput(
            f"{path}: holds no features; GeoJSON is a FeatureCollection, a list of features or one feature"
        )
    outlines = []
    for number, feature in enumerate(features):
        if not isinstance(feature, dict) or not isinstance(feature.get("properties") or {}, dict):
            raise InvalidInput(
                f"{path}: feature {number} is no object with geometry and properties"
            )
        properties = feature.get("properties") or {}
        if properties.get("objectType") in NO_NUCLEI:
            continue
        geometry = (
            feature.get("nucleusGeometry")
            or properties.get("nucleusGeometry")
            or feature.get("geometry")
        )
        parts = tuple(_geojson_parts(geometry, path, number))
        if parts:
            kind = properties.get("classification")
            name = kind.get("name") if isinstance(kind, dict) else kind
            outlines.append(
                Outline(parts, isinstance(name, str) and IGNORE_CLASS.match(name) is not None)
            )
    if features and not outlines:
        raise InvalidInput(
            f"{path}: none of {len(features)} features is a polygon; nuclei are Polygon or MultiPolygon features"
        )
    return Annotations(path, tuple(outlines))


def _geojson_parts(geometry: Any, path: Path, number: int) -> Iterator[tuple[Ring, ...]]:
    if not isinstance(geometry, dict):
        return
    polygons: list[Any]
    match geometry.get("type"):
        case "Polygon":
            polygons = [geometry.get("coordinates")]
        case "MultiPolygon":
            polygons = geometry.get("coordinates") or []
        case "GeometryCollection":
            for each in geometry.get("geometries") or []:
                yield from _geojson_parts(each, path, number)
            return
        case _:  # points and lines have no area
            return
    for rings in polygons:
        try:
            # a third number is a height
            part = tuple(_ring([point[:2] for point in ring]) for ring in rings)
        except (TypeError, ValueError, IndexError) as error:
            raise InvalidInput(
                f"{path}: the coordinates of feature {number} are no polygon ({' '.join(str(error).split())}); a ring is a list "
                "of at least three points [x, y]"
            ) from error
        if part:
            yield part


def _ring(points: Iterable[Any]) -> Ring:
    ring = np.array(list(points), np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError(f"a ring has shape {ring.shape}")
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is no finite number")
    return ring


class _ImageScope:
    """Collects regions while the file is parsed: entities are never expanded and nothing is
    fetched.
    """

    def __init__(self) -> None:
        self.mpp: float | None = None
        self.root = ""
        self.regions: list[tuple[bool, list[tuple[float, float]]]] = []
        self._depth = 0

    def start(self, name: str, values: dict[str, str]) -> None:
        if not self._depth:
            self.root = name
        self._depth += 1
        if name == "Annotations":
            try:
                mpp = float(values.get("MicronsPerPixel", "nan"))
            except ValueError:
                mpp = float("nan")
            self.mpp = sane_mpp(mpp)
        elif name == "Region":
            self.regions.append((values.get("NegativeROA") == "1", []))
        elif name in ("Vertex", "V") and self.regions:
            self.regions[-1][1].append((float(values["X"]), float(values["Y"])))

    def end(self, _: str) -> None:
        self._depth -= 1


def _read_xml(path: Path, content: bytes) -> Annotations:
    found = _ImageScope()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end

    def refuse(*_: object) -> None:
        raise ValueError("it declares entities, which annotation files never do")

    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except KeyError as error:
        raise InvalidInput(
            f"{path}: a Vertex has no {error}; ImageScope writes X and Y of each"
        ) from error
    except (expat.ExpatError, ValueError) as error:
        raise InvalidInput(
            f"{path}: cannot be read as XML ({' '.join(str(error).split())}); is the file damaged?"
        ) from error
    if found.root != "Annotations":
        raise InvalidInput(
            f"{path}: its root is {found.root!r}, but an ImageScope file has Annotations; export it as such"
        )
    outlines: list[Outline] = []
    for number, (negative, points) in enumerate(found.regions):
        if len(points) < 3:
            continue  # a click or a line
        try:
            ring = _ring(points)
        except ValueError as error:
            raise InvalidInput(f"{path}: region {number + 1} is no polygon ({error})") from error
        holder = _around(outlines, ring) if negative else None
        if holder is not None:
            (part,) = outlines[holder].parts
            outlines[holder] = Outline(((*part, ring),))
        elif not negative:
            outlines.append(Outline(((ring,),)))
    return Annotations(path, tuple(outlines), found.mpp)


def _around(outlines: list[Outline], hole: Ring) -> int | None:
    """Return the last outline whose box holds the hole."""
    for index in range(len(outlines) - 1, -1, -1):
        outer = outlines[index].parts[0][0]
        if (outer.min(axis=0) <= hole.min(axis=0)).all() and (
            outer.max(axis=0) >= hole.max(axis=0)
        ).all():
            return index
    return None
