"""Learning curves from the log of a training: for reports, and as a picture beside the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from histocli.base.types import Json
from histocli.exports.pictures import write_png
from histocli.figures.charts import Lines
from histocli.figures.plots import charts_picture
from histocli.stores.logs import CURVES_FILE, log_path, read_metrics

LOSSES = ("loss", "refiner", "style", "critic")  # of ``train``, and of ``refine``
HELD_OUT_SCORES = 4  # lines of held-out scores in one chart


def learning_curves(rows: Sequence[Json], name: str = "") -> list[Lines]:
    """Return the charts of a log: loss, scores on held-out patches, learning rate.

    ``name`` stands behind the titles, to tell the charts of several models apart. What a log does
    not hold has no chart.
    """
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    behind = f" · {name}" if name else ""
    charts = []
    losses = [(key, points) for key in LOSSES if (points := _points(rows, key))]
    if losses:
        charts.append(Lines(title=f"Loss{behind}", series=losses, x_label="step", y_label="loss"))
    held = [{"step": row["step"], **row["held_out"]} for row in rows if _is_scores(row)]
    names = sorted({key for row in held for key in row if key != "step"})[:HELD_OUT_SCORES]
    if names:
        charts.append(
            Lines(
                title=f"Held-out patches{behind}",
                series=[(key, _points(held, key)) for key in names],
                x_label="step",
                y_label="score",
            )
        )
    rates = _points(rows, "learning_rate")
    if rates:
        charts.append(
            Lines(
                title=f"Learning rate{behind}",
                series=[("learning rate", rates)],
                x_label="step",
                y_label="rate",
            )
        )
    return charts


def write_curves(out: Path) -> Path | None:
    """Draw the learning curves of an output beside its log; None where the log has none."""
    charts = learning_curves(read_metrics(out))
    if not charts:
        return None
    target = log_path(out) / CURVES_FILE
    write_png(target, charts_picture(charts))
    return target


def _is_scores(row: Json) -> bool:
    return isinstance(row.get("held_out"), dict)


def _points(rows: Sequence[Json], key: str) -> list[tuple[float, float]]:
    """Return step and value of the rows in which a value is a finite number."""
    values = [(row["step"], row.get(key)) for row in rows]
    return [
        (float(step), float(value))
        for step, value in values
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
