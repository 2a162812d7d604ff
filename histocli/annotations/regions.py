"""Regions of a slide that a user drew: GeoJSON, as QuPath exports it, or a mask image.

GeoJSON polygons are in level-0 pixels of the slide, x before y, from the outer corner of the first
pixel. A mask image covers the whole slide at any size; pixels that are not 0 are inside.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from skimage.draw import polygon as polygon_pixels

from histocli.annotations.geojson import read_geojson_regions
from histocli.annotations.labels import Shape
from histocli.annotations.outlines import unzipped
from histocli.annotations.polygons import Polygon
from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.types import BoolMask
from histocli.slides.open import read_image

GEOJSON_SUFFIXES = (".geojson", ".json", ".geojson.gz")


def read_regions(path: Path) -> Callable[[Shape, float], BoolMask]:
    """Read a file of regions; return a function that tells which pixels of a grid are inside.

    The function takes the grid's height and width, and the side of a grid pixel in level-0 pixels.

    Raises
    ------
    InputNotFound
        There is no such file.
    InvalidInput
        The file is neither GeoJSON with polygons nor an image.
    """
    if not path.is_file():
        raise InputNotFound(f"{path}: no such file of regions; --roi takes GeoJSON or a mask image")
    if not path.name.lower().endswith(GEOJSON_SUFFIXES):
        return partial(_resized, read_image(path, mpp=1.0).pixels.max(axis=2) > 0)
    try:
        polygons = read_geojson_regions(path, unzipped(path.read_bytes()))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InvalidInput(
            f"{path}: is no GeoJSON ({str(error)[:100]}); export annotations from QuPath as GeoJSON"
        ) from error
    if not polygons:
        raise InvalidInput(f"{path}: holds no polygon; draw at least one region")
    return partial(_drawn, polygons)


def _resized(mask: BoolMask, shape: Shape, _: float) -> BoolMask:
    """Bring a mask of the whole slide to the size of a grid."""
    size = (shape[1], shape[0])
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized.astype(bool))


def _drawn(polygons: Sequence[Polygon], shape: Shape, factor: float) -> BoolMask:
    """Draw polygons of slide pixels on a grid whose pixels are ``factor`` slide pixels wide."""
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        inside = np.zeros(shape, bool)
        for number, ring in enumerate(polygon):
            # the first pixel has its centre at 0 in scikit-image and at one half in GeoJSON
            x, y = (ring / factor - 0.5).T
            inside[polygon_pixels(y, x, shape)] = number == 0  # the other rings are holes
        mask |= inside
    return mask


def find_regions(roi: Path, stem: str) -> Path:
    """Return the file of a slide's regions: ``roi``, or the file ``roi/<stem>.<suffix>``."""
    if not roi.is_dir():
        return roi
    for suffix in (*GEOJSON_SUFFIXES, ".png", ".tif", ".tiff"):
        if (path := roi / f"{stem}{suffix}").is_file():
            return path
    raise InputNotFound(
        f"{roi}: holds no regions for {stem}; {stem}.geojson or {stem}.png is expected"
    )
