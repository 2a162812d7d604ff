"""Pictures and curves of a report: images, patches of stores, and trainings of models."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histocli.annotations.labels import LARGE_PX
from histocli.annotations.pairs import common_shape
from histocli.base.errors import HistosynthError
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track
from histocli.base.types import RGBImage
from histocli.exports.pictures import png_bytes
from histocli.figures.charts import Lines
from histocli.figures.fates import Fated, fate_picture
from histocli.figures.overlays import add_scale_bar
from histocli.figures.report import Charts, Gallery, Picture, Section
from histocli.figures.sheets import patch_sheet, picture_rows
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.fates import tell_fates
from histocli.slides.open import SLIDE_SUFFIXES, read_image
from histocli.slides.slide import slide_stem
from histocli.stages.evaluate.pairs import SQUARE_PX, read_pair
from histocli.stages.evaluate.scores import EvaluateResult, ImageScores
from histocli.stages.shared.real_patches import Cutting, cut_real_patches
from histocli.stages.shared.references import identify_references, recorded_references
from histocli.stores.logs import read_metrics
from histocli.stores.models import read_model_header
from histocli.stores.patches import PatchStore

logger = logging.getLogger(__name__)

EXTREMES = 4
"""Number of worst, and of best, images that a report shows at most."""
MARGIN_PX = 128
"""Width of the border that is read around the shown square, so that its nuclei are whole."""
SHEET_PATCHES = 8
KINDS = ("initial", "refined", "labelled", "reference")
"""Kinds of patches, in the order of their sheets in the report."""


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
            drawn = []
            for image in chosen:
                path = pictures.get(image.name) or image.pair.truth.image
                drawn.append(_drawn(image, path, suffix))
                bar.advance()
            yield Gallery(
                title=f"{title}{suffix}",
                pictures=drawn,
                legend=True,
                note="By panoptic quality.",
                group=suffix,
            )


def _drawn(image: ImageScores, path: Path | None, suffix: str) -> Picture:
    """Draw one image; of a large one only the square with most unmatched nuclei."""
    part = _part_to_show(image)
    table = overlaps(part.truth, part.prediction)
    fates = tell_fates(table)
    truth = Fated(table.truth.numbered(part.truth)[part.core], fates.truth)
    prediction = Fated(table.prediction.numbered(part.prediction)[part.core], fates.prediction)
    height, width = truth.labels.shape
    pixels = None if part.large else _pixels_of(image, path, (height, width))
    if pixels is None:
        pixels = np.full((height, width, 3), 236, np.uint8)  # a light grey
    mpp = image.pixel_size.mpp
    drawn = fate_picture(pixels, truth, prediction, most_px=SQUARE_PX, mpp=mpp)
    counts = image.counts
    which = "; the part with most mistakes" if part.large or max(height, width) > SQUARE_PX else ""
    caption = (
        f"PQ {counts.panoptic_quality:.3f}, AJI {counts.aji:.3f}: "
        f"{counts.true_positives} of {counts.n_truth} matched, {image.missed} missed, "
        f"{image.false} false, {counts.splits} split, {counts.merges} merged{which}{suffix}"
    )
    return Picture(png=png_bytes(drawn), title=image.name, caption=caption)


class _Part(NamedTuple):
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
        return _Part(*read_pair(image.pair, true, predicted))
    around, core = [], []
    for at, side in zip(image.worst, shape, strict=True):
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


def check_shown(words: Sequence[str]) -> None:
    """Open each path, which raises an error unless it is a patch store or a model."""
    for word in words:
        if Path(word).is_dir():
            PatchStore.open(Path(word))
        else:
            read_model_header(Path(word))


def shown(words: Sequence[str]) -> Iterator[Section]:
    """Yield a gallery of sheets of patch stores, and charts of the training of models."""
    sheets: dict[str, Picture] = {}
    charts: list[Lines] = []
    for path in map(Path, words):
        if path.is_dir():
            store = PatchStore.open(path)
            sheets[str(path)] = _sheet(store)
            real = _reference_sheet(store)
            if real is not None:
                sheets.setdefault(real.title, real)
        else:
            charts += _curves(path, str(read_model_header(path).kind))

    order = {f"{kind} patches": place for place, kind in enumerate(KINDS)}
    yield Gallery(
        title="Patches",
        pictures=sorted(
            sheets.values(), key=lambda sheet: order.get(sheet.caption.split(",")[0], len(order))
        ),
        wide=True,
        note="Patches, each beside its nuclei, and patches of the references that they follow.",
    )
    yield Charts(title="Training", charts=charts)


def _sheet(store: PatchStore) -> Picture:
    """Draw patches of a store, evenly spaced by number."""
    chosen = np.linspace(0, len(store) - 1, min(SHEET_PATCHES, len(store))).round().astype(int)
    read = [store.read(range(index, index + 1)) for index in map(int, chosen)]
    sheet = patch_sheet(
        [image[0] for image, _ in read], [labels[0] for _, labels in read], columns=4, mpp=store.mpp
    )
    return Picture(
        png=png_bytes(sheet),
        title=str(store.path),
        caption=f"{store.origin} patches, {store.mpp:g} um/px",
    )


def _reference_sheet(store: PatchStore) -> Picture | None:
    """Draw patches of the references of a store; None where references cannot be read."""
    try:
        images = recorded_references(store)
        chosen = np.linspace(0, len(images) - 1, min(SHEET_PATCHES, len(images))).astype(int)
        sources, _ = identify_references(
            [images[index] for index in chosen],
            mpp=store.mpp,
            reference_mpp=None,
            tolerant=False,
            command="evaluate",
        )
        cutting = Cutting(store.mpp, store.patch_px, 1, 0)
        pictures = [each for one in sources for each in cut_real_patches(one, cutting).images]
    except HistosynthError as error:
        logger.warning("%s; the report shows no references", error)
        return None
    if not pictures:
        return None
    pictures[0] = add_scale_bar(pictures[0], store.mpp)
    # an even number of pictures is drawn as two rows beside each other
    half, odd = divmod(len(pictures), 2)
    rows = [pictures] if odd else [pictures[:half], pictures[half:]]
    return Picture(
        png=png_bytes(picture_rows(rows)),
        title=", ".join(source.path.name for source in sources),
        caption=f"reference patches, {store.mpp:g} um/px",
    )


def _curves(model: Path, kind: str) -> list[Lines]:
    """Return the curves of a training from the log beside the model; empty without a log."""
    rows = [row for row in read_metrics(model) if "step" in row]
    curves = []
    lossy = [row for row in rows if isinstance(row.get("loss"), float)]
    if lossy:
        loss = [(float(row["step"]), row["loss"]) for row in lossy]
        title = f"Loss · {model.name}"
        curves.append(Lines(title=title, series=[(kind, loss)], x_label="step", y_label="loss"))
    held = [row for row in rows if isinstance(row.get("held_out"), dict)]
    if held:
        names = sorted({name for row in held for name in row["held_out"]})[:4]
        series = [
            (name, [(float(row["step"]), float(row["held_out"][name])) for row in held])
            for name in names
        ]
        title = f"Held-out patches · {model.name}"
        curves.append(Lines(title=title, series=series, x_label="step", y_label="score"))
    return curves
