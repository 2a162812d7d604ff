"""Scores of labels against a truth, and the comparison of several models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from histocli.api.inputs import Labels, check_as_many, is_path, label_word, no_dry_run, scratch
from histocli.api.progress import Progress, track_of
from histocli.api.segmenter import Segmentation
from histocli.base.errors import InvalidOption
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from histocli.stages.evaluate.scores import ComparisonResult, EvaluateResult

Prediction: TypeAlias = Labels | Segmentation
"""What is scored: labels, or what ``Segmenter.segment`` returned."""


def evaluate(
    prediction: Prediction,
    truth: Labels,
    config: EvaluateConfig | None = None,
    execution: Execution | None = None,
    *,
    ignore: Labels | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score predicted nuclei against true ones, by the rules of ``docs/metrics.md``.

    Parameters
    ----------
    prediction, truth : path, array, sequence of arrays, or mapping of names to arrays
        See :data:`histocli.api.inputs.Labels`; both alike, or matched by name. -1 in a truth is
        not scored.
    config : EvaluateConfig, optional
        As on the command line. Arrays record no pixel size: give ``EvaluateConfig(mpp=...)`` where
        distances count; a segmentation has its own.
    execution : Execution, optional
        ``workers`` and ``on_error`` are used.
    ignore : optional
        Masks as the truth is given; what is not 0 does not count.
    progress : callable, optional
        See :data:`histocli.api.progress.Progress`.

    Returns
    -------
    EvaluateResult
        ``mean`` holds the mean of each metric over the images, ``scores.summary`` also intervals
        and pooled scores, ``images`` the scores of each image. Missed gates (``minimum``,
        ``maximum``) are listed in ``scores.missed_gates``; no error is raised for them.

    Raises
    ------
    InputNotFound, InvalidInput
        Labels are missing or cannot be read, or differ in shape.
    """
    from histocli.stages.evaluate.run import evaluate as run

    config, execution = _settings(config, execution, [prediction])
    no_dry_run(execution, "evaluate")
    check_as_many(_labels(prediction), truth, "prediction and truth")
    with scratch() as folder:
        result = run(
            label_word(_labels(prediction), folder / "prediction"),
            label_word(truth, folder / "truth"),
            config,
            execution,
            ignore=None if ignore is None else label_word(ignore, folder / "ignore"),
            track=track_of(progress),
        )
    return _named(result, "prediction", prediction, truth)


def compare(
    predictions: Mapping[str, Prediction],
    truth: Labels,
    config: EvaluateConfig | None = None,
    execution: Execution | None = None,
    *,
    ignore: Labels | None = None,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Score several predictions of the same images, and test their paired differences.

    Parameters
    ----------
    predictions : mapping of names to predictions
        At least two, each as in :func:`evaluate`; the names appear in the result.
    truth, config, execution, ignore, progress
        As in :func:`evaluate`.

    Returns
    -------
    ComparisonResult
        ``results`` holds the scores of each prediction, ``differences`` for every two of them the
        second minus the first, with interval and p-value for each metric.

    Raises
    ------
    InvalidOption
        There are fewer than two predictions.
    InputNotFound, InvalidInput
        As in :func:`evaluate`, or two predictions have no image in common.
    """
    from histocli.stages.evaluate.run import compare_models as run

    if len(predictions) < 2:
        raise InvalidOption(f"compare: takes two predictions at least, got {len(predictions)}")
    config, execution = _settings(config, execution, list(predictions.values()))
    no_dry_run(execution, "evaluate")
    for name, each in predictions.items():
        check_as_many(_labels(each), truth, f"{name} and truth")
    with scratch() as folder:
        words = [
            label_word(_labels(each), folder / f"prediction {number}")
            for number, each in enumerate(predictions.values())
        ]
        found = run(
            words,
            label_word(truth, folder / "truth"),
            config,
            execution,
            ignore=None if ignore is None else label_word(ignore, folder / "ignore"),
            track=track_of(progress),
        )
    return _renamed(found, dict(zip(words, predictions, strict=True)), truth)


def _renamed(found: ComparisonResult, names: Mapping[str, str], truth: Labels) -> ComparisonResult:
    """Return a result with the caller's names in the place of the words of the predictions."""
    results = (_named(each, names[each.input], None, truth) for each in found.results)
    differences = (
        replace(each, first=names[each.first], second=names[each.second])
        for each in found.differences
    )
    return replace(found, results=tuple(results), differences=tuple(differences))


def _labels(prediction: Prediction) -> Labels:
    return prediction.labels if isinstance(prediction, Segmentation) else prediction


def _settings(
    config: EvaluateConfig | None, execution: Execution | None, predictions: list[Prediction]
) -> tuple[EvaluateConfig, Execution]:
    """Return the settings, with the pixel size of the first segmentation unless one is given."""
    config = config or EvaluateConfig()
    known = [each.mpp for each in predictions if isinstance(each, Segmentation)]
    if config.mpp is None and known:
        config = replace(config, mpp=known[0])
    return config, execution or Execution()


def _named(
    result: EvaluateResult, name: str, prediction: Prediction | None, truth: Labels
) -> EvaluateResult:
    """Return a result that names no file of the scratch folder."""
    return replace(
        result,
        input=result.input if is_path(prediction) else name,
        truth=result.truth if is_path(truth) else "truth",
    )
