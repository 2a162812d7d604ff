"""Histograms of the size and shape of nuclei, with the same bins for references and patches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import Json

AREA_EDGES_UM2 = tuple(round(8 * 2 ** (k / 2), 2) for k in range(13))
"""Edges of the bins of areas: from 8 to 512 square micrometres, each 1.41 times the one before."""
ELONGATION_EDGES = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Edges of the bins of elongations, the major axis divided by the minor one."""
PERCENTILES = (5, 25, 50, 75, 95)
DISTRIBUTION_KEYS = {"n", "mean", "min", *(f"p{percent}" for percent in PERCENTILES), "max"}
BARS = " ▁▂▃▄▅▆▇█"


def shares(values: npt.NDArray[np.floating], edges: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of values in each bin; values beyond the edges count in the outermost bins.

    The shares sum to 1, or are all 0 where there are no values.
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return tuple(float(share) for share in counts / max(len(values), 1))


def weighted_shares(
    histograms: Sequence[Sequence[float] | None], weights: Sequence[float]
) -> list[float]:
    """Return the weighted mean of histograms, without those empty or None; [] if none is left."""
    known = [(weight, part) for part, weight in zip(histograms, weights, strict=True) if part]
    total = sum(weight for weight, _ in known)
    if not total:
        return []
    summed = sum((weight * np.asarray(part) for weight, part in known), start=np.float64(0))
    return [float(share) for share in np.atleast_1d(summed / total)]


def distribution(values: npt.NDArray[Any]) -> Json:
    """Return count, mean, extremes and percentiles of finite values; only ``n`` if all are not."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"n": 0}
    percentiles = zip(PERCENTILES, np.percentile(finite, PERCENTILES), strict=True)
    return {
        "n": int(finite.size),
        "mean": float(finite.mean()),
        "min": float(finite.min()),
        **{f"p{percent}": float(value) for percent, value in percentiles},
        "max": float(finite.max()),
    }


def bars(histogram: tuple[float, ...] | list[float]) -> str:
    """Draw a histogram as one line of block characters; the tallest bar is a full block.

    >>> bars([0.0, 0.25, 0.5])
    ' ▄█'
    """
    tallest = max(histogram, default=0)
    if tallest <= 0:
        return BARS[0] * len(histogram)
    return "".join(BARS[round(share / tallest * (len(BARS) - 1))] for share in histogram)
