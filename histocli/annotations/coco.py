"""COCO JSON: the outlines of many images in one file, as detection benchmarks and tools write them.

``images`` have ``id``, ``file_name``, ``height`` and ``width``. ``annotations`` have ``image_id``
and ``segmentation``, which is a list of polygons ``[x1, y1, x2, y2, ...]``, or a run-length
encoding: ``{"size": [height, width], "counts": ...}`` with the lengths of runs of background and
object in turn, column by column, as a list or as COCO's text. Areas with ``iscrowd`` hold nuclei
that were not told apart, and are ignored. One broken object is counted and named; the others are
used.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.annotations.geojson import BROKEN
from histocli.annotations.labels import OpenLabels
from histocli.annotations.outlines import pixels_of
from histocli.annotations.polygons import ring_of
from histocli.base.errors import InvalidInput
from histocli.base.text import first_line

logger = logging.getLogger(__name__)

LARGEST_PX = 2**31
"""Most pixels of an image; a file that says more is damaged."""


class CocoImage(NamedTuple):
    """An image of a COCO file with its objects."""

    name: str
    """Name of the file, without folders."""
    shape: tuple[int, int]
    """Height and width."""
    objects: list[Any]
    """Entries of ``annotations``, in the order of the file."""


def is_coco(document: Any) -> bool:
    """Tell whether a JSON document is a COCO file."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("images"), list)
        and isinstance(document.get("annotations"), list)
    )


def images_of(path: Path, document: Mapping[str, Any]) -> list[CocoImage]:
    """Return the images of a COCO file, each with its objects.

    Raises ``InvalidInput`` for an image without id, name or size, and for objects of no image.
    """
    objects: defaultdict[Any, list[Any]] = defaultdict(list)
    for entry in document["annotations"]:
        if isinstance(entry, dict) and isinstance(entry.get("image_id"), int | str):
            objects[entry["image_id"]].append(entry)
    found, ids = [], set()
    for number, image in enumerate(document["images"]):
        try:
            height, width = int(image["height"]), int(image["width"])
            name = Path(str(image["file_name"]).replace("\\", "/")).name
            if not (name and 0 < height * width <= LARGEST_PX and height > 0):
                raise ValueError(f"{height} x {width} pixels")
            found.append(CocoImage(name, (height, width), objects[image["id"]]))
            ids.add(image["id"])
        except BROKEN as error:
            raise InvalidInput(
                f"{path}: image {number} of its images is broken ({first_line(error)}); a COCO "
                "image has id, file_name, height and width"
            ) from error
    if lost := sorted(map(str, set(objects) - ids)):
        raise InvalidInput(
            f"{path}: has objects of image {lost[0]}, which is not among its images; every "
            "image_id must be the id of an image"
        )
    return found


def draw(path: Path, image: CocoImage) -> OpenLabels:
    """Draw the objects of an image as labels; later ones cover earlier ones."""
    labels = np.zeros(image.shape, np.int32)
    broken: list[str] = []
    number = 0
    for entry in image.objects:
        try:
            inside = _inside(entry["segmentation"], image.shape)
        except BROKEN as error:
            broken.append(f"annotation {entry.get('id', '?')}: {first_line(error)}")
            continue
        ignored = bool(entry.get("iscrowd"))
        number += not ignored
        labels[inside] = -1 if ignored else number
    source = f"{path}, {image.name}"
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        text = "%s: %d of %d objects cannot be drawn and are left out (%s%s)"
        logger.warning(text, source, len(broken), len(image.objects), "; ".join(broken[:3]), more)
    return OpenLabels.in_memory(labels, source)


def _inside(segmentation: Any, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask of an object; raises one of ``BROKEN``."""
    inside = np.zeros(shape, bool)
    if isinstance(segmentation, dict):
        return _decoded(segmentation, shape)
    if not segmentation:
        raise ValueError("has no polygon")
    for flat in segmentation:
        ring = ring_of(np.asarray(flat, np.float64).reshape(-1, 2))
        inside[pixels_of((ring,), shape)] = True
    return inside


def _decoded(encoding: Mapping[str, Any], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask of a run-length encoding."""
    counts = encoding["counts"]
    runs = np.asarray(_runs(counts) if isinstance(counts, str) else counts, np.int64)
    if tuple(encoding["size"]) != shape:
        raise ValueError(f"size {encoding['size']} is not that of the image")
    if (runs < 0).any() or int(runs.sum()) != shape[0] * shape[1]:
        raise ValueError(f"its runs cover {int(runs.sum())} of {shape[0] * shape[1]} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(shape[1], shape[0]).T


def _runs(text: str) -> Sequence[int]:
    """Decode COCO's text: numbers of 5 bits a character, the lowest first; from the fourth run on,
    differences to the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of a run-length encoding")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("its run-length encoding ends early")
    return runs
