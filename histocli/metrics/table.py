"""The table of metrics: the name of each, its meaning, and the views that show it.

:data:`METRICS` decides which metrics are in the JSON and the tables of ``evaluate``, the bounds
``--min`` and ``--max``, the comparison of predictions, and the report. A new metric is one line
here, a property of :class:`histocli.metrics.counts.Counts`, and a line of ``docs/metrics.md``.

This file imports no library, so that the help of the command line, which reads it, opens fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from histocli.metrics.counts import Counts

View: TypeAlias = Literal[
    "console", "console differences", "report", "report differences", "training"
]
"""A table that shows only some metrics.

``console``: the scores of groups on the screen. ``report``: the scores of images and of groups in
the report. ``console differences`` and ``report differences``: what the tables of differences
between two predictions show in addition. ``training``: scores on held-out patches.
"""


@dataclass(frozen=True)
class Metric:
    """One score of a prediction against the truth."""

    name: str
    better: Literal["more", "less", "neither"]
    """``more``: a quality in 0..1. ``less``: an error, 0 at best. ``neither``: a signed difference,
    prediction minus truth."""
    meaning: str
    views: tuple[View, ...] = ()
    """The tables of some metrics that show this one."""
    of: Callable[[Counts], float] | None = None
    """Computes the metric; None to read the property of :class:`Counts` with the same name."""

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is, 0 where neither is."""
        return {"more": 1, "less": -1, "neither": 0}[self.better]


def _f1_above(percent: int) -> Metric:
    return Metric(
        f"f1_{percent}",
        "more",
        f"F1 of nuclei with IoU > 0.{percent}",
        ("report",) if percent == 75 else (),
        lambda counts: counts.f1_above(percent),
    )


# The formatter would spread each metric over seven lines.
# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("dice", "more", "overlap of all nuclear pixels (DICE1)",
           ("console", "report", "training")),
    Metric("aji", "more", "aggregated Jaccard index; a prediction may serve twice",
           ("console", "report", "training")),
    Metric("aji_plus", "more", "aggregated Jaccard index, one to one", ("console", "report")),
    Metric("pq", "more", "panoptic quality, DQ x SQ", ("console", "report", "training"),
           lambda c: c.panoptic_quality),
    Metric("dq", "more", "F1 of nuclei with IoU > 0.5", ("report",), lambda c: c.detection_quality),
    Metric("sq", "more", "mean IoU of matched nuclei", ("report",),
           lambda c: c.segmentation_quality),
    Metric("f1", "more", "F1 of nuclei with IoU > 0.5; the same number as dq",
           ("console", "training"), lambda c: c.detection_quality),
    Metric("dice2", "more", "overlap summed over touching pairs (DICE2)"),
    Metric("ensemble_dice", "more", "mean of DICE1 and DICE2", ("report",)),
    Metric("precision", "more", "share of predicted nuclei that match"),
    Metric("recall", "more", "share of true nuclei that match"),
    *(_f1_above(percent) for percent in range(50, 100, 5)),
    Metric("f1_mean", "more", "mean of F1 over the ten thresholds"),
    Metric("dsb_ap", "more", "2018 Data Science Bowl: mean of TP / (TP + FP + FN)",
           ("console differences", "report differences"), lambda c: c.data_science_bowl_precision),
    Metric("detection_f1", "more", "F1 of centroids within the radius", ("console", "report")),
    Metric("detection_precision", "more", "share of predicted centroids near a true one"),
    Metric("detection_recall", "more", "share of true centroids near a predicted one"),
    Metric("boundary_f1", "more", "F1 of boundary pixels within the tolerance",
           ("console differences", "report")),
    Metric("hd95_um", "less", "Hausdorff distance of matched nuclei without the farthest 5 %, um",
           ("console differences", "report")),
    Metric("count_error_abs", "less", "difference of counts, without sign", ("report differences",),
           lambda c: abs(c.count_error)),
    Metric("matched_area_error", "less", "difference of areas of matched nuclei, over the true"),
    Metric("count_error", "neither", "predicted minus true nuclei"),
    Metric("count_error_relative", "neither", "predicted minus true nuclei, over the true"),
    Metric("area_error_relative", "neither", "predicted minus true nuclear area, over the true"),
)
# fmt: on

NAMES = tuple(metric.name for metric in METRICS)
HEADLINE = ("aji", "pq", "dice")
"""What a line about a result names."""
QUALITIES = tuple(metric.name for metric in METRICS if metric.better == "more")
"""Names of metrics of which more is better; ``--min`` accepts them."""
ERRORS = tuple(metric.name for metric in METRICS if metric.better == "less")
"""Names of metrics of which less is better; ``--max`` accepts them."""


def shown_in(*views: View) -> tuple[str, ...]:
    """Return the names of the metrics of some views, view by view, in the order of ``METRICS``.

    >>> shown_in("console")
    ('dice', 'aji', 'aji_plus', 'pq', 'f1', 'detection_f1')
    """
    return tuple(metric.name for view in views for metric in METRICS if view in metric.views)


def scores_of(counts: Counts) -> dict[str, float]:
    """Return every metric of some counts by name, in the order of ``METRICS``."""
    return {
        metric.name: metric.of(counts) if metric.of else getattr(counts, metric.name)
        for metric in METRICS
    }
