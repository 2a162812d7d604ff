"""Tables, bars and charts of a report, with several predictions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add

import numpy as np

from histocli.figures.charts import Histogram, Lines
from histocli.figures.sections import (
    Bar,
    Charts,
    Estimate,
    Fates,
    Headline,
    Part,
    ReportTable,
    Score,
    Section,
)
from histocli.instances.histograms import AREA_EDGES_UM2
from histocli.metrics.distributions import IOU_BINS, PROBABILITY_BINS
from histocli.metrics.table import ERRORS, METRICS, scores_of, shown_in
from histocli.stages.evaluate.scores import EvaluateResult, ModelDifference, Scores, short_names

PER_IMAGE = shown_in("report")
"""Metrics that the tables of images and of groups show; the JSON has all metrics."""
HEADLINE_METRICS = shown_in("console")
"""Metrics above the fold, the same that the terminal shows."""


def headline(results: Sequence[EvaluateResult], differences: Sequence[ModelDifference]) -> Headline:
    """Return the headline metrics of all predictions beside each other."""
    summaries = [scores_in(result).summary for result in results]
    meanings = {metric.name: metric.meaning for metric in METRICS}
    of_two = differences[0].metrics if len(differences) == 1 else None
    return Headline(
        title="Scores",
        models=["mean over images"] if len(results) == 1 else short_names_of(results),
        scores=[
            Score(
                name=name,
                meaning=meanings[name],
                estimates=[Estimate(each.mean[name], each.ci95[name]) for each in summaries],
                difference=Estimate(of_two[name].mean, of_two[name].ci95) if of_two else None,
                p_value=of_two[name].p_value if of_two else None,
            )
            for name in HEADLINE_METRICS
        ],
        note=f"Means over {summaries[0].known['pq']} images with 95 % intervals"
        + (
            ", and the paired difference of the second and the first prediction." if of_two else "."
        ),
    )


def fates(results: Sequence[EvaluateResult]) -> Fates:
    """Return what became of the true and of the predicted nuclei of each prediction."""
    bars = []
    for name, result in zip(short_names_of(results), results, strict=True):
        counts = scores_in(result).pooled
        missed = sum(image.missed for image in result.images)
        false = sum(image.false for image in result.images)
        matched, splits, merges = counts.true_positives, counts.splits, counts.merges
        whose = f" · {name}" if len(results) > 1 else ""
        bars.append(
            Bar(
                f"True{whose}:",
                [
                    Part("matched", "matched", matched),
                    Part("missed", "missed", missed),
                    Part("split", "split", splits),
                    Part("merged", "merged", counts.n_truth - matched - missed - splits),
                ],
            )
        )
        bars.append(
            Bar(
                f"Predicted{whose}:",
                [
                    Part("matched", "matched", matched),
                    Part("false", "false", false),
                    Part("split", "pieces", counts.n_prediction - matched - false - merges),
                    Part("merged", "mergers", merges),
                ],
            )
        )
    return Fates(title="Kinds of error", bars=bars)


def score_tables(
    results: Sequence[EvaluateResult], differences: Sequence[ModelDifference]
) -> Iterator[Section]:
    """Yield tables of all scores, of the differences, of groups, and of images not compared."""
    names = short_names_of(results)
    summaries = [scores_in(result).summary for result in results]
    columns = ("mean", "95 % interval", "pooled")
    header = ["metric"]
    for name in names:
        header += [f"{each} · {name}" if len(names) > 1 else each for each in columns]
    yield ReportTable(
        title="All scores",
        header=(*header, "images", "what it is"),
        rows=[
            [
                each.name,
                *(
                    value
                    for summary in summaries
                    for value in (
                        float(summary.mean[each.name]),
                        _interval(summary.ci95[each.name]),
                        float(summary.pooled[each.name]),
                    )
                ),
                summaries[0].known[each.name],
                each.meaning,
            ]
            for each in METRICS
        ],
        note="Means weigh each image the same, pooled scores each nucleus or pixel. "
        "Where the truth is empty and nothing was found a score is 1.",
    )
    short = dict(zip((result.input for result in results), names, strict=True))
    yield from (_difference_table(each, short) for each in differences)
    for name, result in zip(names, results, strict=True):
        suffix = f" · {name}" if len(names) > 1 else ""
        yield from _tables_of(result, suffix)


def _tables_of(result: EvaluateResult, suffix: str) -> Iterator[Section]:
    """Yield the tables of groups and of images not compared of one prediction."""
    yield ReportTable(
        title=f"By group{suffix}",
        header=("group", "images", *PER_IMAGE),
        rows=[
            [group.name or "–", group.images, *(float(group.summary.mean[m]) for m in PER_IMAGE)]
            for group in scores_in(result).groups
        ],
        sortable=True,
        note="Means over the images of each.",
    )
    alone = [(name, "a prediction without truth: not compared") for name in result.without_truth]
    yield ReportTable(
        title=f"Not compared{suffix}", header=("image", "why"), rows=[*result.failures, *alone]
    )


def _interval(ci95: tuple[float, float] | None, sign: str = "") -> str:
    return f"{ci95[0]:{sign}.4f} to {ci95[1]:{sign}.4f}" if ci95 else "–"


def scores_in(result: EvaluateResult) -> Scores:
    """Return the scores of a result that is not of a dry run."""
    assert result.scores is not None, "a report is of scores, not of a dry run"
    return result.scores


def short_names_of(results: Sequence[EvaluateResult]) -> list[str]:
    """Return the names of the predictions with the fewest parts that tell them apart."""
    return short_names([result.input for result in results])


def _difference_table(difference: ModelDifference, short: dict[str, str]) -> ReportTable:
    names = shown_in("report", "report differences")
    less = " and ".join(name for name in ERRORS if name in names)
    return ReportTable(
        title=f"{short[difference.second]} minus {short[difference.first]}",
        header=("metric", "mean difference", "95 % interval", "p", "images better", "images worse"),
        rows=[
            [name, each.mean, _interval(each.ci95, "+"), each.p_value, each.better, each.worse]
            for name in names
            for each in [difference.metrics[name]]
        ],
        note=f"Paired over {difference.metrics['pq'].images} images. Interval and p are of one "
        "permutation test: the interval leaves 0 out where p is below 0.05. It is not corrected "
        f"for testing many metrics. Of {less} less is better.",
    )


def distributions(result: EvaluateResult, suffix: str) -> Charts:
    """Return histograms of a prediction, and how well its probabilities are calibrated."""
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


def image_table(scores: Scores, suffix: str) -> ReportTable:
    """Return the scores of each image; names of shown images lead to their pictures."""
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
        pictures="",
        title_ends=suffix,
        note="Press a heading to sort; names of shown images lead to their picture.",
    )
