"""What evaluation finds, in the shape that tables, JSON and reports share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import ClassVar, NamedTuple

from histocli.annotations.pairs import Pair
from histocli.base.errors import SomeFailed
from histocli.base.text import plain_json
from histocli.base.types import Json
from histocli.metrics.counts import Counts
from histocli.metrics.distributions import Distributions
from histocli.metrics.summary import Difference, Summary
from histocli.metrics.table import scores_of
from histocli.slides.pixel_size import PixelSize
from histocli.stages.shared.results import StageResult


@dataclass(frozen=True, kw_only=True)
class ImageScores:
    """What was found in one image."""

    pair: Pair
    counts: Counts
    missed: int
    """True nuclei that are neither matched, split nor merged."""
    false: int
    """Predicted nuclei where there is none."""
    pixel_size: PixelSize
    """Given, or of the manifest, the truth or the prediction, or assumed."""
    worst: tuple[int, int]
    """First row and column of the square with most unmatched nuclei."""
    distributions: Distributions

    @property
    def name(self) -> str:
        """What pairs prediction and truth."""
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
    """A mean that does not keep its bound."""

    metric: str
    mean: float
    bound: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the images that could be compared."""

    images: tuple[ImageScores, ...]
    """In the order of the truth."""
    summary: Summary
    groups: tuple[GroupScores, ...]
    missed_gates: tuple[MissedGate, ...]

    @property
    def pooled(self) -> Counts:
        """Counts of all images together."""
        return reduce(add, (image.counts for image in self.images))

    def to_json(self) -> Json:
        """Return the summaries; images are not among them."""
        groups = {
            each.name: {"images": each.images, **asdict(each.summary)} for each in self.groups
        }
        return asdict(self.summary) | ({"groups": groups} if groups else {})


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(StageResult):
    """Scores of a set of images."""

    schema: ClassVar[str] = "histosynth.evaluate/1"

    input: str
    """The prediction, as it was named."""
    truth: str | None
    output: str = ""
    names: tuple[str, ...]
    """Every image that was, or would be, compared."""
    scores: Scores | None
    """None for a dry run."""
    failures: tuple[tuple[str, str], ...]
    """Name and error of each image that could not be compared, under ``--on-error continue``."""
    without_prediction: tuple[str, ...]
    without_truth: tuple[str, ...]
    settings: Json

    @property
    def images(self) -> tuple[ImageScores, ...]:
        """Every image that was compared."""
        return () if self.scores is None else self.scores.images

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
    """Two predictions of the same images: the second minus the first."""

    first: str
    second: str
    metrics: dict[str, Difference]
    """Over the images that both predictions have."""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(StageResult):
    """Several predictions of the same images beside each other."""

    schema: ClassVar[str] = "histosynth.evaluate-comparison/1"

    output: str = ""
    results: tuple[EvaluateResult, ...]
    """In the order in which the predictions were named."""
    differences: tuple[ModelDifference, ...] = ()
    """Of every two predictions; none for a dry run."""

    def to_json(self) -> Json:
        """Return the object that ``histosynth evaluate --json`` prints after the predictions'."""
        first = self.results[0]
        values: Json = {
            "schema": self.schema,
            "input": [result.input for result in self.results],
            "truth": first.truth,
            "output": None,
            "status": self.status,
            "differences": [asdict(each) for each in self.differences],
            "settings": first.settings,
            "error": self.error,
        }
        return dict(plain_json(values))
