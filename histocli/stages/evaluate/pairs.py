"""Reading and comparing one pair: the predicted and the true labels of an image."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from histocli.annotations.labels import LARGE_PX, Shape
from histocli.annotations.outlines import Opened
from histocli.annotations.pairs import Pair, Pairs, common_shape
from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput
from histocli.base.parallel import map_in_threads
from histocli.base.units import ASSUMED_MPP
from histocli.config.evaluate import EvaluateConfig
from histocli.instances.overlaps import LabelImage
from histocli.metrics.comparison import Comparison, Rules, compare, compare_windows
from histocli.metrics.distributions import distributions_of, worst_square
from histocli.slides.pixel_size import PixelSize
from histocli.stages.evaluate.scores import ImageScores
from histocli.stages.shared.labels import LABEL_FINDER

logger = logging.getLogger(__name__)

STOPPED = "evaluation stopped; nothing was written, run it again"
SQUARE_PX = 640
"""Side of the square that a report shows of a large image, in pixels."""


def with_ignored(found: Pairs, masks_at: str | None) -> Pairs:
    """Return the pairs with the masks of ``--ignore``; ``InputNotFound`` where one is missing."""
    if masks_at is None:
        return found
    masks = LABEL_FINDER.find(masks_at)
    if len(masks) == len(found.pairs) == 1:
        masks = {found.pairs[0].name: next(iter(masks.values()))}
    missing = [pair.name for pair in found.pairs if pair.name not in masks]
    if missing:
        raise InputNotFound(
            f"--ignore {masks_at}: no mask for {len(missing)} images ({_some(missing)}); "
            "names must agree"
        )
    pairs = tuple(
        replace(pair, truth=replace(pair.truth, ignore=masks[pair.name])) for pair in found.pairs
    )
    return replace(found, pairs=pairs)


def check_partners(prediction: str, found: Pairs, *, tolerant: bool) -> None:
    """Refuse true images without a prediction, and warn of predictions without a truth.

    ``InputNotFound`` is raised for a true image without a prediction; where ``tolerant``, only if
    all are without.
    """
    alone, extra = found.without_prediction, found.without_truth
    if alone and (not tolerant or not found.pairs):
        raise InputNotFound(
            f"{prediction}: no prediction for {len(alone)} of {len(alone) + len(found.pairs)} "
            f"true images ({_some(alone)})"
            + (f", and no truth for the predictions {_some(extra)}" if extra else "")
            + "; names must agree, or name the pairs in a CSV with columns prediction, truth"
        )
    if extra and found.pairs:
        logger.warning(
            "%s: %d predictions have no truth and are left out: %s",
            prediction,
            len(extra),
            _some(extra),
        )


def _some(names: Sequence[str]) -> str:
    """Return the first twenty names as text, and the number of the others."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def score_pair(
    pair: Pair, *, config: EvaluateConfig, workers: int, tolerant: bool
) -> ImageScores | HistosynthError:
    """Read and compare one pair; where ``tolerant``, return an error instead of raising it."""
    try:
        true, predicted = pair.truth.labels.open(), pair.prediction.open()
        pixel_size = _pixel_size(pair, true, predicted, config)
        rules = Rules(
            mpp=pixel_size.mpp,
            radius_um=config.radius_um,
            tolerance_um=config.tolerance_um,
            boundaries=config.boundaries,
            border=config.border,
        )
        found = _compare(pair, true, predicted, rules, workers)
        read = pair.prediction.probabilities
        probabilities = None if read is None else read()
    except HistosynthError as error:
        if not tolerant:
            raise
        return error
    return ImageScores(
        pair=pair,
        counts=found.counts,
        missed=found.fates.missed,
        false=found.fates.false,
        pixel_size=pixel_size,
        worst=worst_square(found, SQUARE_PX),
        distributions=distributions_of(found, pixel_size.mpp, probabilities),
    )


def _pixel_size(pair: Pair, true: Opened, predicted: Opened, config: EvaluateConfig) -> PixelSize:
    """Return the pixel size of an image from the first source that knows one, with a name of it."""
    if true.mpp and predicted.mpp and abs(true.mpp - predicted.mpp) > 0.02 * true.mpp:
        logger.warning(
            "%s says %.4g um/px but %s says %.4g; both have the same pixels, so one is wrong",
            true.source,
            true.mpp,
            predicted.source,
            predicted.mpp,
        )
    for mpp, source in (
        (config.mpp, "given"),
        (pair.truth.mpp, "manifest"),
        (true.mpp, "truth"),
        (predicted.mpp, "prediction"),
    ):
        if mpp is not None:
            return PixelSize(mpp=mpp, source=source)
    return PixelSize(mpp=ASSUMED_MPP, source="assumed")


_one_large = threading.Lock()
"""Held while a large image is compared: each takes all workers and much memory."""


def _compare(pair: Pair, true: Opened, predicted: Opened, rules: Rules, workers: int) -> Comparison:
    """Compare a pair; an image of ``LARGE_PX`` pixels or more is compared window by window.

    An image with a mask of ignored pixels is compared as a whole, whatever its size.
    """
    shape = common_shape(true, predicted)
    for side in (true, predicted):
        if side.shape is not None and side.shape != shape:
            raise InvalidInput(
                f"{side.source} has {_size_text(side.shape)} pixels but {true.source} has "
                f"{_size_text(shape)}; labels are compared pixel by pixel, so both must cover the "
                "same image at the same resolution"
            )
    if shape[0] * shape[1] < LARGE_PX or pair.truth.ignore is not None:
        return compare(*read_pair(pair, true, predicted), rules)

    in_threads = partial(map_in_threads, workers=workers, when_stopped=STOPPED)
    with _one_large:
        return compare_windows(true.on(shape), predicted.on(shape), rules, in_threads)


def read_pair(pair: Pair, true: Opened, predicted: Opened) -> tuple[LabelImage, LabelImage]:
    """Read truth and prediction as arrays of one shape; ignored pixels of the truth are -1."""
    shape = common_shape(true, predicted)
    truth, prediction = true.on(shape).whole(), predicted.on(shape).whole()
    if pair.truth.ignore is not None:
        mask = pair.truth.ignore.open().on(shape)
        if mask.shape != shape:
            raise InvalidInput(
                f"{mask.source} has {_size_text(mask.shape)} pixels but {true.source} has "
                f"{_size_text(shape)}; a mask of what is ignored covers the same image"
            )
        truth = np.where(mask.whole() != 0, -1, truth.astype(np.int64))
    return truth, prediction


def _size_text(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]}"
