"""Results of an evaluation, as tables, JSON and reports take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import ClassVar, NamedTuple

from histocli.annotations.pairs import Pair
from histocli.base.errors import SomeFailed
from histocli.base.text import plain_json
from histocli.base.types import Json
from histocli.metrics.counts import Counts
from histocli.metrics.distributions import Distributions
from histocli.metrics.summary import Difference, Summary
from histocli.metrics.table import scores_of
from histocli.metrics.verdict import DECIDES, Verdict, Versus, judge
from histocli.slides.pixel_size import PixelSize
from histocli.stages.shared.results import StageResult


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """Counts and scores of one image."""

    pair: Pair
    counts: Counts
    missed: int
    """Number of true nuclei that are neither matched, split nor merged."""
    false: int
    """Number of predicted nuclei that are neither matched nor part of a split or merge."""
    pixel_size: PixelSize
    """Micrometres per pixel, and which source gave the value."""
    worst: tuple[int, int]
    """First row and first column of the square with most unmatched nuclei."""
    distributions: Distributions

    @property
    def name(self) -> str:
        """Name by which prediction and truth were paired."""
        return self.pair.name

    def to_json(self) -> Json:
        """Return the scores, counts and pixel size of the image."""
        counted = (
            "n_truth",
            "n_prediction",
            "true_positives",
            "false_positives",
            "false_negatives",
            "splits",
            "merges",
        )
        return {
            "name": self.name,
            **scores_of(self.counts),
            **{each: getattr(self.counts, each) for each in counted},
            "missed": self.missed,
            "false": self.false,
            "group": self.pair.truth.group or None,
            "mpp": self.pixel_size.mpp,
            "mpp_source": self.pixel_size.source,
        }


class GroupScores(NamedTuple):
    """Scores of the images of one group."""

    name: str
    images: int
    summary: Summary


class MissedGate(NamedTuple):
    """A mean below a bound of ``--min``, or above a bound of ``--max``."""

    metric: str
    mean: float
    bound: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the images that could be compared."""

    images: tuple[ImageScores, ...]
    """Scores of each image, in the order of the truth."""
    summary: Summary
    groups: tuple[GroupScores, ...]
    missed_gates: tuple[MissedGate, ...]

    @property
    def pooled(self) -> Counts:
        """Sum of the counts of all images."""
        return reduce(add, (image.counts for image in self.images))

    def to_json(self) -> Json:
        """Return the summary of all images and those of groups, without single images."""
        groups = {
            each.name: {"images": each.images, **asdict(each.summary)} for each in self.groups
        }
        return asdict(self.summary) | ({"groups": groups} if groups else {})


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(StageResult):
    """Scores of a set of images."""

    schema: ClassVar[str] = "histosynth.evaluate/1"

    input: str
    """The prediction, as the user named it."""
    truth: str | None
    output: str = ""
    names: tuple[str, ...]
    """Names of the true images: all that were, or in a dry run would be, compared."""
    scores: Scores | None
    """None for a dry run."""
    failures: tuple[tuple[str, str], ...]
    """Name and error of each image that could not be compared, under ``--on-error continue``."""
    without_prediction: tuple[str, ...]
    without_truth: tuple[str, ...]
    settings: Json

    @property
    def images(self) -> tuple[ImageScores, ...]:
        """Scores of the images that were compared; empty for a dry run."""
        return () if self.scores is None else self.scores.images

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric over the images, by its name; empty for a dry run."""
        return {} if self.scores is None else self.scores.summary.mean

    def raise_if_any_failed(self) -> None:
        """Raise ``SomeFailed`` when an image could not be compared."""
        if self.failures:
            raise SomeFailed(
                f"{len(self.failures)} of {len(self.names)} images could not be compared, "
                "see above; scores are of the others"
            )

    def to_json(self) -> Json:
        """Return the object that ``histosynth evaluate --json`` prints."""
        values: Json = {
            "schema": self.schema,
            "input": self.input,
            "truth": self.truth,
            "output": None,
            "status": self.status,
            **({} if self.scores is None else self.scores.to_json()),
            "images": [image.to_json() for image in self.images],
            "failed": [{"name": name, "error": error} for name, error in self.failures],
            "unmatched": {"truth": self.without_prediction, "prediction": self.without_truth},
            "settings": self.settings,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }
        return dict(plain_json(values))


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """Differences of two predictions of the same images: the second minus the first."""

    first: str
    second: str
    metrics: dict[str, Difference]
    """Over the images that both predictions have."""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(StageResult):
    """Scores of several predictions of the same images, and their differences."""

    schema: ClassVar[str] = "histosynth.evaluate-comparison/1"

    output: str = ""
    results: tuple[EvaluateResult, ...]
    """One for each prediction, in the order in which the user named them."""
    differences: tuple[ModelDifference, ...] = ()
    """One for every two predictions; empty for a dry run."""

    @property
    def names(self) -> list[str]:
        """Short names of the predictions, which tell them apart."""
        return short_names([result.input for result in self.results])

    @property
    def verdict(self) -> Verdict | None:
        """Which prediction is better, by its p-values; None for a dry run."""
        if not self.differences:
            return None
        numbers = {result.input: number for number, result in enumerate(self.results)}
        pairs = [
            Versus(numbers[each.first], numbers[each.second], each.metrics[DECIDES])
            for each in self.differences
        ]
        return judge(self.names, [result.mean[DECIDES] for result in self.results], pairs)

    def to_json(self) -> Json:
        """Return the object that ``evaluate --json`` prints after those of the predictions."""
        first = self.results[0]
        values: Json = {
            "schema": self.schema,
            "input": [result.input for result in self.results],
            "truth": first.truth,
            "output": None,
            "status": self.status,
            "differences": [asdict(each) for each in self.differences],
            "verdict": self._verdict_json(),
            "settings": first.settings,
            "error": self.error,
        }
        return dict(plain_json(values))

    def _verdict_json(self) -> Json | None:
        found = self.verdict
        if found is None:
            return None
        words = [result.input for result in self.results]
        return {
            "metric": DECIDES,
            "best": words[found.best],
            "better_than": [words[number] for number in found.beaten],
            "p_values_adjusted": found.p_values,
            "text": found.text,
        }


def short_names(words: Sequence[str]) -> list[str]:
    """Return the ends of paths, with the fewest parts that tell the paths apart."""
    parts = [Path(word).parts for word in words]
    for n in range(1, max(map(len, parts), default=1) + 1):
        names = [str(Path(*part[-n:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(words)
