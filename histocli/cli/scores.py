"""Tables that ``histosynth evaluate`` prints on stderr, and its JSON on stdout."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from histocli.cli.console import Screen
from histocli.metrics.table import METRICS, NAMES, shown_in

if TYPE_CHECKING:
    from histocli.stages.evaluate.realism import RealismResult
    from histocli.stages.evaluate.scores import ComparisonResult, EvaluateResult, Scores

HEADLINE_METRICS = shown_in("console")
"""Names of the metrics that are shown without ``--all``; the JSON has all metrics."""
MEANINGS = {metric.name: metric.meaning for metric in METRICS}
WIDE = 110  # columns of a terminal on which the meaning of a metric has room
MORE = "--all prints every metric, --json all of each image, --html a report"


def metrics_shown(every: bool) -> tuple[str, ...]:
    """Return the names of the metrics to print: all, or the headline ones."""
    return NAMES if every else HEADLINE_METRICS


def show_scores(screen: Screen, result: "EvaluateResult", *, every: bool) -> None:
    """Print the scores of one prediction, those of its groups, its JSON and its failures."""
    scores = result.scores
    if scores is None:
        screen.say(f"would compare {len(result.names)} images")
    else:
        explained = screen.console.width >= WIDE
        header: tuple[str, ...] = ("metric", "mean", "95 % interval", "pooled", "n")
        rows = rows_of(scores, metrics_shown(every))
        if explained:
            header = (*header, "what it is")
            rows = [(*row, MEANINGS[row[0]]) for row in rows]
        screen.table(_counted(result), header, rows, numbers_to=5)
        _show_groups(screen, scores, metrics_shown(every))
        if not every:
            screen.say(MORE)
    _finish(screen, result)


def show_comparison(screen: Screen, models: "ComparisonResult", *, every: bool) -> None:
    """Print the scores of several predictions side by side, their differences and the verdict."""
    if models.verdict is None:
        for result in models.results:
            screen.say(f"{result.input}: would compare {len(result.names)} images")
            _finish(screen, result)
    else:
        for result in models.results:
            screen.say(_counted(result))
        shown = metrics_shown(every)
        screen.table(
            "mean over images, with 95 % interval",
            *_side_by_side(models, shown, screen.console.width),
        )
        for result in models.results:
            if result.scores is not None and result.scores.groups:
                screen.say(f"{result.input}:")
                _show_groups(screen, result.scores, shown)
        screen.say(f"verdict: {models.verdict.text}")
        if not every:
            screen.say(MORE)
        for result in models.results:
            _finish(screen, result)
    if screen.as_json:
        screen.print_json(models.to_json())


def _side_by_side(
    models: "ComparisonResult", shown: Sequence[str], width: int
) -> tuple[tuple[str, ...], list[list[Text]]]:
    """Return header and rows of a table with a column for each prediction and each difference.

    Of more than two predictions only the differences from the first one have a column. Where the
    terminal is narrow, intervals stand on a line of their own, or those of differences only.
    """
    n_columns = len(models.results) + len(models.differences)
    beside, below = width >= 30 * n_columns, width >= 22 * n_columns + 24
    names = models.names
    first = models.results[0].input
    columns = [each for each in models.differences if each.first == first]
    header = ["metric", *names]
    for difference in columns:
        second = names[[result.input for result in models.results].index(difference.second)]
        header += [f"{second} minus {names[0]}", "p"]
    rows = []
    for name in shown:
        row = [Text(name)]
        for result in models.results:
            assert result.scores is not None
            summary = result.scores.summary
            interval = summary.ci95[name] if below else None
            row.append(_with_interval(summary.mean[name], interval, beside=beside))
        for difference in columns:
            each = difference.metrics[name]
            row.append(_with_interval(each.mean, each.ci95, "+", beside=beside))
            row.append(Text(f"{each.p_value:.3f}" if each.p_value >= 0.001 else "<0.001"))
        rows.append([*row, Text(str(columns[0].metrics[name].images))])
    return (*header, "n"), rows


def _with_interval(
    value: float, interval: tuple[float, float] | None, sign: str = "", *, beside: bool
) -> Text:
    if math.isnan(value):
        return Text("-")
    if interval is None:
        return Text(f"{value:{sign}.3f}")
    edges = f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"
    return Text(f"{value:{sign}.3f} ({edges})" if beside else f"{value:{sign}.3f}\n{edges}")


def _counted(result: "EvaluateResult") -> str:
    assert result.scores is not None
    counts = result.scores.pooled
    return (
        f"{result.input}: {len(result.images)} images, {counts.n_truth:,} true and "
        f"{counts.n_prediction:,} predicted nuclei"
    )


def _show_groups(screen: Screen, scores: "Scores", shown: Sequence[str]) -> None:
    """Print the means of each group, if the images have groups; the headline metrics only."""
    names = [name for name in shown if name in HEADLINE_METRICS]
    rows = [
        (group.name or "-", group.images, *(_number(group.summary.mean[name]) for name in names))
        for group in scores.groups
    ]
    if rows:
        screen.table("by group: mean over its images", ("group", "images", *names), rows)


def _finish(screen: Screen, result: "EvaluateResult") -> None:
    """Print the JSON of a prediction and the images that could not be compared."""
    if screen.as_json:
        screen.print_json(result.to_json())
    for name, error in result.failures:
        screen.complain(f"{name}: {error}")


def show_realism(screen: Screen, result: "RealismResult") -> None:
    """Print the measures of realism of a patch store; for a dry run, only the plan."""
    if result.judgement is not None:
        rows = []
        for each in result.judgement.measures:
            interval = f"{each.ci95[0]:.4g} to {each.ci95[1]:.4g}" if each.ci95 else "-"
            rows.append((each.name, f"{each.value:.4g}", interval, each.meaning))
        header = ("measure", "value", "95 % interval", "meaning")
        screen.table(result.title, header, rows, numbers_from=4)
    else:
        screen.say(result.title)
    if screen.as_json:
        screen.print_json(result.to_json())


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def rows_of(scores: "Scores", shown: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a row of text for each metric: its name, mean, interval, pooled score and images."""
    summary, rows = scores.summary, list[tuple[str, ...]]()
    for name in shown:
        interval = summary.ci95[name]
        edges = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
        pooled, known = _number(summary.pooled[name]), str(summary.known[name])
        rows.append((name, _number(summary.mean[name]), edges, pooled, known))
    return rows
