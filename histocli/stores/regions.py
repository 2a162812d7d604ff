"""Regions that a user drew: GeoJSON (QuPath's export) or a mask image, as a mask on the grid of an
overview.

GeoJSON polygons are in level-0 pixels of the slide, x before y, from the outer corner of the first
pixel. A mask image covers the whole slide at any size; what is not 0 is inside.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.types import BoolMask
from histocli.stores.slides import read_image

GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz")
MASK_SUFFIXES = (".png", ".tif", ".tiff")


class Regions:
    """What is inside, of one file.

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        It is neither GeoJSON with polygons nor an image.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputNotFound(
                f"{path}: no such file of regions; --roi takes GeoJSON or a mask image"
            )
        self.path = path
        self._polygons: list[list[npt.NDArray[np.float64]]] | None = None
        if path.name.lower().endswith(GEOJSON_SUFFIXES):
            self._polygons = _read_polygons(path)
        else:
            self._mask = read_image(path, mpp=1.0).pixels.max(axis=2) > 0

    def mask(self, shape: tuple[int, int], factor: float) -> BoolMask:
        """Return the regions on a grid.

        Parameters
        ----------
        shape : (int, int)
            Height and width of the grid.
        factor : float
            Slide pixels along a side of a pixel of the grid.
        """
        if self._polygons is None:
            size = (shape[1], shape[0])
            return np.asarray(
                cv2.resize(
                    self._mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT
                ).astype(bool)
            )
        mask = np.zeros(shape, bool)
        for rings in self._polygons:
            canvas = np.zeros(shape, bool)
            for number, ring in enumerate(rings):  # the first is the outside, the others are holes
                # pixel centres count from 0 when drawing, and from one half in GeoJSON
                x, y = (ring / factor - 0.5).T
                canvas[polygon(y, x, shape)] = not number
            mask |= canvas
        return mask


def find_regions(roi: Path, stem: str) -> Path:
    """Return the file of regions for a slide: ``roi`` itself, or the file of the slide's name in
    that folder.

    Raises
    ------
    InputNotFound
        There is none.
    """
    if not roi.is_dir():
        return roi
    for suffix in (*GEOJSON_SUFFIXES, *MASK_SUFFIXES):
        if (roi / f"{stem}{suffix}").is_file():
            return roi / f"{stem}{suffix}"
    raise InputNotFound(
        f"{roi}: holds no regions for {stem}; {stem}.geojson or {stem}.png is expected"
    )


def _read_polygons(path: Path) -> list[list[npt.NDArray[np.float64]]]:
    try:
        content = path.read_bytes()
        tree = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
        polygons = [[_ring(ring) for ring in rings] for rings in _polygons_of(tree)]
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InvalidInput(
            f"{path}: is no GeoJSON ({str(error)[:100]}); export annotations from QuPath as GeoJSON"
        ) from error
    if not polygons:
        raise InvalidInput(f"{path}: holds no polygon; draw at least one region")
    return polygons


def _polygons_of(node: Any) -> Iterator[Any]:
    """Yield the rings of all polygons of a GeoJSON object."""
    if isinstance(node, list):  # QuPath also writes plain lists of features
        for item in node:
            yield from _polygons_of(item)
        return
    match node["type"]:
        case "FeatureCollection":
            yield from _polygons_of(node["features"])
        case "Feature":
            yield from _polygons_of(node["geometry"])
        case "GeometryCollection":
            yield from _polygons_of(node["geometries"])
        case "Polygon":
            yield node["coordinates"]
        case "MultiPolygon":
            yield from node["coordinates"]


def _ring(ring: Any) -> npt.NDArray[np.float64]:
    points = np.asarray([point[:2] for point in ring], np.float64)
    if points.ndim != 2 or len(points) < 3 or not all(map(math.isfinite, points.ravel())):
        raise ValueError("a ring needs three finite points or more")
    return points
