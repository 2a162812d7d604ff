"""What a picture of one image shows: labels, the fates of nuclei, and pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histocli.annotations.labels import LARGE_PX
from histocli.annotations.pairs import common_shape
from histocli.base.errors import HistosynthError
from histocli.base.inputs import expand_inputs
from histocli.base.types import IntArray, RGBImage
from histocli.figures.fates import Fated
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.fates import tell_fates
from histocli.slides.open import SLIDE_SUFFIXES, read_image
from histocli.slides.slide import slide_stem
from histocli.stages.evaluate.pairs import SQUARE_PX, read_pair
from histocli.stages.evaluate.scores import ImageScores

logger = logging.getLogger(__name__)

MARGIN_PX = 128
"""Width of the border that is read around the shown square, so that its nuclei are whole."""
PAPER = 236
"""Grey level behind the outlines of an image without pixels."""


def find_pictures(words: str, names: Iterable[str]) -> dict[str, Path]:
    """Return the paths, by stem, of the pictures in a folder, glob or list with these stems."""
    wanted = set(names)
    # a folder of results may hold label stores (.zarr) with the names of the images
    suffixes = [suffix for suffix in SLIDE_SUFFIXES if suffix != ".zarr"]
    paths = expand_inputs([words], suffixes=suffixes, what="image")
    return {slide_stem(path): path for path in paths if slide_stem(path) in wanted}


class Drawn(NamedTuple):
    """An image, or its square with most unmatched nuclei, with the fates of its nuclei."""

    pixels: RGBImage
    truth: Fated
    prediction: Fated
    predicted_ids: IntArray
    """(n,) the label in the prediction of each nucleus of ``prediction``."""
    is_part: bool
    """Whether it is a square of a large image."""


def drawn(image: ImageScores, path: Path | None, at: tuple[int, int] | None = None) -> Drawn:
    """Read what is shown of an image; ``path`` is that of its picture, if it has one.

    ``at`` is the first row and column of the square of a large image; None takes its worst one.
    """
    part = _part_to_show(image, at or image.worst)
    table = overlaps(part.truth, part.prediction)
    fates = tell_fates(table)
    truth = Fated(table.truth.numbered(part.truth)[part.core], fates.truth)
    prediction = Fated(table.prediction.numbered(part.prediction)[part.core], fates.prediction)
    height, width = truth.labels.shape
    pixels = None if part.large else _pixels_of(image, path, (height, width))
    if pixels is None:
        pixels = np.full((height, width, 3), PAPER, np.uint8)
    return Drawn(pixels, truth, prediction, table.prediction.ids, part.large)


class _Part(NamedTuple):
    """Labels of a whole image; or of its square with most unmatched nuclei, and a border."""

    truth: LabelImage
    prediction: LabelImage
    core: tuple[slice, slice] = (slice(None), slice(None))
    """Rows and columns of the labels that are shown; the rest is the border."""
    large: bool = False
    """Whether the labels are of a part of an image; its picture is not read."""


def _part_to_show(image: ImageScores, corner: tuple[int, int]) -> _Part:
    true, predicted = image.pair.truth.labels.open(), image.pair.prediction.open()
    shape = common_shape(true, predicted)
    if shape[0] * shape[1] < LARGE_PX or true.shape is None or predicted.shape is None:
        return _Part(*read_pair(image.pair, true, predicted))
    around, core = [], []
    for at, side in zip(corner, shape, strict=True):
        part = slice(max(at - MARGIN_PX, 0), min(at + SQUARE_PX + MARGIN_PX, side))
        around.append(part)
        core.append(slice(at - part.start, min(at + SQUARE_PX, side) - part.start))
    truth, prediction = (each.on(shape).read(*around) for each in (true, predicted))
    return _Part(truth, prediction, (core[0], core[1]), large=True)


def _pixels_of(image: ImageScores, path: Path | None, shape: tuple[int, int]) -> RGBImage | None:
    """Return the picture of an image; None where it has none or, with a warning, an unfit one."""
    try:
        stored = image.pair.truth.labels.image or image.pair.prediction.image
        if path is not None:
            pixels = read_image(path).pixels
        elif stored is not None:
            pixels = stored()
        else:
            return None
    except HistosynthError as error:
        logger.warning("%s; the report shows outlines without it", error)
        return None
    if pixels.shape[:2] == shape:
        return pixels
    logger.warning(
        "%s: the picture has %d x %d pixels but its labels %d x %d; "
        "the report shows outlines without it",
        path or image.name,
        *pixels.shape[:2],
        *shape,
    )
    return None
