"""Tables that ``histosynth evaluate`` prints on stderr, and its JSON on stdout."""

import math
from typing import TYPE_CHECKING

from histocli.cli.console import Screen
from histocli.metrics.table import NAMES, shown_in

if TYPE_CHECKING:
    from histocli.stages.evaluate.realism import RealismResult
    from histocli.stages.evaluate.scores import ComparisonResult, EvaluateResult, Scores

# The tables of groups show these metrics only; the JSON has all metrics.
GROUP_METRICS = shown_in("console")


def show_scores(screen: Screen, result: "EvaluateResult", *, title: str) -> None:
    """Print the scores of one prediction, those of its groups, its JSON and its failures."""
    scores = result.scores
    if scores is None:
        screen.say(f"{title}would compare {len(result.names)} images")
    else:
        counts = scores.pooled
        title += (
            f"{len(result.images)} images, {counts.n_truth} true and "
            f"{counts.n_prediction} predicted nuclei"
        )
        screen.table(title, ("metric", "mean", "95 % interval", "pooled"), rows_of(scores))
        if scores.groups:
            rows = []
            for group in scores.groups:
                means = [_number(group.summary.mean[metric]) for metric in GROUP_METRICS]
                rows.append((group.name or "-", group.images, *means))
            header = ("group", "images", *GROUP_METRICS)
            screen.table("by group: mean over its images", header, rows)
    if screen.as_json:
        screen.print_json(result.to_json())
    for name, error in result.failures:
        screen.complain(f"{name}: {error}")


def show_differences(screen: Screen, models: "ComparisonResult") -> None:
    """Print a table for each pair of predictions that were compared."""
    for difference in models.differences:
        metrics = difference.metrics
        rows = []
        for name in shown_in("console", "console differences"):
            each = metrics[name]
            interval = f"{each.ci95[0]:+.4f} to {each.ci95[1]:+.4f}" if each.ci95 else "-"
            mean, p = _number(each.mean, "+"), f"{each.p_value:.4f}"
            rows.append((name, mean, interval, p, each.better, each.worse))
        n = metrics["pq"].images
        header = ("metric", "difference", "95 % interval", "p", "better", "worse")
        title = f"{difference.second} minus {difference.first}, paired over {n} images"
        screen.table(title, header, rows)


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


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


def rows_of(scores: "Scores") -> list[tuple[str, str, str, str]]:
    """Return a row of text for each metric: its name, mean, interval and pooled score."""
    summary, rows = scores.summary, []
    for name in NAMES:
        interval = summary.ci95[name]
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
        rows.append((name, _number(summary.mean[name]), shown, _number(summary.pooled[name])))
    return rows
