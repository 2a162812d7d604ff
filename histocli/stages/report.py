"""The page that ``evaluate --html`` writes: scores, distributions, worst and best images, where
everything comes from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from histocli import __version__
from histocli.annotations.labels import LARGE_PX
from histocli.annotations.pairs import common_shape
from histocli.base.errors import HistosynthError, InvalidOption, StoreExists
from histocli.base.files import replace_atomically
from histocli.base.inputs import expand_inputs
from histocli.base.progress import Track, silent
from histocli.base.types import RGBImage
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig
from histocli.exports.pictures import png_bytes
from histocli.figures.fates import fate_overlay
from histocli.figures.overlays import add_scale_bar
from histocli.figures.report import (
    Charts,
    Details,
    Gallery,
    Histogram,
    Lines,
    Picture,
    Section,
    Table,
    number,
    render_report,
)
from histocli.figures.sheets import patch_sheet, picture_rows
from histocli.instances.histograms import AREA_EDGES_UM2
from histocli.instances.overlaps import LabelImage, overlaps
from histocli.metrics.fates import tell_fates
from histocli.metrics.summary import Difference
from histocli.metrics.table import METRICS, scores_of, shown_in
from histocli.slides.open import read_image
from histocli.slides.slide import slide_stem
from histocli.stages.real_patches import cut_real_patches
from histocli.stages.scores import (
    CELL_PX,
    IOU_BINS,
    PROBABILITY_BINS,
    EvaluateResult,
    Outcome,
    read_pair,
)
from histocli.stages.shared.references import identify_references, recorded_references
from histocli.stores.logs import read_metrics
from histocli.stores.models import read_model_header
from histocli.stores.patches import PatchStore
from histocli.stores.provenance import peek

log = logging.getLogger(__name__)

MARK = "<!-- histosynth-report/1 -->"
EXTREMES = 4  # images shown from each end
MARGIN_PX = 128  # around the part of a slide that is shown, so that nuclei are judged whole
# side of the picture of an image; of a larger one its worst part is shown
MOST_PICTURE_PX = CELL_PX
SHEET_PATCHES = 8
PLAIN_GREY = 236  # background where no picture is at hand
PER_IMAGE = shown_in("report")
"""Scores of the table of images; the JSON has all."""
COMPARED = shown_in("report", "report differences")


def check_report(
    target: Path, execution: Execution, *, images: str | None = None, show: Sequence[str] = ()
) -> None:
    """Refuse before any work what could not be written after it; parameters are those of
    :func:`write_report`.

    Raises
    ------
    InvalidOption
        The file is not called ``.html``.
    InputNotFound, InvalidInput
        Pictures, or something to show, are not there or of another kind.
    StoreExists
        Something lies there: another file than a report of ours, or a report and ``overwrite`` was
        not given.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"--html writes a web page, so its file ends in .html; got {target}")
    if target.is_dir():
        raise StoreExists(f"{target}: is a folder; choose another --html")
    if target.exists():
        with target.open("rb") as stream:
            ours = MARK.encode() in stream.read(400)
        if not ours:
            raise StoreExists(
                f"{target}: exists and is no report of histosynth; choose another --html"
            )
        if not execution.overwrite:
            raise StoreExists(
                f"{target}: exists; replace it with --overwrite or choose another --html"
            )
    if images is not None:
        _find_pictures(images, ())
    for word in show:
        if Path(word).is_dir():
            PatchStore.open(Path(word))
        else:
            read_model_header(Path(word))


def write_report(
    target: Path,
    results: Sequence[EvaluateResult],
    differences: Sequence[tuple[str, str, dict[str, Difference]]],
    config: EvaluateConfig,
    execution: Execution,
    *,
    images: str | None = None,
    show: Sequence[str] = (),
    track: Track = silent,
) -> None:
    """Write the report of one prediction, or of several beside each other.

    Parameters
    ----------
    target : Path
        HTML file; checked by :func:`check_report`.
    results : sequence of EvaluateResult
        Of each prediction.
    differences : sequence
        Of each two; see :func:`histocli.stages.evaluate.compare_models`.
    config : EvaluateConfig
    execution : Execution
    images : str, optional
        Pictures with the names of the images.
    show : sequence of str
        Patch stores whose patches are shown, and models whose training is.
    track : Track

    Raises
    ------
    InputNotFound, InvalidInput
        A picture, store or model cannot be read.
    StoreExists
        Something else lies at the target.
    OutOfResources
        The disk is full or the place cannot be written.
    """
    check_report(target, execution)
    names = _short_names([result.prediction for result in results])
    first = results[0]
    lead = (
        f"{len(first.images)} images, {first.pooled.n_truth} true nuclei. Truth: {first.truth or first.prediction}. "
        + (
            f"Prediction: {first.prediction}."
            if len(names) == 1
            else f"Predictions: {', '.join(names)}."
        )
    )
    pictures = (
        _find_pictures(images, (outcome.name for outcome in first.outcomes))
        if images is not None
        else {}
    )
    sections: list[Section] = []
    suffixes = [f" · {name}" if len(results) > 1 else "" for name in names]
    for result, suffix in zip(results, suffixes, strict=True):
        sections += _scores(result, suffix)
    short = dict(zip((result.prediction for result in results), names, strict=True))
    sections += [_differences(short[one], short[two], metrics) for one, two, metrics in differences]
    for result, suffix in zip(results, suffixes, strict=True):
        sections.append(_distributions(result, suffix))
        sections += _extremes(result, suffix, pictures, track)
        sections.append(_image_table(result, suffix))
    sections += list(_shown(show))
    sections.append(_provenance(results, config))
    page = render_report("Nucleus segmentation, scored", lead, sections)
    page = page.replace("<!DOCTYPE html>\n", f"<!DOCTYPE html>\n{MARK}\n", 1)
    with replace_atomically(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def _short_names(words: Sequence[str]) -> list[str]:
    """Return the last parts of paths, as many as tell them apart."""
    parts = [Path(word).parts for word in words]
    for n in range(1, max(map(len, parts), default=1) + 1):
        names = [str(Path(*part[-n:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(words)


def _scores(result: EvaluateResult, suffix: str) -> list[Section]:
    summary = result.summary
    assert summary is not None
    rows: list[list[str | float | int | None]] = []
    for metric in METRICS:
        interval = summary.ci95[metric.name]
        rows.append(
            [
                metric.name,
                float(summary.mean[metric.name]),
                f"{number(interval[0])} to {number(interval[1])}" if interval else "–",
                float(summary.pooled[metric.name]),
                summary.known[metric.name],
                metric.meaning,
            ]
        )
    sections: list[Section] = [
        Table(
            title=f"Scores{suffix}",
            header=(
                "metric",
                "mean over images",
                "95 % interval",
                "pooled",
                "images",
                "what it is",
            ),
            rows=rows,
            note="Means weigh each image the same, pooled scores each nucleus or pixel. Where the truth is empty and nothing was "
            "found a score is 1.",
        )
    ]
    if result.groups:
        header = ("group", "images", *PER_IMAGE)
        members: list[list[str | float | int | None]] = [
            [name or "–", n, *(float(each.mean[metric]) for metric in PER_IMAGE)]
            for name, n, each in result.groups
        ]
        sections.append(
            Table(
                title=f"By group{suffix}",
                header=header,
                rows=members,
                sortable=True,
                note="Means over the images of each.",
            )
        )
    lost = [[name, error] for name, error in result.failures]
    lost += [[name, "a prediction without truth: not compared"] for name in result.without_truth]
    sections.append(Table(title=f"Not compared{suffix}", header=("image", "why"), rows=lost))
    return sections


def _differences(first: str, second: str, metrics: dict[str, Difference]) -> Table:
    rows: list[list[str | float | int | None]] = []
    for name in COMPARED:
        each = metrics[name]
        interval = f"{each.ci95[0]:+.4f} to {each.ci95[1]:+.4f}" if each.ci95 else "–"
        rows.append([name, each.mean, interval, each.p_value, each.better, each.worse])
    return Table(
        title=f"{second} minus {first}",
        header=(
            "metric",
            "mean difference",
            "95 % interval",
            "p (sign flips)",
            "images better",
            "images worse",
        ),
        rows=rows,
        note=f"Paired over {metrics['pq'].images} images: a difference whose interval leaves 0 out is more than chance between "
        "images. Of hd95_um and count_error_abs less is better.",
    )


def _distributions(result: EvaluateResult, suffix: str) -> Charts:
    outcomes = result.outcomes
    ious = np.sum([outcome.ious for outcome in outcomes], axis=0)
    areas = np.sum([outcome.areas for outcome in outcomes], axis=0)
    edges = [round(edge, 3) for edge in np.linspace(0, 1, IOU_BINS + 1).tolist()]
    quality = np.histogram([outcome.counts.panoptic_quality for outcome in outcomes], 10, (0, 1))[0]
    charts: list[Histogram | Lines] = [
        Histogram(
            title="How well each true nucleus is covered",
            edges=edges,
            series=[("true nuclei", ious.tolist())],
            x_label="IoU of the best prediction; 0: nothing there",
            y_label="nuclei",
        ),
        Histogram(
            title="Size of nuclei",
            edges=AREA_EDGES_UM2,
            series=[("true", areas[0].tolist()), ("predicted", areas[1].tolist())],
            x_label="area in um2, by half octaves; ends hold what lies beyond",
            y_label="nuclei",
            logarithmic=True,
        ),
        Histogram(
            title="Panoptic quality of images",
            edges=[round(edge, 1) for edge in np.linspace(0, 1, 11).tolist()],
            series=[("images", quality.tolist())],
            x_label="PQ",
            y_label="images",
        ),
    ]
    known = [outcome.calibration for outcome in outcomes if outcome.calibration is not None]
    note = ""
    if known:
        table = np.sum(known, axis=0)
        filled = table[:, 0] > 0
        line = [(float(row[1] / row[0]), float(row[2] / row[0])) for row in table[filled]]
        gap = float((np.abs(table[:, 1] - table[:, 2])).sum() / max(table[:, 0].sum(), 1))
        charts.append(
            Lines(
                title="Calibration of probability",
                series=[("predicted nuclei", line)],
                x_label="mean probability of the nucleus",
                y_label="share that matches",
                diagonal=True,
            )
        )
        note = (
            f"Calibration: predicted nuclei in {PROBABILITY_BINS} bins of probability; on the dashed line a probability is "
            f"the chance to match. Expected calibration error {gap:.3f}."
        )
    return Charts(title=f"Distributions{suffix}", charts=charts, note=note)


def _extremes(
    result: EvaluateResult, suffix: str, pictures: dict[str, Path], track: Track
) -> Iterator[Section]:
    """Yield the worst and the best images by panoptic quality, ties by name."""
    ordered = sorted(
        result.outcomes, key=lambda outcome: (outcome.counts.panoptic_quality, outcome.name)
    )
    n = min(EXTREMES, (len(ordered) + 1) // 2)
    worst, best = ordered[:n], ordered[::-1][: min(EXTREMES, len(ordered) - n)]
    with track("drawing images", len(worst) + len(best)) as bar:
        for title, chosen in (("Worst images", worst), ("Best images", best)):
            shown = []
            for outcome in chosen:
                shown.append(
                    _overlay(
                        outcome, pictures.get(outcome.name) or outcome.pair.truth.image, suffix
                    )
                )
                bar.advance()
            yield Gallery(
                title=f"{title}{suffix}",
                pictures=shown,
                legend=True,
                note="By panoptic quality.",
                group=suffix,
            )


def _overlay(outcome: Outcome, picture: Path | None, suffix: str) -> Picture:
    """Draw one image; of a large one the square with most mistakes."""
    truth, prediction, core, large = _part_to_show(outcome)
    table = overlaps(truth, prediction)
    fates = tell_fates(table)
    truth, prediction = (
        _indexed(truth, table.truth.ids)[core],
        _indexed(prediction, table.prediction.ids)[core],
    )
    if large:  # a slide's pixels are not read for a picture
        image: RGBImage = np.full((*truth.shape, 3), PLAIN_GREY, np.uint8)
    else:
        image = _picture_of(outcome, picture, truth.shape)
    window = _worst_window(truth, prediction, fates.truth, fates.prediction)
    truth, prediction, image = truth[window], prediction[window], image[window]
    zoom = max(1, min(3, MOST_PICTURE_PX // max(image.shape[:2])))
    if zoom > 1:
        truth, prediction = (
            np.repeat(np.repeat(side, zoom, axis=0), zoom, axis=1) for side in (truth, prediction)
        )
        image = np.asarray(
            cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), np.uint8
        )
    drawn = fate_overlay(
        image,
        truth,
        prediction,
        fates.truth,
        fates.prediction,
        thickness_px=2 if max(image.shape[:2]) > 300 else 1,
    )
    counts = outcome.counts
    part = (
        ""
        if window == (slice(None), slice(None)) and not large
        else "; the part with most mistakes"
    )
    caption = (
        f"PQ {counts.panoptic_quality:.3f}, AJI {counts.aji:.3f}: {counts.true_positives} of {counts.n_truth} matched, "
        f"{outcome.missed} missed, {outcome.false} false, {counts.splits} split, {counts.merges} merged{part}{suffix}"
    )
    return Picture(
        png=png_bytes(add_scale_bar(drawn, outcome.mpp / zoom)), title=outcome.name, caption=caption
    )


def _part_to_show(outcome: Outcome) -> tuple[LabelImage, LabelImage, tuple[slice, slice], bool]:
    """Read the labels of an image; of a large one its worst square, with a margin so that nuclei
    are judged whole.

    Returns
    -------
    truth, prediction : ndarray of integers, shape (H, W)
    core : (slice, slice)
        Of these, what is shown.
    large : bool
    """
    true, predicted = outcome.pair.truth.labels.open(), outcome.pair.prediction.open()
    shape = common_shape(true, predicted)
    if shape[0] * shape[1] < LARGE_PX or true.shape is None or predicted.shape is None:
        return *read_pair(outcome.pair, true, predicted), (slice(None), slice(None)), False
    around, core = [], []
    for at, side in zip(outcome.worst, shape, strict=True):
        part = slice(max(at - MARGIN_PX, 0), min(at + CELL_PX + MARGIN_PX, side))
        around.append(part)
        core.append(slice(at - part.start, min(at + CELL_PX, side) - part.start))
    rows, columns = around
    return (
        true.on(shape).read(rows, columns),
        predicted.on(shape).read(rows, columns),
        (core[0], core[1]),
        True,
    )


def _indexed(labels: LabelImage, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Return labels as their place in ``ids`` from 1; anything else is 0."""
    if not len(ids):
        return np.zeros(labels.shape, np.int32)
    at = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
    return np.where(ids[at] == labels, at + 1, 0).astype(np.int32)


def _find_pictures(words: str, names: Iterable[str]) -> dict[str, Path]:
    """Return the pictures of a folder, glob or list whose stem is one of the names."""
    wanted = set(names)
    suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs", ".ndpi", ".ome.tif")
    paths = expand_inputs([words], suffixes=suffixes, what="image")
    return {slide_stem(path): path for path in paths if slide_stem(path) in wanted}


def _picture_of(outcome: Outcome, path: Path | None, shape: tuple[int, ...]) -> RGBImage:
    """Return the picture of an image, or plain grey where there is none of its size."""
    pixels: RGBImage | None = None
    try:
        if path is not None:
            pixels = read_image(path).pixels
        else:
            stored = outcome.pair.truth.labels.image or outcome.pair.prediction.image
            pixels = stored() if stored is not None else None
    except HistosynthError as error:
        log.warning("%s; the report shows outlines without it", error)
    if pixels is not None and pixels.shape[:2] != shape:
        log.warning(
            "%s: the picture has %d x %d pixels but its labels %d x %d; the report shows outlines without it",
            path or outcome.name,
            *pixels.shape[:2],
            *shape,
        )
        pixels = None
    return np.full((*shape, 3), PLAIN_GREY, np.uint8) if pixels is None else pixels


def _worst_window(
    truth: npt.NDArray[np.int32],
    prediction: npt.NDArray[np.int32],
    truth_kinds: npt.NDArray[np.uint8],
    prediction_kinds: npt.NDArray[np.uint8],
) -> tuple[slice, slice]:
    """Return the square with most pixels of nuclei that do not match; everything where the image is
    small.
    """
    height, width = truth.shape
    side = MOST_PICTURE_PX
    if height <= side and width <= side:
        return slice(None), slice(None)
    wrong = (
        np.concatenate([[False], truth_kinds > 0])[truth]
        | np.concatenate([[False], prediction_kinds > 0])[prediction]
    )
    box = min(side, height), min(side, width)
    total = cv2.integral(wrong.astype(np.uint8), sdepth=cv2.CV_64F)
    inside = (
        total[box[0] :, box[1] :]
        - total[: -box[0], box[1] :]
        - total[box[0] :, : -box[1]]
        + total[: -box[0], : -box[1]]
    )
    top, left = (int(at) for at in np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + box[0]), slice(left, left + box[1])


def _image_table(result: EvaluateResult, suffix: str) -> Table:
    header = [
        "image",
        "group",
        *PER_IMAGE,
        "true",
        "predicted",
        "missed",
        "false",
        "split",
        "merged",
    ]
    rows: list[list[str | float | int | None]] = []
    for outcome in result.outcomes:
        scores, counts = scores_of(outcome.counts), outcome.counts
        numbers = [
            counts.n_truth,
            counts.n_prediction,
            outcome.missed,
            outcome.false,
            counts.splits,
            counts.merges,
        ]
        rows.append(
            [
                outcome.name,
                outcome.pair.truth.group or "–",
                *(float(scores[name]) for name in PER_IMAGE),
                *numbers,
            ]
        )
    if not any(outcome.pair.truth.group for outcome in result.outcomes):
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    note = "Press a heading to sort; names of shown images lead to their picture."
    return Table(
        title=f"Images{suffix}", header=header, rows=rows, sortable=True, pictures=suffix, note=note
    )


def _shown(words: Sequence[str]) -> Iterator[Section]:
    """Yield sheets of patch stores, and training curves of models."""
    sheets, charts = [], []
    for word in words:
        path = Path(word)
        if path.is_dir():
            store = PatchStore.open(path)
            sheets.append(_sheet(store))
            real = _reference_sheet(store)
            if real is not None and real.title not in {sheet.title for sheet in sheets}:
                sheets.append(real)
        else:
            header = read_model_header(path)
            charts += _curves(path, str(header.kind))
    kinds = ("initial", "refined", "labelled", "reference")
    sheets.sort(
        key=lambda sheet: next(
            (k for k, kind in enumerate(kinds) if sheet.caption.startswith(kind)), len(kinds)
        )
    )
    yield Gallery(
        title="Patches",
        pictures=sheets,
        wide=True,
        note="Patches, each beside its nuclei, and patches of the references that they follow.",
    )
    yield Charts(title="Training", charts=charts)


def _sheet(store: PatchStore) -> Picture:
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
    """Show patches of the references that a store records; None where they are no longer there."""
    try:
        images = recorded_references(store)
        chosen = [
            images[index]
            for index in np.linspace(0, len(images) - 1, min(SHEET_PATCHES, len(images))).astype(
                int
            )
        ]
        sources, _ = identify_references(
            chosen, mpp=store.mpp, reference_mpp=None, tolerant=False, command="evaluate"
        )
        cut = [
            cut_real_patches(source, store.mpp, store.patch_px, 1, 0).images for source in sources
        ]
    except HistosynthError as error:
        log.warning("%s; the report shows no references", error)
        return None
    pictures = [image for each in cut for image in each]
    if not pictures:
        return None
    pictures[0] = add_scale_bar(pictures[0], store.mpp)
    half = (len(pictures) + 1) // 2
    # rows stand beside each other
    rows = [pictures[:half], pictures[half:]] if len(pictures) % 2 == 0 else [pictures]
    return Picture(
        png=png_bytes(picture_rows(rows)),
        title=", ".join(source.path.name for source in sources),
        caption=f"reference patches, {store.mpp:g} um/px",
    )


def _curves(model: Path, kind: str) -> list[Lines]:
    """Return what the log beside a model tells of its training; nothing where there is none."""
    rows = read_metrics(model)
    curves = []
    loss = [
        (float(row["step"]), float(row["loss"]))
        for row in rows
        if "step" in row and isinstance(row.get("loss"), float)
    ]
    if loss:
        curves.append(
            Lines(
                title=f"Loss · {model.name}", series=[(kind, loss)], x_label="step", y_label="loss"
            )
        )
    held = [row for row in rows if "step" in row and isinstance(row.get("held_out"), dict)]
    names = sorted({name for row in held for name in row["held_out"]})[:4]
    series = [
        (name, [(float(row["step"]), float(row["held_out"][name])) for row in held])
        for name in names
    ]
    if held:
        curves.append(
            Lines(
                title=f"Held-out patches · {model.name}",
                series=series,
                x_label="step",
                y_label="score",
            )
        )
    return curves


def _provenance(results: Sequence[EvaluateResult], config: EvaluateConfig) -> Details:
    facts = {
        "package": f"histosynth {__version__}",
        "truth": results[0].truth,
        "predictions": [result.prediction for result in results],
        "settings": results[0].settings,
    }
    items = [("Settings and rules", json.dumps(facts, indent=2, ensure_ascii=False))]
    pixel = sorted({(outcome.mpp, outcome.mpp_source) for outcome in results[0].outcomes})
    items.append(("Pixel sizes", "\n".join(f"{mpp:g} um/px ({source})" for mpp, source in pixel)))
    for result in results:
        for word in (result.prediction, result.truth):
            known = peek(Path(word)) if word and Path(word).is_dir() else None
            if known is not None:
                items.append(
                    (
                        f"Provenance of {word}",
                        json.dumps(known.to_json(), indent=2, ensure_ascii=False),
                    )
                )
        source = Path(result.outcomes[0].pair.prediction.source)
        known = peek(source) if source.is_dir() else None
        if known is not None:
            items.append(
                (
                    f"Provenance of {source}, the first of them",
                    json.dumps(known.to_json(), indent=2, ensure_ascii=False),
                )
            )
        named = "\n".join(
            f"{outcome.pair.prediction.source}  |  {outcome.pair.truth.labels.source}"
            for outcome in result.outcomes
        )
        items.append((f"Pairs of {result.prediction}", named))
    return Details(title="Where this comes from", items=list(dict(items).items()))
