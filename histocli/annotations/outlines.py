"""Outlines drawn by people or programs, as files of polygons: GeoJSON and Aperio ImageScope XML.

``.geojson``, ``.geojson.gz``
    See :mod:`histocli.annotations.geojson`. Polygons and MultiPolygons are read, with holes. Of a
    QuPath cell, the outline of the nucleus is read if the file has one, else that of the cell. A
    feature whose class begins with ``Ignore`` marks ignored pixels. Features without an area, those
    of ``objectType`` ``tma_core``, and the annotations of a file that also holds detections or
    cells, are left out.
``.xml``
    ``Annotations/Annotation/Regions/Region/Vertices/Vertex`` with ``X`` and ``Y``, as ImageScope
    and the MoNuSeg challenge write them. A region with ``NegativeROA="1"`` is a hole.
    ``MicronsPerPixel`` is used if a microscope can have it.

Coordinates are pixels of the full resolution, from the outer corner of the first pixel, so pixel
centres have coordinates such as 0.5. A pixel belongs to a polygon if its centre lies inside an odd
number of rings. Where polygons overlap, the later one in the file counts. Files do not record the
image size; it comes from the labels or image with which the outlines are compared.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon as polygon_pixels
from skimage.draw import polygon2mask

from histocli.annotations.geojson import read_geojson
from histocli.annotations.labels import OpenLabels, Shape
from histocli.annotations.polygons import Outline, Polygon, Ring, ring_of
from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.units import sane_mpp

logger = logging.getLogger(__name__)

OUTLINE_SUFFIXES = (".geojson", ".geojson.gz", ".xml")
"""Suffixes of files of outlines, in lower case."""

PIXEL_CENTRE = (-0.5 + 1e-7, -0.5 + 0.618e-7)
"""Added to rows and columns, because scikit-image has pixel centres at whole numbers. The small
fractions move edges off pixel centres: of two polygons with a common edge through the centre of a
pixel, only one covers it. Without them both would, and simplified outlines would be too large."""


@dataclass(frozen=True)
class Outlines:
    """The outlines of a file, which can be drawn as a label image of any size."""

    source: str  # for messages
    outlines: tuple[Outline, ...]
    mpp: float | None = None
    shape: None = None
    """Outlines have no size of their own."""

    @property
    def extent(self) -> Shape:
        """Height and width of the smallest image that holds all outlines."""
        polygons = chain.from_iterable(outline.polygons for outline in self.outlines)
        corners = [ring.max(axis=0) for polygon in polygons for ring in polygon]
        width, height = np.ceil(np.max([(0, 0), *corners], axis=0))
        return int(height), int(width)

    def on(self, shape: Shape) -> OpenLabels:
        """Draw the outlines as labels of this shape; log a warning if they reach beyond it."""
        height, width = self.extent
        if height > shape[0] + 1 or width > shape[1] + 1:
            logger.warning(
                "%s: outlines reach to row %d and column %d, beyond its partner of %d x %d pixels; "
                "are both of one resolution?",
                self.source,
                height,
                width,
                *shape,
            )
        return OpenLabels.in_memory(self.draw(shape), self.source, self.mpp)

    def draw(self, shape: Shape) -> npt.NDArray[np.int32]:
        """Draw the outlines, cut at the image border: k = nucleus k of the file, -1 = ignored."""
        labels = np.zeros(shape, np.int32)
        number = 0
        for outline in self.outlines:
            number += not outline.ignored
            for polygon in outline.polygons:
                labels[pixels_of(polygon, shape)] = -1 if outline.ignored else number
        return labels


Opened: TypeAlias = OpenLabels | Outlines
"""Opened labels of one image: an image of a fixed size, or outlines without one."""


def pixels_of(polygon: Polygon, shape: Shape) -> tuple[npt.NDArray[np.intp], ...]:
    """Return rows and columns of the pixels whose centre lies inside an odd number of rings."""
    x, y = polygon[0].T
    if len(polygon) == 1:
        rows, columns = polygon_pixels(y + PIXEL_CENTRE[0], x + PIXEL_CENTRE[1], shape)
        return rows, columns
    top, left = max(int(y.min()), 0), max(int(x.min()), 0)
    bottom, right = min(int(np.ceil(y.max())), shape[0]), min(int(np.ceil(x.max())), shape[1])
    inside = np.zeros((max(bottom - top, 0), max(right - left, 0)), bool)
    if inside.size:
        for ring in polygon:
            inside ^= polygon2mask(inside.shape, ring[:, ::-1] + PIXEL_CENTRE - (top, left))
    rows, columns = np.nonzero(inside)
    return rows + top, columns + left


def read_outlines(path: Path) -> Outlines:
    """Read a file of outlines.

    Parameters
    ----------
    path : Path
        ImageScope XML where it ends in ``.xml``, else GeoJSON; may be gzipped.

    Returns
    -------
    Outlines

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        The file cannot be read, or is neither kind of file; the message names the broken rule.
    """
    if not path.is_file():
        raise InputNotFound(f"{path}: no such annotation file; check the path")
    try:
        content = unzipped(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path}: cannot be unzipped ({error}); is the file damaged?") from error
    is_xml = path.name.lower().endswith(".xml")
    if is_xml:
        return _read_xml(path, content)
    return Outlines(str(path), read_geojson(path, content))


def unzipped(content: bytes) -> bytes:
    """Return the content of a file that may be gzipped; its first bytes tell, not its name."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _message(error: Exception) -> str:
    return " ".join(str(error).split())


class _ImageScope:
    """Collects the regions of an ImageScope file while the XML is parsed."""

    def __init__(self) -> None:
        self.mpp: float | None = None
        self.root = ""
        self.regions: list[tuple[bool, list[tuple[float, float]]]] = []
        """For each region: whether it is a hole, and its corners (x, y)."""

    def start(self, name: str, values: dict[str, str]) -> None:
        self.root = self.root or name
        if name == "Annotations":
            try:
                self.mpp = sane_mpp(float(values.get("MicronsPerPixel", "nan")))
            except ValueError:
                self.mpp = None
        elif name == "Region":
            self.regions.append((values.get("NegativeROA") == "1", []))
        elif name in ("Vertex", "V") and self.regions:
            self.regions[-1][1].append((float(values["X"]), float(values["Y"])))

    def refuse_entity(self, *_: object) -> None:
        raise ValueError("it declares entities, which annotation files never do")


def _read_xml(path: Path, content: bytes) -> Outlines:
    found = _ImageScope()
    parser = expat.ParserCreate()
    parser.StartElementHandler = found.start
    parser.EntityDeclHandler = found.refuse_entity  # entities can expand without limit
    try:
        parser.Parse(content, True)
    except KeyError as error:
        raise InvalidInput(
            f"{path}: a Vertex has no {error}; ImageScope writes X and Y of each"
        ) from error
    except (expat.ExpatError, ValueError) as error:
        raise InvalidInput(
            f"{path}: cannot be read as XML ({_message(error)}); is the file damaged?"
        ) from error
    if found.root != "Annotations":
        raise InvalidInput(
            f"{path}: its root is {found.root!r}, but an ImageScope file has Annotations; "
            "export it as such"
        )
    polygons: list[Polygon] = []
    broken: list[str] = []
    for number, (is_hole, points) in enumerate(found.regions, 1):
        if len(points) < 3:
            continue  # a point or a line has no area
        try:
            ring = ring_of(points)
        except ValueError as error:
            broken.append(f"region {number}: {error}")
            continue
        if not is_hole:
            polygons.append((ring,))
        elif (holder := _last_around(polygons, ring)) is not None:
            polygons[holder] = (*polygons[holder], ring)
    if broken:
        text = "%s: %d of %d regions are no polygons and are left out (%s)"
        logger.warning(text, path, len(broken), len(found.regions), "; ".join(broken[:3]))
    outlines = tuple(Outline((polygon,)) for polygon in polygons)
    return Outlines(str(path), outlines, found.mpp)


def _last_around(polygons: list[Polygon], hole: Ring) -> int | None:
    """Return the index of the last polygon whose bounding box holds the hole, None for none."""
    for index, (outer, *_) in reversed(list(enumerate(polygons))):
        if (outer.min(axis=0) <= hole.min(axis=0)).all() and (
            outer.max(axis=0) >= hole.max(axis=0)
        ).all():
            return index
    return None
