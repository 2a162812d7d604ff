"""Scores of a set of images, with their intervals, and differences between two predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from histocli.base.rng import rng_for
from histocli.metrics.counts import Counts
from histocli.metrics.table import METRICS, NAMES, scores_of

EXACT_UP_TO = 12
"""Up to this many images (or groups) the permutation test tries every way to swap the two
predictions in some images; beyond, it draws 10,000 ways."""
ALPHA = 0.05  # a difference with a smaller p-value is called one
BLOCK = 256  # resamplings computed at a time, so that many images need little memory


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of a set of images, by the names of the metrics."""

    mean: dict[str, float]
    """Mean over images, each with the same weight; NaN if the metric is NaN for every image."""
    ci95: dict[str, tuple[float, float] | None]
    """95 % bootstrap percentile interval of the mean; None with fewer than two images (or groups),
    without resampling, or where the mean is NaN."""
    pooled: dict[str, float]
    """The metric of the summed counts of all images: each nucleus or pixel has the same weight."""
    known: dict[str, int]
    """Number of images where the metric is not NaN; the mean is over these images."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two predictions of the same images: the second minus the first."""

    mean: float
    ci95: tuple[float, float] | None
    """95 % interval of the mean difference: all shifts that the permutation test does not reject at
    5 %, so it leaves 0 out exactly where ``p_value`` is below 0.05. None with fewer than six images
    (or groups), of which not even a difference in all can be shown."""
    p_value: float
    """Permutation test (Fisher 1935): of all ways to swap the two predictions in some images, the
    share that makes the absolute difference of the means as large or larger."""
    better: int
    """Images where the second prediction is better; 0 for metrics of which neither is better."""
    worse: int
    images: int
    """Images where the metric of both predictions is not NaN."""


def summarise(
    counts: Sequence[Counts],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Summary:
    """Summarise the counts of several images.

    Parameters
    ----------
    counts : sequence of Counts
        One item an image, at least one.
    bootstrap, seed : int
        Resamplings of the images for the 95 % interval, or 0 for none, and their seed.
    groups : sequence of str, optional
        The group of each image, such as the patient. Then whole groups are resampled (Davison and
        Hinkley 1997, section 3.8), because images of one patient resemble each other.
    """
    if not counts:
        raise ValueError("a summary needs at least one image")
    table = _table(counts)
    mean, known = _means(table)
    return Summary(
        mean=dict(zip(NAMES, mean, strict=True)),
        ci95=dict(zip(NAMES, _intervals(table, bootstrap, seed, groups), strict=True)),
        pooled=scores_of(reduce(add, counts)),
        known=dict(zip(NAMES, known, strict=True)),
    )


def paired_differences(
    first: Sequence[Counts],
    second: Sequence[Counts],
    *,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> dict[str, Difference]:
    """Return the second minus the first of two predictions of the same images, by metric.

    Parameters
    ----------
    first, second : sequence of Counts
        Item i of both is for image i; at least one.
    seed, groups
        As in :func:`summarise`; the permutation test swaps whole groups.
    """
    table = _table(second) - _table(first)  # NaN where either score is NaN
    mean, known = _means(table)
    p_values, intervals = _sign_flip(table, seed, groups)
    gains = table * [metric.sign for metric in METRICS]
    better, worse = (gains > 0).sum(axis=0).tolist(), (gains < 0).sum(axis=0).tolist()
    return {
        name: Difference(
            mean=mean[i],
            ci95=intervals[i],
            p_value=p_values[i],
            better=better[i],
            worse=worse[i],
            images=known[i],
        )
        for i, name in enumerate(NAMES)
    }


ScoreTable = npt.NDArray[np.float64]
"""(n, m) a row for each image or group, a column for each of ``NAMES``; NaN if unknown."""


def _table(counts: Sequence[Counts]) -> ScoreTable:
    return np.array([list(scores_of(each).values()) for each in counts], np.float64)


def _means(table: ScoreTable) -> tuple[list[float], list[int]]:
    """Return the mean of the finite values of each column (NaN without any), and their number."""
    sums, numbers = _by_group(table, None)
    known = numbers.sum(axis=0)
    return _divided(sums.sum(axis=0), known).tolist(), known.astype(int).tolist()


def _divided(total: ScoreTable, known: ScoreTable) -> ScoreTable:
    """Return total / known; NaN where ``known`` is 0."""
    return np.asarray(np.divide(total, known, out=np.full(total.shape, np.nan), where=known > 0))


def _intervals(
    table: ScoreTable, bootstrap: int, seed: int, groups: Sequence[str] | None
) -> list[tuple[float, float] | None]:
    """Return the bootstrap interval of the mean of each column, as in :class:`Summary`."""
    sums, numbers = _by_group(table, groups)
    n = len(sums)
    if not bootstrap or n < 2:
        return [None] * table.shape[1]
    rng = np.random.default_rng(seed)
    means = []
    for begin in range(0, bootstrap, BLOCK):
        draws = rng.integers(0, n, (min(BLOCK, bootstrap - begin), n))
        times = np.stack([np.bincount(row, minlength=n) for row in draws]).astype(np.float64)
        means.append(_divided(times @ sums, times @ numbers))
    every = np.concatenate(means)
    usable = np.isfinite(every).any(axis=0)
    edges = np.full((2, table.shape[1]), np.nan)
    tail = 100 * (1 - 0.95) / 2
    edges[:, usable] = np.nanpercentile(every[:, usable], [tail, 100 - tail], axis=0)
    return [None if math.isnan(low) else (float(low), float(high)) for low, high in edges.T]


def _by_group(table: ScoreTable, groups: Sequence[str] | None) -> tuple[ScoreTable, ScoreTable]:
    """Return sum and number of the finite values by group and column; by image without groups."""
    finite = np.isfinite(table)
    sums, numbers = np.where(finite, table, 0), finite.astype(np.float64)
    if groups is None:
        return sums, numbers
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    member = np.zeros((len(names), len(table)))
    member[index.ravel(), np.arange(len(table))] = 1
    return member @ sums, member @ numbers


def _sign_flip(
    table: ScoreTable, seed: int, groups: Sequence[str] | None
) -> tuple[list[float], list[tuple[float, float] | None]]:
    """Return the two-sided p-value and the interval of the permutation test of each column."""
    sums, numbers = _by_group(table, groups)
    n = len(sums)
    if n <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = 1.0 - 2.0 * rng_for(seed, "sign flip").integers(0, 2, (10_000, n))
        signs[0] = 1  # one of the ways is to swap nothing, so that no p-value is 0
    slack = 1e-12 * np.abs(sums).sum(axis=0)  # equal sums may differ by rounding
    extreme = np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - slack
    return list(extreme.mean(axis=0).tolist()), _not_rejected(signs < 0, sums, numbers)


def _not_rejected(
    swapped: npt.NDArray[np.bool_], sums: ScoreTable, numbers: ScoreTable
) -> list[tuple[float, float] | None]:
    """Return the interval of shifts that the permutation test does not reject, by column.

    Let d be a shift below the mean. To swap a set of images makes the sum of all x - d as extreme
    exactly where the mean of x over the set, or over the other images, is at most d. So the p-value
    of d is the share of the ways to swap for which the smaller of the two means is at most d, and
    the lowest d that is not rejected is a quantile of these. Above the mean it is the mirror image.
    A set without known values makes every shift as extreme.
    """
    inside = swapped.astype(np.float64)
    means = [_divided(part @ sums, part @ numbers) for part in (inside, 1 - inside)]
    unknown = np.isnan(means[0]) | np.isnan(means[1])
    low = np.where(unknown, -np.inf, np.fmin(*means))
    high = np.where(unknown, np.inf, np.fmax(*means))
    last = math.ceil(ALPHA * len(swapped)) - 1
    lowest = np.partition(low, last, axis=0)[last]
    highest = np.partition(high, len(swapped) - 1 - last, axis=0)[len(swapped) - 1 - last]
    return [
        (float(a), float(b)) if math.isfinite(a) and math.isfinite(b) else None
        for a, b in zip(lowest, highest, strict=True)
    ]
