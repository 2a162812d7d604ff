"""Scores of a set of images: mean over images, its confidence interval, and pooled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from histocli.metrics.counts import Counts

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Scores of a set of images, by the short names of ``Counts.scores``."""

    mean: dict[str, float]
    """Mean over images; each image counts the same, however many nuclei it holds."""
    ci95: dict[str, tuple[float, float] | None]
    """Percentile interval of the mean when images are drawn anew; None with fewer than two images or no resampling."""
    pooled: dict[str, float]
    """The metric over the summed counts of all images; each nucleus or pixel counts the same."""


def summarise(counts: Sequence[Counts], *, bootstrap: int = 1000, seed: int = 0) -> Summary:
    """Summarise the counts of several images.

    Parameters
    ----------
    counts : sequence of Counts
        One item an image, at least one.
    bootstrap : int
        Resamplings of the images for the 95 % interval; 0 leaves the interval out.
    seed : int
        Seed of the resampling.
    """
    if not counts:
        raise ValueError("a summary needs at least one image")
    names = list(counts[0].scores())
    table = np.array([list(item.scores().values()) for item in counts])
    interval: dict[str, tuple[float, float] | None] = dict.fromkeys(names)
    if bootstrap and len(counts) > 1:
        rng = np.random.default_rng(seed)
        tail = 100 * (1 - CONFIDENCE) / 2
        # One row of draws at a time keeps the memory small where both numbers are large.
        means = np.stack([table[rng.integers(0, len(table), len(table))].mean(axis=0) for _ in range(bootstrap)])
        low, high = np.percentile(means, [tail, 100 - tail], axis=0)
        interval = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return Summary(
        mean=dict(zip(names, table.mean(axis=0).tolist(), strict=True)),
        ci95=interval,
        pooled=reduce(add, counts).scores(),
    )
