"""The worst and the best images of an evaluation, drawn for the report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histocli.annotations.labels import LARGE_PX
from histocli.annotations.pairs import common_shape
from histocli.base.errors import HistosynthError
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track
from histocli.base.types import RGBImage
from histocli.exports.pictures import png_bytes
from histocli.figures.fates import fate_picture
from histocli.figures.report import Gallery, Picture, Section
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.fates import tell_fates
from histocli.slides.open import SLIDE_SUFFIXES, read_image
from histocli.slides.slide import slide_stem
from histocli.stages.evaluate.pairs import SQUARE_PX, read_pair
from histocli.stages.evaluate.scores import EvaluateResult, ImageScores

logger = logging.getLogger(__name__)

EXTREMES = 4
"""Number of worst, and of best, images that a report shows at most."""
MARGIN_PX = 128
"""Width of the border that is read around the shown square, so that its nuclei are whole."""
PLAIN_GREY = 236
"""Grey level, 0 to 255, of the background where there is no picture of the image."""


def find_pictures(words: str, names: Iterable[str]) -> dict[str, Path]:
    """Return the paths, by stem, of the pictures in a folder, glob or list with these stems."""
    wanted = set(names)
    # a folder of results may hold label stores (.zarr) with the names of the images
    suffixes = [suffix for suffix in SLIDE_SUFFIXES if suffix != ".zarr"]
    paths = expand_inputs([words], suffixes=suffixes, what="image")
    return {slide_stem(path): path for path in paths if slide_stem(path) in wanted}


def extremes(
    result: EvaluateResult, suffix: str, pictures: dict[str, Path], track: Track
) -> Iterator[Section]:
    """Yield a gallery of the worst and one of the best images by panoptic quality."""
    ordered = sorted(result.images, key=lambda image: (image.counts.panoptic_quality, image.name))
    n = min(EXTREMES, (len(ordered) + 1) // 2)
    worst, best = ordered[:n], ordered[::-1][: min(EXTREMES, len(ordered) - n)]
    with track("drawing images", len(worst) + len(best)) as bar:
        for title, chosen in (("Worst images", worst), ("Best images", best)):
            shown = []
            for image in chosen:
                path = pictures.get(image.name) or image.pair.truth.image
                shown.append(_drawn(image, path, suffix))
                bar.advance()
            yield Gallery(
                title=f"{title}{suffix}",
                pictures=shown,
                legend=True,
                note="By panoptic quality.",
                group=suffix,
            )


def _drawn(image: ImageScores, path: Path | None, suffix: str) -> Picture:
    """Draw one image; of a large one only the square with most unmatched nuclei."""
    part = _part_to_show(image)
    table = overlaps(part.truth, part.prediction)
    fates = tell_fates(table)
    truth = table.truth.numbered(part.truth)[part.core]
    prediction = table.prediction.numbered(part.prediction)[part.core]
    height, width = truth.shape
    pixels = None if part.large else _pixels_of(image, path, (height, width))
    if pixels is None:
        pixels = np.full((height, width, 3), PLAIN_GREY, np.uint8)
    drawn = fate_picture(
        pixels,
        truth,
        prediction,
        fates.truth,
        fates.prediction,
        most_px=SQUARE_PX,
        mpp=image.pixel_size.mpp,
    )
    counts = image.counts
    which = "; the part with most mistakes" if part.large or max(truth.shape) > SQUARE_PX else ""
    caption = (
        f"PQ {counts.panoptic_quality:.3f}, AJI {counts.aji:.3f}: "
        f"{counts.true_positives} of {counts.n_truth} matched, {image.missed} missed, "
        f"{image.false} false, {counts.splits} split, {counts.merges} merged{which}{suffix}"
    )
    return Picture(png=png_bytes(drawn), title=image.name, caption=caption)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Labels of a whole image; or of its square with most unmatched nuclei, and a border."""

    truth: LabelImage
    prediction: LabelImage
    core: tuple[slice, slice] = (slice(None), slice(None))
    """Rows and columns of the labels that are shown; the rest is the border."""
    large: bool = False
    """Whether the labels are of a part of an image; its picture is not read."""


def _part_to_show(image: ImageScores) -> _Part:
    true, predicted = image.pair.truth.labels.open(), image.pair.prediction.open()
    shape = common_shape(true, predicted)
    if shape[0] * shape[1] < LARGE_PX or true.shape is None or predicted.shape is None:
        truth, prediction = read_pair(image.pair, true, predicted)
        return _Part(truth=truth, prediction=prediction)
    around, core = [], []
    for at, side in zip(image.worst, shape, strict=True):
        part = slice(max(at - MARGIN_PX, 0), min(at + SQUARE_PX + MARGIN_PX, side))
        around.append(part)
        core.append(slice(at - part.start, min(at + SQUARE_PX, side) - part.start))
    rows, columns = around
    return _Part(
        truth=true.on(shape).read(rows, columns),
        prediction=predicted.on(shape).read(rows, columns),
        core=(core[0], core[1]),
        large=True,
    )


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
    if pixels.shape[:2] != shape:
        logger.warning(
            "%s: the picture has %d x %d pixels but its labels %d x %d; "
            "the report shows outlines without it",
            path or image.name,
            *pixels.shape[:2],
            *shape,
        )
        return None
    return pixels
