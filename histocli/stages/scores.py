"""What evaluation finds, in the shape that tables, JSON and reports share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from histocli.annotations.outlines import Opened
from histocli.annotations.pairs import Pair, common_shape
from histocli.base.errors import InvalidInput, SomeFailed
from histocli.base.types import Json
from histocli.instances.overlaps import LabelImage
from histocli.metrics.counts import Counts
from histocli.metrics.summary import Difference, Summary
from histocli.metrics.table import scores_of

SCHEMA = "histosynth.evaluate/1"
COMPARISON_SCHEMA = "histosynth.evaluate-comparison/1"
IOU_BINS = 20
CELL_PX = 640
PROBABILITY_BINS = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found in one image."""

    pair: Pair
    counts: Counts
    missed: int
    """True nuclei that nothing was found of; neither matched, split nor merged."""
    false: int
    """Predicted nuclei where there is none."""
    mpp: float
    mpp_source: str
    """``given``, ``manifest``, ``truth``, ``prediction`` or ``assumed``."""
    worst: tuple[int, int]
    """Row and column where the square of ``CELL_PX`` with most unmatched nuclei begins."""
    ious: npt.NDArray[np.int64]
    """(IOU_BINS,) true nuclei by the IoU of their best prediction, from 0 to 1."""
    areas: npt.NDArray[np.int64]
    """(2, n) true and predicted nuclei by area, in ``AREA_EDGES_UM2``."""
    calibration: npt.NDArray[np.float64] | None
    """(PROBABILITY_BINS, 3) predicted nuclei by their probability: number, sum of probabilities,
    matched; None where unknown."""

    @property
    def name(self) -> str:
        """What pairs prediction and truth."""
        return self.pair.name

    def to_json(self) -> Json:
        """Return the scores, counts and pixel size of the image."""
        return {
            **_image_json(self.name, self.counts),
            "splits": self.counts.splits,
            "merges": self.counts.merges,
            "missed": self.missed,
            "false": self.false,
            "group": self.pair.truth.group or None,
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """Scores of a set of images."""

    prediction: str
    truth: str | None
    status: str
    """done, or planned for a dry run."""
    names: tuple[str, ...]
    """Every image that was, or would be, compared."""
    outcomes: tuple[Outcome, ...] = ()
    """Of each image that could be compared, in the order of the truth."""
    summary: Summary | None = None
    """None for a dry run."""
    groups: tuple[tuple[str, int, Summary], ...] = ()
    """Name, number of images and scores of each group."""
    failures: tuple[tuple[str, str], ...] = ()
    """Name and error of each image that could not, under ``--on-error continue``."""
    without_prediction: tuple[str, ...] = ()
    without_truth: tuple[str, ...] = ()
    missed_gates: tuple[tuple[str, float, float], ...] = ()
    """Metric, mean, and the bound that it does not keep."""
    settings: Json = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def images(self) -> tuple[tuple[str, Counts], ...]:
        """Name and counts of each image that could be compared."""
        return tuple((outcome.name, outcome.counts) for outcome in self.outcomes)

    @property
    def pooled(self) -> Counts:
        """Counts of all images together."""
        return reduce(add, (outcome.counts for outcome in self.outcomes), Counts())

    def raise_if_any_failed(self) -> None:
        """Raise ``SomeFailed`` when an image could not be compared."""
        if self.failures:
            raise SomeFailed(
                f"{len(self.failures)} of {len(self.names)} images could not be compared, see above; scores are of the others"
            )

    def to_json(self) -> Json:
        """Return the object that ``histosynth evaluate --json`` prints."""
        scores: Json = {}
        if self.summary is not None:
            scores = _summary_json(self.summary)
        if self.groups:
            scores["groups"] = {
                name: {"images": n, **_summary_json(summary)} for name, n, summary in self.groups
            }
        return {
            "schema": SCHEMA,
            "input": self.prediction,
            "truth": self.truth,
            "output": None,
            "status": self.status,
            **scores,
            "images": [outcome.to_json() for outcome in self.outcomes],
            "failed": [{"name": name, "error": error} for name, error in self.failures],
            "unmatched": {
                "truth": list(self.without_prediction),
                "prediction": list(self.without_truth),
            },
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "error": None,
        }


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """Several predictions of the same images beside each other."""

    results: tuple[EvaluateResult, ...]
    """In the order they were named."""
    differences: tuple[tuple[str, str, dict[str, Difference]], ...] = ()
    """First prediction, second one, and by metric the second minus the first, over the images that
    both have."""
    settings: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """Return the object that ``histosynth evaluate --json`` prints after those of the
        predictions.
        """
        return {
            "schema": COMPARISON_SCHEMA,
            "input": [result.prediction for result in self.results],
            "truth": self.results[0].truth,
            "output": None,
            "status": self.results[0].status,
            "differences": [
                {
                    "first": first,
                    "second": second,
                    "metrics": {
                        name: {
                            "mean": each.mean,
                            "ci95": list(each.ci95) if each.ci95 else None,
                            "p_value": each.p_value,
                            "better": each.better,
                            "worse": each.worse,
                            "images": each.images,
                        }
                        for name, each in metrics.items()
                    },
                }
                for first, second, metrics in self.differences
            ],
            "settings": self.settings,
            "error": None,
        }


def _summary_json(summary: Summary) -> Json:
    return {
        "mean": summary.mean,
        "ci95": {name: list(pair) if pair else None for name, pair in summary.ci95.items()},
        "pooled": summary.pooled,
        "known": summary.known,
    }


def _image_json(name: str, counts: Counts) -> Json:
    return {
        "name": name,
        **scores_of(counts),
        "n_truth": counts.n_truth,
        "n_prediction": counts.n_prediction,
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
    }


def read_pair(pair: Pair, true: Opened, predicted: Opened) -> tuple[LabelImage, LabelImage]:
    """Read truth and prediction as arrays of one shape, with what is ignored as -1 in the truth."""
    shape = common_shape(true, predicted)
    truth, prediction = true.on(shape).whole(), predicted.on(shape).whole()
    if pair.truth.ignore is not None:
        mask = pair.truth.ignore.open().on(shape)
        if mask.shape != shape:
            raise InvalidInput(
                f"{mask.source} has {size_text(mask.shape)} pixels but {true.source} has {size_text(shape)}; a mask "
                "of what is ignored covers the same image"
            )
        truth = np.where(mask.whole() != 0, -1, truth.astype(np.int64))
    return truth, prediction


def size_text(shape: tuple[int, ...]) -> str:
    """Write a height and width for a message."""
    return f"{shape[0]} x {shape[1]}"
