"""GeoJSON, as QuPath, other programs and people write it.

Read are a FeatureCollection, a list of features, one feature, and a bare geometry (RFC 7946 allows
each to be a whole file). What JSON forbids but programs write is read too: a byte order mark,
``NaN`` and ``Infinity``, and names that are no UTF-8. An object that is no polygon is counted and
named in one warning, and the others are used.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from histocli.annotations.polygons import Outline, Polygon, Ring, ring_of
from histocli.base.errors import InvalidInput

logger = logging.getLogger(__name__)

GEOMETRIES = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
    "GeometryCollection",
)  # fmt: skip
NUCLEI = ("detection", "cell")
"""Values of QuPath's ``objectType`` for what was found in the regions of other types."""
REGIONS = ("annotation", "tile", "root")
"""Values of ``objectType`` that are regions, if the file also holds objects of ``NUCLEI``."""
BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""Errors that objects raise which break a rule of GeoJSON."""


def parse_json(content: bytes) -> Any:
    """Parse JSON in any UTF, with or without a byte order mark.

    ``NaN`` and ``Infinity`` become floats, bytes that are no UTF-8 the sign for unknown characters.
    Raises ``ValueError`` for what is no JSON, and for objects nested too deep.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content.decode(json.detect_encoding(content), "replace").lstrip("\ufeff")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("objects are nested too deep") from error


def read_geojson(path: Path, content: bytes) -> tuple[Outline, ...]:
    """Return the outlines of the nuclei, and of areas to ignore, in a GeoJSON file.

    ``path`` is for messages. Raises ``InvalidInput`` if the content is no GeoJSON, or if none of
    its features is a polygon.
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        raise InvalidInput(
            f"{path}: is no JSON ({_message(error)}); a GeoJSON file was expected"
        ) from error
    features = _features(document)
    if features is None:
        raise InvalidInput(
            f"{path}: holds no features; GeoJSON is a FeatureCollection, a list of features, one "
            "feature or one geometry"
        )
    regions = _regions(features)
    chosen = [number for number in range(len(features)) if number not in regions]
    outlines = _outlines(features, chosen, path)
    if features and not outlines:
        raise InvalidInput(
            f"{path}: none of {len(features)} features is a polygon that can be read; nuclei are "
            "Polygon or MultiPolygon features, with rings of at least three points [x, y]"
        )
    return outlines


def read_geojson_regions(path: Path, content: bytes) -> list[Polygon]:
    """Return the polygons of the regions that a user drew; none if the file holds none.

    Where a file of QuPath holds annotations and what was found in them, only the annotations are
    regions. ``path`` is for messages. Raises ``ValueError`` if the content is no GeoJSON.
    """
    features = _features(parse_json(content))
    if features is None:
        raise ValueError("it holds no features")
    chosen = sorted(_regions(features)) or list(range(len(features)))
    return [
        polygon for outline in _outlines(features, chosen, path) for polygon in outline.polygons
    ]


def _outlines(features: list[Any], chosen: list[int], path: Path) -> tuple[Outline, ...]:
    """Return the outlines of some features; warn of those that break a rule of GeoJSON."""
    outlines: list[Outline] = []
    broken: list[str] = []
    for number in chosen:
        try:
            outline = _outline_of(features[number])
        except BROKEN as error:
            broken.append(f"feature {number}: {_message(error)}")
            continue
        outlines += [] if outline is None else [outline]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        text = "%s: %d of %d features are no polygons and are left out (%s%s)"
        logger.warning(text, path, len(broken), len(features), "; ".join(broken[:3]), more)
    return tuple(outlines)


def _features(document: Any) -> list[Any] | None:
    """Return the features of a document, None if it is no GeoJSON; a geometry is a feature here."""
    if isinstance(document, list):
        return document
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        features = document.get("features")
        return features if isinstance(features, list) else None
    if kind == "GeometryCollection" and isinstance(document.get("geometries"), list):
        return list(document["geometries"])
    if kind == "MultiPolygon" and isinstance(document.get("coordinates"), list):
        return [{"type": "Polygon", "coordinates": each} for each in document["coordinates"]]
    # a dictionary of another type is one feature, and maybe a broken one
    return [document] if isinstance(document, dict) else None


def _regions(features: list[Any]) -> frozenset[int]:
    """Return the indices of QuPath's regions in which the nuclei of the file were found."""
    kinds = [_kind_of(feature) for feature in features]
    if not any(kind in NUCLEI for kind in kinds):
        return frozenset()
    return frozenset(
        number
        for number, kind in enumerate(kinds)
        if kind in REGIONS and not _is_ignored(features[number]["properties"])
    )


def _kind_of(feature: Any) -> Any:
    """Return QuPath's type of object of a feature, None for what has none."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    return properties.get("objectType") if isinstance(properties, dict) else None


def _outline_of(feature: Any) -> Outline | None:
    """Return the outline of a feature or geometry, None for one that is left out.

    Raises one of ``BROKEN`` if it breaks a rule of GeoJSON.
    """
    if feature is None:
        return None
    if not isinstance(feature, dict):
        raise TypeError("is no object with geometry and properties")
    if feature.get("type") in GEOMETRIES:
        feature = {"geometry": feature}
    properties = feature.get("properties") or {}
    if not isinstance(properties, dict):
        raise TypeError("its properties are no object")
    if properties.get("objectType") == "tma_core":
        return None
    nucleus = feature.get("nucleusGeometry") or properties.get("nucleusGeometry")
    geometry = nucleus or feature.get("geometry")
    if not isinstance(geometry, dict) or "type" not in geometry:
        return None
    polygons = tuple(polygon for polygon in polygons_of(geometry) if polygon)
    return Outline(polygons, _is_ignored(properties)) if polygons else None


def _is_ignored(properties: dict[str, Any]) -> bool:
    """Tell whether the class of a feature says that its area is to be ignored."""
    kind = properties.get("classification")
    name = kind.get("name") if isinstance(kind, dict) else kind
    return isinstance(name, str) and re.match("ignore", name, re.IGNORECASE) is not None


def _message(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def polygons_of(node: Any) -> Iterator[Polygon]:
    """Yield the polygons of a GeoJSON object, or of a list of objects, which QuPath also writes.

    Raises
    ------
    KeyError, TypeError, ValueError
        The object breaks a rule of GeoJSON.
    """
    if node is None:  # RFC 7946 allows features without a place
        return
    if isinstance(node, list):
        for item in node:
            yield from polygons_of(item)
        return
    match node["type"]:
        case "FeatureCollection":
            yield from polygons_of(node["features"])
        case "Feature":
            yield from polygons_of(node.get("geometry"))
        case "GeometryCollection":
            yield from polygons_of(node["geometries"])
        case "Polygon":
            yield _polygon(node["coordinates"])
        case "MultiPolygon":
            yield from map(_polygon, node["coordinates"])
        # points and lines have no area


def _polygon(rings: Any) -> Polygon:
    """Return the outer ring and its holes; holes without an area are left out.

    A file may name a hole before the outline around it, which then is the outer ring.
    """
    # the third number of a point is a height
    first, *others = [[point[:2] for point in ring] for ring in rings] or [[]]
    if not others:
        return (ring_of(first),)
    found = []
    for ring in (first, *others):
        try:
            found.append(ring_of(ring))
        except ValueError:
            if ring is first:
                raise
    outer = next((n for n, ring in enumerate(found[1:], 1) if _holds(ring, found[0])), 0)
    return (found[outer], *(ring for index, ring in enumerate(found) if index != outer))


def _holds(outer: Ring, inner: Ring) -> bool:
    """Tell whether the bounding box of a ring holds that of another, and is larger."""
    low = (outer.min(axis=0) <= inner.min(axis=0)).all()
    high = (outer.max(axis=0) >= inner.max(axis=0)).all()
    return bool(low and high and (np.ptp(outer, axis=0) > np.ptp(inner, axis=0)).any())
