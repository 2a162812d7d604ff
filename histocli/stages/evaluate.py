"""Evaluation: predicted labels beside true ones, pair by pair, and what that makes of the whole
set.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.annotations.labels import LARGE_PX
from histocli.annotations.outlines import Opened
from histocli.annotations.pairs import Pair, Pairs, common_shape, find_pairs
from histocli.annotations.sources import LabelSource
from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput, InvalidOption
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.system import resolve_workers
from histocli.config.common import Execution, as_dict
from histocli.config.evaluate import EvaluateConfig
from histocli.instances.histograms import AREA_EDGES_UM2
from histocli.instances.overlaps import Overlaps
from histocli.metrics.comparison import Comparison, Rules, compare, compare_windows
from histocli.metrics.fates import Fate
from histocli.metrics.summary import paired_differences, summarise
from histocli.stages.scores import (
    CELL_PX,
    IOU_BINS,
    PROBABILITY_BINS,
    ComparisonResult,
    EvaluateResult,
    Outcome,
    read_pair,
    size_text,
)
from histocli.stages.shared.labels import LABEL_FINDER

log = logging.getLogger(__name__)

RULES = (
    "IoU > 0.5 is a match (f1_NN: > 0.NN); AJI reuses predictions, AJI+ does not; both sides empty is 1, one side empty is 0; "
    "detection: most centroid pairs within radius_um, then nearest; boundary_f1: boundary pixels within tolerance_um; "
    "hd95_um: mean over matched nuclei; dsb_ap: mean over images of the mean over 0.50-0.95 of TP / (TP + FP + FN); "
    "null is unknown and left out of means"
)
ASSUMED_MPP = 0.25
SHOWN_NAMES = 20  # of a list in an error
STOPPED = "evaluation stopped; nothing was written, run it again"


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
        Labels of any kind that :mod:`histocli.annotations.sources` knows, or a folder of these,
        such as an output folder of ``segment``: each slide once, its store rather than its TIFF,
        never its overlay; or ``-`` for their paths on stdin. Images pair by name; two single images
        pair whatever their names. A patch store has one image a patch, paired by number. ``truth``
        may be a CSV with the column ``truth``; or ``prediction`` is one with columns ``prediction``
        and ``truth``, and ``truth`` is None. Both may have columns ``group``, ``mpp``, ``image``
        and ``ignore``.
    config : EvaluateConfig
        Rules, gates and interval.
    execution : Execution
        Workers, and what to do with a pair that cannot be compared.
    ignore : str, optional
        Masks with the names of the true images: what is not 0 is ignored.
    track : Track
        Progress.

    Returns
    -------
    EvaluateResult
        With ``missed_gates``; the caller raises ``GateNotMet`` once the scores are shown.

    Raises
    ------
    InputNotFound
        An input is missing, or a true image has no prediction.
    InvalidInput
        Labels that cannot be read or do not have the shape of their partner; with
        ``on_error="continue"`` only if that is so for all pairs.
    """
    start = time.monotonic()
    pairing = _with_ignored(find_pairs(prediction, truth, LABEL_FINDER), ignore)
    names = tuple(pair.name for pair in pairing.pairs) + pairing.without_prediction
    if pairing.without_prediction and (execution.on_error == "stop" or not pairing.pairs):
        raise InputNotFound(
            f"{prediction}: no prediction for {len(pairing.without_prediction)} of {len(names)} true images "
            f"({_some(pairing.without_prediction)})"
            + (
                f", and no truth for the predictions {_some(pairing.without_truth)}"
                if pairing.without_truth
                else ""
            )
            + "; names must agree, or name the pairs in a CSV with columns prediction, truth"
        )
    if pairing.without_truth and pairing.pairs:
        log.warning(
            "%s: %d predictions have no truth and are left out: %s",
            prediction,
            len(pairing.without_truth),
            _some(pairing.without_truth),
        )
    result = EvaluateResult(
        prediction=prediction,
        truth=truth,
        status="planned",
        names=names,
        without_prediction=pairing.without_prediction,
        without_truth=pairing.without_truth,
        settings={**as_dict(config), "rules": RULES},
    )
    if execution.dry_run:
        return result

    outcomes: list[Outcome] = []
    failures = [(name, "has no prediction of this name") for name in pairing.without_prediction]
    workers = resolve_workers(execution.workers)
    examine = partial(
        _compare, config=config, workers=workers, tolerant=execution.on_error == "continue"
    )
    with track("comparing", len(pairing.pairs)) as bar:
        for name, outcome in map_in_threads(examine, pairing.pairs, workers):
            if isinstance(outcome, Outcome):
                outcomes.append(outcome)
            else:
                failures.append((name, str(outcome)))
            bar.advance()
    if not outcomes:
        raise InvalidInput(
            f"{prediction}: none of {len(names)} images could be compared; the first: {failures[0][1]}"
        )
    assumed = [outcome.name for outcome in outcomes if outcome.mpp_source == "assumed"]
    if assumed:
        log.warning(
            "%d of %d images record no pixel size, %g um/px is assumed where distances count; say it with --mpp",
            len(assumed),
            len(outcomes),
            ASSUMED_MPP,
        )
    return dataclasses.replace(
        result,
        status="done",
        outcomes=tuple(outcomes),
        failures=tuple(failures),
        **_summaries(outcomes, config),
        seconds=time.monotonic() - start,
    )


def _summaries(outcomes: Sequence[Outcome], config: EvaluateConfig) -> dict[str, Any]:
    """Return the fields of a result that sum its images up."""
    counts = [outcome.counts for outcome in outcomes]
    groups = [outcome.pair.truth.group for outcome in outcomes]
    named = sorted(set(groups))
    if config.resample == "group" and named == [""]:
        raise InvalidOption(
            "--resample group draws whole groups, but none are named; give a CSV with a column group"
        )
    drawn = groups if config.resample == "group" else None
    summary = summarise(counts, bootstrap=config.bootstrap, seed=config.seed, groups=drawn)
    by_group = []
    for name in named if named != [""] else []:
        members = [item for item, group in zip(counts, groups, strict=True) if group == name]
        by_group.append(
            (name, len(members), summarise(members, bootstrap=config.bootstrap, seed=config.seed))
        )
    low = [
        (name, summary.mean[name], bound)
        for name, bound in config.minimum
        if not summary.mean[name] >= bound
    ]
    high = [
        (name, summary.mean[name], bound)
        for name, bound in config.maximum
        if not summary.mean[name] <= bound
    ]
    return {"summary": summary, "groups": tuple(by_group), "missed_gates": (*low, *high)}


def compare_models(
    predictions: Sequence[str],
    truth: str,
    config: EvaluateConfig,
    execution: Execution,
    *,
    ignore: str | None = None,
    track: Track = silent,
) -> ComparisonResult:
    """Compare several predictions with one truth, and with each other image by image.

    Parameters and errors are those of :func:`evaluate`; every two predictions are compared over the
    images that both have.
    """
    repeated = {word for word in predictions if list(predictions).count(word) > 1}
    if repeated:
        raise InvalidOption(
            f"{sorted(repeated)[0]} is named twice; a prediction is compared with others, not with itself"
        )
    results = tuple(
        evaluate(word, truth, config, execution, ignore=ignore, track=track) for word in predictions
    )
    differences = []
    if all(result.summary is not None for result in results):
        for number, one in enumerate(results):
            for two in results[number + 1 :]:
                of_one, of_two = (
                    {outcome.name: outcome for outcome in result.outcomes} for result in (one, two)
                )
                both = [name for name in of_one if name in of_two]
                if not both:
                    raise InvalidInput(
                        f"{one.prediction} and {two.prediction} have no image in common to be compared on"
                    )
                groups = (
                    [of_one[name].pair.truth.group for name in both]
                    if config.resample == "group"
                    else None
                )
                found = paired_differences(
                    [of_one[name].counts for name in both],
                    [of_two[name].counts for name in both],
                    bootstrap=config.bootstrap,
                    seed=config.seed,
                    groups=groups,
                )
                differences.append((one.prediction, two.prediction, found))
    return ComparisonResult(
        results=results, differences=tuple(differences), settings=results[0].settings
    )


def map_in_threads(
    function: Callable[[Any], Any], jobs: Iterable[Any], workers: int
) -> Iterator[Any]:
    """Apply a function in threads and yield results in order; few are under way at a time, so that
    a stop does not wait.
    """
    waiting = iter(jobs)
    with ThreadPoolExecutor(workers) as pool:
        running: list[Any] = []
        try:
            while True:
                raise_if_stopped(STOPPED)
                while len(running) < 4 * workers and (job := next(waiting, None)) is not None:
                    running.append(pool.submit(function, job))
                if not running:
                    return
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()


_one_large = threading.Lock()
"""Large images take all workers and much memory, so one is compared at a time."""


def _compare(
    pair: Pair, *, config: EvaluateConfig, workers: int, tolerant: bool
) -> tuple[str, Outcome | HistosynthError]:
    """Read and compare one pair; when tolerant, an error is a result."""
    try:
        return pair.name, _outcome(pair, config, workers)
    except HistosynthError as error:
        if not tolerant:
            raise
        return pair.name, error


def _outcome(pair: Pair, config: EvaluateConfig, workers: int) -> Outcome:
    true, predicted = pair.truth.labels.open(), pair.prediction.open()
    shape = common_shape(true, predicted)
    mpp, source = _pixel_size(pair, true, predicted, config)
    rules = Rules(
        mpp=mpp,
        radius_um=config.radius_um,
        tolerance_um=config.tolerance_um,
        boundaries=config.boundaries,
        border=config.border,
    )
    for side in (true, predicted):
        if side.shape is not None and side.shape != shape:
            raise InvalidInput(
                f"{side.source} has {size_text(side.shape)} pixels but {true.source} has {size_text(shape)}; labels are compared "
                "pixel by pixel, so both must cover the same image at the same resolution"
            )
    if shape[0] * shape[1] >= LARGE_PX and pair.truth.ignore is None:
        with _one_large:
            found = compare_windows(
                true.on(shape), predicted.on(shape), rules, partial(_map_windows, workers=workers)
            )
    else:
        truth, prediction = read_pair(pair, true, predicted)
        found = compare(truth, prediction, rules)
    return _described(pair, found, rules, source)


def _map_windows(
    function: Callable[[Any], Any], jobs: Iterable[Any], *, workers: int
) -> Iterator[Any]:
    return map_in_threads(function, jobs, workers)


def _pixel_size(
    pair: Pair, true: Opened, predicted: Opened, config: EvaluateConfig
) -> tuple[float, str]:
    """Return micrometres per pixel and where they come from; labels that say different things are
    told apart by the truth.
    """
    known = [
        (config.mpp, "given"),
        (pair.truth.mpp, "manifest"),
        (true.mpp, "truth"),
        (predicted.mpp, "prediction"),
    ]
    if true.mpp and predicted.mpp and abs(true.mpp - predicted.mpp) > 0.02 * true.mpp:
        log.warning(
            "%s says %.4g um/px but %s says %.4g; both have the same pixels, so one is wrong",
            true.source,
            true.mpp,
            predicted.source,
            predicted.mpp,
        )
    return next(
        ((mpp, source) for mpp, source in known if mpp is not None), (ASSUMED_MPP, "assumed")
    )


def _described(pair: Pair, found: Comparison, rules: Rules, mpp_source: str) -> Outcome:
    """Keep of a comparison what summaries and reports need; the table of a large slide is let
    go.
    """
    table, fates = found.table, found.fates
    best = np.zeros(len(table.truth.areas))
    np.maximum.at(best, table.rows, table.iou)
    pixel = rules.mpp * rules.mpp
    edges = np.array(AREA_EDGES_UM2)
    areas = [
        np.histogram(np.clip(side * pixel, edges[0], edges[-1]), edges)[0]
        for side in (table.truth.areas, table.prediction.areas)
    ]
    return Outcome(
        pair=pair,
        counts=found.counts,
        missed=fates.missed,
        false=fates.false,
        mpp=rules.mpp,
        mpp_source=mpp_source,
        worst=_worst_cell(found),
        ious=np.histogram(best, IOU_BINS, (0, 1))[0].astype(np.int64),
        areas=np.stack(areas).astype(np.int64),
        calibration=_calibration(pair.prediction, table, fates.prediction == Fate.MATCHED),
    )


def _worst_cell(found: Comparison) -> tuple[int, int]:
    """Return where the square with most unmatched nuclei begins, on a grid of squares; the first of
    equals.
    """
    sides = (
        (found.table.truth.centroids, found.fates.truth),
        (found.table.prediction.centroids, found.fates.prediction),
    )
    wrong = np.concatenate([places[kinds != Fate.MATCHED] for places, kinds in sides])
    if not len(wrong):
        return 0, 0
    cells, counts = np.unique((wrong // CELL_PX).astype(np.int64), axis=0, return_counts=True)
    top, left = (int(number) * CELL_PX for number in cells[counts.argmax()])
    return top, left


def _calibration(
    prediction: LabelSource, table: Overlaps, matched: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64] | None:
    """Count predicted nuclei by the probability that their store gives them."""
    known = prediction.probabilities() if prediction.probabilities is not None else None
    if known is None or not len(known[0]):
        return None
    ids, values = known
    at = np.minimum(np.searchsorted(ids, table.prediction.ids), len(ids) - 1)
    usable = (ids[at] == table.prediction.ids) & np.isfinite(values[at])
    value, hit = np.clip(values[at][usable], 0, 1), matched[usable]
    part = np.minimum((value * PROBABILITY_BINS).astype(np.int64), PROBABILITY_BINS - 1)
    columns = (np.ones(len(part)), value, hit)
    return np.stack([np.bincount(part, column, PROBABILITY_BINS) for column in columns], axis=1)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (
        f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    )


def _with_ignored(pairing: Pairs, word: str | None) -> Pairs:
    """Give each pair its mask of what is ignored."""
    if word is None:
        return pairing
    masks = LABEL_FINDER.find(word)
    if len(masks) == len(pairing.pairs) == 1:
        masks = {pairing.pairs[0].name: next(iter(masks.values()))}
    missing = [pair.name for pair in pairing.pairs if pair.name not in masks]
    if missing:
        raise InputNotFound(
            f"--ignore {word}: no mask for {len(missing)} images ({_some(missing)}); names must agree"
        )
    pairs = tuple(
        dataclasses.replace(pair, truth=dataclasses.replace(pair.truth, ignore=masks[pair.name]))
        for pair in pairing.pairs
    )
    return dataclasses.replace(pairing, pairs=pairs)
