"""Pictures that ``evaluate --overlays`` writes: every image with the verdict on each nucleus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histocli import __version__
from histocli.base.errors import StoreExists
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
    colours, key = _colours(labels, mpp, files.colour)
    picture = outline_overlay(shown.pixels, labels, thickness_px=thick, colours=colours)
    picture = add_scale_bar(picture, mpp)
    return add_colour_bar(picture, *key, "area, um2") if key else picture


def _colours(
    labels: np.ndarray, mpp: float, colour: str
) -> tuple[Colours, tuple[float, float] | None]:
    """Return the colours of predicted nuclei by number, and the ends of a scale of areas."""
    if colour == "one" or not labels.max(initial=0):
        return LINE, None
    if colour == "id":
        return PALETTE, None
    areas = np.bincount(np.maximum(labels, 0).ravel()).astype(np.float64)[1:] * mpp**2
    low, high = (float(end) for end in np.percentile(areas[areas > 0], [5, 95]))
    return np.concatenate([LINE, graded(areas, low, high)]), (low, high)
