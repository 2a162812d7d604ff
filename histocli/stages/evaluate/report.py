"""The page that ``evaluate --html`` writes: scores, charts, images and provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from histocli import __version__
from histocli.base.errors import InvalidOption, StoreExists
from histocli.base.files import replace_atomically
from histocli.base.progress import Track, silent
from histocli.config.common import Execution
from histocli.figures.charts import Histogram, Lines
from histocli.figures.report import (
    MARK,
    Charts,
    Details,
    ReportTable,
    Section,
    number,
    render_report,
)
from histocli.instances.histograms import AREA_EDGES_UM2
from histocli.metrics.distributions import IOU_BINS, PROBABILITY_BINS
from histocli.metrics.table import ERRORS, METRICS, scores_of, shown_in
from histocli.stages.evaluate.pictures import check_shown, extremes, find_pictures, shown
from histocli.stages.evaluate.scores import EvaluateResult, ModelDifference, Scores, short_names
from histocli.stores.provenance import peek

PER_IMAGE = shown_in("report")
"""Metrics that the tables of images and of groups show; the JSON has all metrics."""


def check_report(
    target: Path, execution: Execution, *, images: str | None = None, show: Sequence[str] = ()
) -> None:
    """Check, before the evaluation, that the report can be written after it.

    ``InvalidOption`` is raised where the name does not end in ``.html``; ``StoreExists`` where
    another file lies at the target, or a report without ``overwrite``; ``InputNotFound`` or
    ``InvalidInput`` where pictures, stores or models to show are missing or of another kind.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"--html writes a web page, so its file ends in .html; got {target}")
    if target.is_dir():
        raise StoreExists(f"{target}: is a folder; choose another --html")
    if target.exists():
        with target.open("rb") as stream:
            is_report = MARK.encode() in stream.read(400)
        if not is_report:
            raise StoreExists(
                f"{target}: exists and is no report of histosynth; choose another --html"
            )
        if not execution.overwrite:
            raise StoreExists(
                f"{target}: exists; replace it with --overwrite or choose another --html"
            )
    if images is not None:
        find_pictures(images, ())
    check_shown(show)


def write_report(
    target: Path,
    results: Sequence[EvaluateResult],
    differences: Sequence[ModelDifference],
    execution: Execution,
    *,
    images: str | None = None,
    show: Sequence[str] = (),
    track: Track = silent,
) -> None:
    """Write the report of one prediction, or of several predictions of the same images.

    Parameters
    ----------
    target : Path
        HTML file to write; :func:`check_report` is called on it first.
    results : sequence of EvaluateResult
        One for each prediction, with scores.
    differences : sequence of ModelDifference
        One for every two predictions.
    images : str, optional
        Folder, glob or list of pictures with the names of the images.
    show : sequence of str
        Patch stores, whose patches are shown, and models, whose training curves are shown.

    Raises
    ------
    InputNotFound, InvalidInput
        A picture, store or model cannot be read.
    OutOfResources
        The disk is full, or the folder cannot be written to.
    """
    check_report(target, execution)
    words = [result.input for result in results]
    names = short_names(words)
    suffixes = [f" · {name}" if len(results) > 1 else "" for name in names]
    first = results[0]
    shown_names = (image.name for image in first.images)
    pictures = {} if images is None else find_pictures(images, shown_names)
    sections: list[Section] = []
    for result, suffix in zip(results, suffixes, strict=True):
        sections += _score_tables(result, suffix)
    short = dict(zip(words, names, strict=True))
    sections += [_difference_table(each, short) for each in differences]
    for result, suffix in zip(results, suffixes, strict=True):
        sections.append(_distributions(result, suffix))
        sections += extremes(result, suffix, pictures, track)
        sections.append(_image_table(_scores_of(result), suffix))
    sections += [*shown(show), _provenance(results)]
    found = (
        f"Prediction: {first.input}." if len(names) == 1 else f"Predictions: {', '.join(names)}."
    )
    lead = (
        f"{len(first.images)} images, {_scores_of(first).pooled.n_truth} true nuclei. "
        f"Truth: {first.truth or first.input}. {found}"
    )
    page = render_report("Nucleus segmentation, scored", lead, sections)
    with replace_atomically(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def _scores_of(result: EvaluateResult) -> Scores:
    assert result.scores is not None, "a report is of scores, not of a dry run"
    return result.scores


def _score_tables(result: EvaluateResult, suffix: str) -> Iterator[Section]:
    """Yield tables of the scores over all images, of groups, and of images not compared."""
    scores = _scores_of(result)
    summary = scores.summary
    yield ReportTable(
        title=f"Scores{suffix}",
        header=("metric", "mean over images", "95 % interval", "pooled", "images", "what it is"),
        rows=[
            [
                each.name,
                float(summary.mean[each.name]),
                _interval(summary.ci95[each.name], number),
                float(summary.pooled[each.name]),
                summary.known[each.name],
                each.meaning,
            ]
            for each in METRICS
        ],
        note="Means weigh each image the same, pooled scores each nucleus or pixel. "
        "Where the truth is empty and nothing was found a score is 1.",
    )
    yield ReportTable(
        title=f"By group{suffix}",
        header=("group", "images", *PER_IMAGE),
        rows=[
            [group.name or "–", group.images, *(float(group.summary.mean[m]) for m in PER_IMAGE)]
            for group in scores.groups
        ],
        sortable=True,
        note="Means over the images of each.",
    )
    alone = [(name, "a prediction without truth: not compared") for name in result.without_truth]
    yield ReportTable(
        title=f"Not compared{suffix}", header=("image", "why"), rows=[*result.failures, *alone]
    )


def _interval(ci95: tuple[float, float] | None, write: Callable[[float], str]) -> str:
    return f"{write(ci95[0])} to {write(ci95[1])}" if ci95 else "–"


def _difference_table(difference: ModelDifference, short: dict[str, str]) -> ReportTable:
    names = shown_in("report", "report differences")
    signed = "{:+.4f}".format
    less = " and ".join(name for name in ERRORS if name in names)
    return ReportTable(
        title=f"{short[difference.second]} minus {short[difference.first]}",
        header=(
            "metric",
            "mean difference",
            "95 % interval",
            "p (sign flips)",
            "images better",
            "images worse",
        ),
        rows=[
            [name, each.mean, _interval(each.ci95, signed), each.p_value, each.better, each.worse]
            for name in names
            for each in [difference.metrics[name]]
        ],
        note=f"Paired over {difference.metrics['pq'].images} images: a difference whose interval "
        f"leaves 0 out is more than chance between images. Of {less} less is better.",
    )


def _distributions(result: EvaluateResult, suffix: str) -> Charts:
    found = reduce(add, (image.distributions for image in result.images))
    qualities = [image.counts.panoptic_quality for image in result.images]
    charts: list[Histogram | Lines] = [
        Histogram(
            title="How well each true nucleus is covered",
            edges=[n / IOU_BINS for n in range(IOU_BINS + 1)],
            series=[("true nuclei", found.ious.tolist())],
            x_label="IoU of the best prediction; 0: nothing there",
            y_label="nuclei",
        ),
        Histogram(
            title="Size of nuclei",
            edges=AREA_EDGES_UM2,
            series=[("true", found.areas[0].tolist()), ("predicted", found.areas[1].tolist())],
            x_label="area in um2, by half octaves; ends hold what lies beyond",
            y_label="nuclei",
            logarithmic=True,
        ),
        Histogram(
            title="Panoptic quality of images",
            edges=[n / 10 for n in range(11)],
            series=[("images", np.histogram(qualities, 10, (0, 1))[0].tolist())],
            x_label="PQ",
            y_label="images",
        ),
    ]
    note = ""
    if found.reliability is not None:
        charts.append(
            Lines(
                title="Calibration of probability",
                series=[("predicted nuclei", found.reliability.points)],
                x_label="mean probability of the nucleus",
                y_label="share that matches",
                diagonal=True,
            )
        )
        note = (
            f"Calibration: predicted nuclei in {PROBABILITY_BINS} bins of probability; on the "
            "dashed line a probability is the chance to match. "
            f"Expected calibration error {found.reliability.calibration_error:.3f}."
        )
    return Charts(title=f"Distributions{suffix}", charts=charts, note=note)


def _image_table(scores: Scores, suffix: str) -> ReportTable:
    grouped = bool(scores.groups)
    nuclei = ("true", "predicted", "missed", "false", "split", "merged")
    return ReportTable(
        title=f"Images{suffix}",
        header=("image", *(["group"] if grouped else []), *PER_IMAGE, *nuclei),
        rows=[
            [
                image.name,
                *([image.pair.truth.group or "–"] if grouped else []),
                *(float(values[name]) for name in PER_IMAGE),
                counts.n_truth,
                counts.n_prediction,
                image.missed,
                image.false,
                counts.splits,
                counts.merges,
            ]
            for image in scores.images
            for counts, values in [(image.counts, scores_of(image.counts))]
        ],
        sortable=True,
        pictures=suffix,
        note="Press a heading to sort; names of shown images lead to their picture.",
    )


def _provenance(results: Sequence[EvaluateResult]) -> Details:
    """Return the version, settings, pixel sizes and files behind the scores."""
    first = results[0]
    facts = {
        "package": f"histosynth {__version__}",
        "truth": first.truth,
        "predictions": [result.input for result in results],
        "settings": first.settings,
    }
    sizes = sorted({(image.pixel_size.mpp, image.pixel_size.source) for image in first.images})
    texts = {
        "Settings and rules": json.dumps(facts, indent=2, ensure_ascii=False),
        "Pixel sizes": "\n".join(f"{mpp:g} um/px ({source})" for mpp, source in sizes),
    }
    for result in results:
        one = result.images[0].pair.prediction.source
        for word, of_which in (
            (result.input, ""),
            (result.truth, ""),
            (one, ", the first of them"),
        ):
            known = peek(Path(word)) if word and Path(word).is_dir() else None
            if known is not None:
                texts[f"Provenance of {word}{of_which}"] = json.dumps(
                    known.to_json(), indent=2, ensure_ascii=False
                )
        texts[f"Pairs of {result.input}"] = "\n".join(
            f"{image.pair.prediction.source}  |  {image.pair.truth.labels.source}"
            for image in result.images
        )
    return Details(title="Where this comes from", texts=list(texts.items()))
