"""Galleries of a report: the worst and best images, and where two predictions differ most."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from histocli.base.progress import Track
from histocli.exports.pictures import jpeg_bytes
from histocli.figures.fates import fate_picture, worst_window
from histocli.figures.sections import Gallery, Picture
from histocli.stages.evaluate.drawn import drawn
from histocli.stages.evaluate.pairs import SQUARE_PX
from histocli.stages.evaluate.scores import EvaluateResult, ImageScores, short_names

logger = logging.getLogger(__name__)

EXTREMES = 4
"""Number of worst, and of best, images that a report of one prediction shows at most."""
ROWS = 3
"""Number of images, worst and most different ones, that a report of several shows at most."""


def galleries(
    results: Sequence[EvaluateResult], pictures: dict[str, Path], track: Track
) -> Iterator[Gallery]:
    """Yield the galleries of a report, the worst images first."""
    chosen = _of_one(results[0]) if len(results) == 1 else _of_several(results)
    names = short_names([result.input for result in results])
    with track("drawing images", sum(len(rows) for _, _, rows in chosen) * len(results)) as bar:
        for title, note, rows in chosen:
            shown = []
            for row in rows:
                whose = [f" · {name}" if len(results) > 1 else "" for name in names]
                for picture in _pictures(row, pictures, whose):
                    shown.append(picture)
                    bar.advance()
            yield Gallery(
                title=title,
                pictures=shown,
                legend=True,
                note=note,
                columns=max(EXTREMES // len(results), 1) * len(results),
            )


Chosen = list[tuple[str, str, list[list[ImageScores]]]]
"""Title and note of each gallery, and its rows: an image as each prediction has it."""


def _of_one(result: EvaluateResult) -> Chosen:
    ordered = sorted(result.images, key=lambda image: (image.counts.panoptic_quality, image.name))
    n = min(EXTREMES, (len(ordered) + 1) // 2)
    worst, best = ordered[:n], ordered[::-1][: min(EXTREMES, len(ordered) - n)]
    note = "By panoptic quality. Click a picture to enlarge it."
    return [
        ("Worst images", note, [[image] for image in worst]),
        ("Best images", note, [[image] for image in best]),
    ]


def _of_several(results: Sequence[EvaluateResult]) -> Chosen:
    """Choose among the images that all predictions have."""
    by_name = [{image.name: image for image in result.images} for result in results]
    rows = [
        [images[image.name] for images in by_name]
        for image in results[0].images
        if all(image.name in images for images in by_name)
    ]

    def qualities(row: list[ImageScores]) -> list[float]:
        return [image.counts.panoptic_quality for image in row]

    worst = sorted(rows, key=lambda row: (fmean(qualities(row)), row[0].name))[
        : min(ROWS, (len(rows) + 1) // 2)
    ]
    apart = sorted(
        (row for row in rows if row not in worst and max(qualities(row)) > min(qualities(row))),
        key=lambda row: (min(qualities(row)) - max(qualities(row)), row[0].name),
    )[:ROWS]
    beside = "the predictions of an image stand beside each other. Click a picture to enlarge it."
    return [
        ("Worst images", f"By panoptic quality, the mean of all predictions; {beside}", worst),
        ("Largest differences", f"Where panoptic quality differs most; {beside}", apart),
    ]


def _pictures(
    row: Sequence[ImageScores], pictures: dict[str, Path], whose: Sequence[str]
) -> Iterator[Picture]:
    """Draw one image as each prediction has it, all in the same square of at most ``SQUARE_PX``."""
    path = pictures.get(row[0].name) or row[0].pair.truth.image
    shown = [drawn(image, path, at=row[0].worst) for image in row]
    window = worst_window([(each.truth, each.prediction) for each in shown], SQUARE_PX)
    for image, each, name in zip(row, shown, whose, strict=True):
        picture = fate_picture(
            each.pixels,
            each.truth,
            each.prediction,
            window=window,
            most_px=SQUARE_PX,
            mpp=image.pixel_size.mpp,
        )
        cut = each.is_part or max(each.pixels.shape[:2]) > SQUARE_PX
        yield Picture(
            content=jpeg_bytes(picture),
            title=image.name + name,
            caption=_caption(image) + ("; the part with most mistakes" if cut else ""),
        )


def _caption(image: ImageScores) -> str:
    counts = image.counts
    return (
        f"PQ {counts.panoptic_quality:.3f}, AJI {counts.aji:.3f}: "
        f"{counts.true_positives} of {counts.n_truth} matched, {image.missed} missed, "
        f"{image.false} false, {counts.splits} split, {counts.merges} merged"
    )
