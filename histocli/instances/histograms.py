"""Histograms of the size and shape of nuclei, with the same bins for references and patches."""

import numpy as np
import numpy.typing as npt

AREA_EDGES_UM2 = tuple(round(8 * 2 ** (k / 2), 2) for k in range(13))
"""Edges of the bins of areas: from 8 to 512 square micrometres, each 1.41 times the one before."""
ELONGATION_EDGES = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Edges of the bins of elongations, the major axis divided by the minor one."""
BARS = " ▁▂▃▄▅▆▇█"


def shares(values: npt.NDArray[np.floating], edges: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of values in each bin; values beyond the edges count in the outermost bins.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
    edges : tuple of float
        Ascending.

    Returns
    -------
    tuple of float
        ``len(edges) - 1`` numbers that sum to 1, or all 0 where there are no values.
    """
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return tuple(float(share) for share in counts / max(len(values), 1))


def bars(histogram: tuple[float, ...] | list[float]) -> str:
    """Draw a histogram as one line of block characters, the tallest full.

    >>> bars([0.0, 0.25, 0.5])
    ' ▄█'
    """
    tallest = max(histogram, default=0)
    if tallest <= 0:
        return BARS[0] * len(histogram)
    return "".join(BARS[round(share / tallest * (len(BARS) - 1))] for share in histogram)
