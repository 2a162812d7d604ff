"""Pictures that ``evaluate --overlays`` writes: every image with the verdict on each nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histocli import __version__
from histocli.base.errors import InvalidInput, StoreExists
from histocli.base.formats import FORMATS
from histocli.base.progress import Track, silent
from histocli.base.types import Json, RGBImage
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateFiles
from histocli.exports.pictures import OVERLAY_LINE_UM, write_png
from histocli.exports.registry import read_record
from histocli.figures.colours import LINE, PALETTE, Colours, graded
from histocli.figures.fates import fate_overlay
from histocli.figures.overlays import add_colour_bar, add_scale_bar, outline_overlay
from histocli.stages.evaluate.drawn import Drawn, drawn, find_pictures
from histocli.stages.evaluate.scores import EvaluateResult, ImageScores, short_names

CONTRACT = "histosynth-verdicts/1"


def write_overlays(
    results: Sequence[EvaluateResult],
    files: EvaluateFiles,
    execution: Execution,
    *,
    track: Track = silent,
) -> list[Path]:
    """Write a picture of each image and prediction, and return the paths.

    Of an image as large as a slide only the square with most mistakes is drawn. With several
    predictions each has a folder of its own.

    Raises
    ------
    StoreExists
        Another picture lies in the way, or one of ours without ``overwrite``.
    InputNotFound, InvalidInput
        A picture of ``files.images`` cannot be read.
    """
    assert files.overlays is not None, "the caller checks that overlays are wanted"
    names = short_names([result.input for result in results])
    several = len(results) > 1
    todo = [
        (image, _target(files.overlays / name if several else files.overlays, image))
        for name, result in zip(names, results, strict=True)
        for image in result.images
    ]
    for _, target in todo:
        _check(target, execution)
    wanted = {image.name for image, _ in todo}
    pictures = {} if files.images is None else find_pictures(files.images, wanted)
    with track("drawing overlays", len(todo)) as bar:
        for image, target in todo:
            shown = drawn(image, pictures.get(image.name) or image.pair.truth.image)
            write_png(target, _picture(image, shown, files), _record(image, files))
            bar.advance(1, target.name)
    return [target for _, target in todo]


def _target(folder: Path, image: ImageScores) -> Path:
    return folder / f"{image.name}{FORMATS['overlay'].suffix}"


def _check(target: Path, execution: Execution) -> None:
    """Raise ``StoreExists`` where a picture lies at the target that may not be replaced."""
    if not target.exists():
        return
    record = read_record(target)
    if record is None or record.get("contract") != CONTRACT:
        raise StoreExists(
            f"{target}: exists and was not drawn by evaluate; choose another --overlays"
        )
    if not execution.overwrite:
        raise StoreExists(
            f"{target}: exists; replace it with --overwrite or choose another --overlays"
        )


def _record(image: ImageScores, files: EvaluateFiles) -> Json:
    return {
        "contract": CONTRACT,
        "command": "evaluate",
        "package_version": __version__,
        "config": {"colour": files.colour, "thickness": files.thickness},
        "prediction": image.pair.prediction.source,
        "truth": image.pair.truth.labels.source,
        "complete": True,
    }


def _picture(image: ImageScores, shown: Drawn, files: EvaluateFiles) -> RGBImage:
    mpp = image.pixel_size.mpp
    thick = files.thickness or max(1, round(OVERLAY_LINE_UM / mpp))
    if files.colour == "verdict":
        picture = fate_overlay(shown.pixels, shown.truth, shown.prediction, thickness_px=thick)
        return add_scale_bar(picture, mpp)
    labels = shown.prediction.labels
    colours, key = _colours(image, shown, files.colour)
    picture = outline_overlay(shown.pixels, labels, thickness_px=thick, colours=colours)
    picture = add_scale_bar(picture, mpp)
    return add_colour_bar(picture, *key) if key else picture


def _colours(
    image: ImageScores, shown: Drawn, colour: str
) -> tuple[Colours, tuple[float, float, str] | None]:
    """Return the colours of predicted nuclei by number, and the ends and name of a scale."""
    labels = shown.prediction.labels
    if colour == "one" or not labels.max(initial=0):
        return LINE, None
    if colour == "id":
        return PALETTE, None
    if colour == "area":
        values = np.bincount(np.maximum(labels, 0).ravel(), minlength=len(shown.predicted_ids) + 1)
        areas = values[1:] * image.pixel_size.mpp**2
        low, high = (float(end) for end in np.percentile(areas[areas > 0], [5, 95]))
        return np.concatenate([LINE, graded(areas, low, high)]), (low, high, "area, um2")
    chances = _probabilities(image, shown)
    low = float(np.floor(10 * np.nanmin(chances)) / 10)
    return np.concatenate([LINE, graded(chances, low, 1.0)]), (low, 1.0, "probability")


def _probabilities(image: ImageScores, shown: Drawn) -> npt.NDArray[np.float64]:
    """Return the probability of each predicted nucleus; ``InvalidInput`` if none are recorded."""
    read = image.pair.prediction.probabilities
    found = None if read is None else read()
    if found is None:
        raise InvalidInput(
            f"{image.pair.prediction.source}: records no probabilities, which label stores of "
            "segment do; choose another --colour"
        )
    ids, values = found
    at = np.minimum(np.searchsorted(ids, shown.predicted_ids), len(ids) - 1)
    return np.where(ids[at] == shown.predicted_ids, values[at], np.nan)
