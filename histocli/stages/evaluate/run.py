"""Evaluation: compares predicted with true labels image by image, and sums up the scores.

A gate is a bound of a mean score, such as ``--min pq=0.55``; a missed gate fails the command.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from functools import partial

from histocli.annotations.pairs import Pairs, find_pairs
from histocli.base.errors import HistosynthError, InvalidInput, InvalidOption
from histocli.base.parallel import map_in_threads
from histocli.base.progress import Track, silent
from histocli.base.system import resolve_workers
from histocli.base.units import ASSUMED_MPP
from histocli.config.common import Execution, as_dict
from histocli.config.evaluate import EvaluateConfig
from histocli.metrics.summary import paired_differences, summarise
from histocli.stages.evaluate.pairs import STOPPED, check_partners, score_pair, with_ignored
from histocli.stages.evaluate.scores import (
    ComparisonResult,
    EvaluateResult,
    GroupScores,
    ImageScores,
    MissedGate,
    ModelDifference,
    Scores,
)
from histocli.stages.shared.labels import LABEL_FINDER
from histocli.stages.shared.results import Stopwatch

logger = logging.getLogger(__name__)

RULES = (
    "IoU > 0.5 is a match (f1_NN: > 0.NN); AJI reuses predictions, AJI+ does not; "
    "both sides empty is 1, one side empty is 0; "
    "detection: most centroid pairs within radius_um, then nearest; "
    "boundary_f1: boundary pixels within tolerance_um; hd95_um: mean over matched nuclei; "
    "dsb_ap: mean over images of the mean over 0.50-0.95 of TP / (TP + FP + FN); "
    "null is unknown and left out of means"
)
"""The rules of the scores in one line, written to the settings of every result."""


def evaluate(
    prediction: str,
    truth: str | None,
    config: EvaluateConfig,
    execution: Execution,
    *,
    ignore: str | None = None,
    track: Track = silent,
) -> EvaluateResult:
    """Compare predicted labels with true ones.

    Parameters
    ----------
    prediction, truth : str
        Labels of any kind, a folder of labels, or a CSV; see
        :func:`histocli.annotations.pairs.find_pairs`. An output folder of ``segment`` counts each
        slide once. Images are paired by name, patches of patch stores by number.
    config : EvaluateConfig
        Rules of the scores, gates, and bootstrap of the intervals.
    execution : Execution
        ``workers``, ``dry_run`` and ``on_error`` are used.
    ignore : str, optional
        Masks with the names of the true images; pixels that are not 0 are ignored.

    Returns
    -------
    EvaluateResult
        Lists missed gates; the caller shows the scores, then raises ``GateNotMet``.

    Raises
    ------
    InputNotFound
        An input is missing, or a true image has no prediction.
    InvalidInput
        Labels cannot be read, or prediction and truth differ in shape. With
        ``on_error="continue"`` it is raised only where no pair can be compared.
    """
    watch = Stopwatch()
    found = with_ignored(find_pairs(prediction, truth, LABEL_FINDER), ignore)
    check_partners(prediction, found, tolerant=execution.on_error == "continue")
    scores: Scores | None = None
    failures: list[tuple[str, str]] = []
    if not execution.dry_run:
        images, failures = _score_all(prediction, found, config, execution, track)
        scores = _sum_up(images, config)
    return EvaluateResult(
        input=prediction,
        truth=truth,
        status="done" if scores else "planned",
        seconds=watch.seconds if scores else 0.0,
        names=tuple(pair.name for pair in found.pairs) + found.without_prediction,
        scores=scores,
        failures=tuple(failures),
        without_prediction=found.without_prediction,
        without_truth=found.without_truth,
        settings={**as_dict(config), "rules": RULES},
    )


def _score_all(
    prediction: str, found: Pairs, config: EvaluateConfig, execution: Execution, track: Track
) -> tuple[list[ImageScores], list[tuple[str, str]]]:
    """Return the scores of the compared images, and name and error of each other image.

    ``InvalidInput`` is raised where no image could be compared.
    """
    workers = resolve_workers(execution.workers)
    score = partial(
        score_pair, config=config, workers=workers, tolerant=execution.on_error == "continue"
    )
    images: list[ImageScores] = []
    failures = [(name, "has no prediction of this name") for name in found.without_prediction]
    with track("comparing", len(found.pairs)) as bar:
        scored = map_in_threads(score, found.pairs, workers, STOPPED)
        for pair, each in zip(found.pairs, scored, strict=True):
            if isinstance(each, HistosynthError):
                failures.append((pair.name, str(each)))
            else:
                images.append(each)
            bar.advance()
    if not images:
        raise InvalidInput(
            f"{prediction}: none of {len(failures)} images could be compared; "
            f"the first: {failures[0][1]}"
        )
    assumed = sum(image.pixel_size.source == "assumed" for image in images)
    if assumed:
        logger.warning(
            "%d of %d images record no pixel size, %g um/px is assumed where distances count; "
            "say it with --mpp",
            assumed,
            len(images),
            ASSUMED_MPP,
        )
    return images, failures


def _sum_up(images: Sequence[ImageScores], config: EvaluateConfig) -> Scores:
    """Return the scores of a set of images and of its groups, and the missed gates."""
    counts = [image.counts for image in images]
    groups = [image.pair.truth.group for image in images]
    if config.resample == "group" and not any(groups):
        raise InvalidOption(
            "--resample group draws whole groups, but none are named; "
            "give a CSV with a column group"
        )
    sum_up = partial(summarise, bootstrap=config.bootstrap, seed=config.seed)
    summary = sum_up(counts, groups=groups if config.resample == "group" else None)
    by_group = []
    for name in sorted(set(groups)) if any(groups) else []:
        members = [each for each, group in zip(counts, groups, strict=True) if group == name]
        by_group.append(GroupScores(name, len(members), sum_up(members)))
    # a mean of NaN misses every gate
    missed = [
        MissedGate(name, summary.mean[name], bound)
        for gates, sign in ((config.minimum, 1), (config.maximum, -1))
        for name, bound in gates
        if not sign * summary.mean[name] >= sign * bound
    ]
    return Scores(
        images=tuple(images), summary=summary, groups=tuple(by_group), missed_gates=tuple(missed)
    )


def compare_models(
    predictions: Sequence[str],
    truth: str,
    config: EvaluateConfig,
    execution: Execution,
    *,
    ignore: str | None = None,
    track: Track = silent,
) -> ComparisonResult:
    """Compare each prediction with the truth, and every two predictions with each other.

    Parameters
    ----------
    predictions : sequence of str
        Each is as in :func:`evaluate`, and so are the other parameters.

    Returns
    -------
    ComparisonResult
        Two predictions are compared over the images that both have.

    Raises
    ------
    InvalidOption
        A prediction is named twice.
    InputNotFound, InvalidInput
        As in :func:`evaluate`, or two predictions have no image in common.
    """
    repeated = {word for word in predictions if list(predictions).count(word) > 1}
    if repeated:
        raise InvalidOption(
            f"{sorted(repeated)[0]} is named twice; a prediction is compared with others, "
            "not with itself"
        )
    results = tuple(
        evaluate(word, truth, config, execution, ignore=ignore, track=track) for word in predictions
    )
    pairs = () if execution.dry_run else itertools.combinations(results, 2)
    differences = tuple(_difference(*pair, config) for pair in pairs)
    return ComparisonResult(status=results[0].status, results=results, differences=differences)


def _difference(
    first: EvaluateResult, second: EvaluateResult, config: EvaluateConfig
) -> ModelDifference:
    """Return the paired differences of two predictions over the images that both have."""
    of_second = {image.name: image.counts for image in second.images}
    both = [image for image in first.images if image.name in of_second]
    if not both:
        raise InvalidInput(
            f"{first.input} and {second.input} have no image in common to be compared on"
        )
    groups = [image.pair.truth.group for image in both]
    metrics = paired_differences(
        [image.counts for image in both],
        [of_second[image.name] for image in both],
        seed=config.seed,
        groups=groups if config.resample == "group" else None,
    )
    return ModelDifference(first=first.input, second=second.input, metrics=metrics)
