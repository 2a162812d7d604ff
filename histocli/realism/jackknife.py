"""Measures with intervals from leaving out one reference image at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from histocli.base.types import IntArray
from histocli.realism.distances import Chosen

Statistic = Callable[[Chosen, Chosen], float]
"""Computes a number from the masks of the real and of the synthetic patches to use."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number about a set of synthetic patches."""

    key: str
    """Short name, the key in JSON."""
    name: str
    """Name shown to people."""
    value: float
    ci95: tuple[float, float] | None
    """95 % interval of the value; None if fewer than three reference images could be left out."""
    meaning: str


class Jackknife:
    """Leaves each reference image out in turn (Tukey 1958).

    Real patches that show the image, and synthetic patches made after it, are left out together:
    patches of one image resemble each other, and do not count as independent.
    """

    def __init__(self, real_images: IntArray, followed: IntArray) -> None:
        self._all = np.ones(len(real_images), bool), np.ones(len(followed), bool)
        kept = [(real_images != image, followed != image) for image in np.unique(real_images)]
        self._kept = [sides for sides in kept if all(side.any() for side in sides)]

    def measure(
        self,
        key: str,
        name: str,
        statistic: Statistic,
        meaning: str,
        bounds: tuple[float, float] = (0.0, np.inf),
    ) -> Measure:
        """Return a statistic of all patches, with an interval that is cut at ``bounds``."""
        value = statistic(*self._all)
        left = [each for kept in self._kept if np.isfinite(each := statistic(*kept))]
        interval = jackknife_interval(value, left)
        if interval is not None:
            interval = max(interval[0], bounds[0]), min(interval[1], bounds[1])
        return Measure(key=key, name=name, value=value, ci95=interval, meaning=meaning)


def jackknife_interval(value: float, left_out: Sequence[float]) -> tuple[float, float] | None:
    """Return the normal 95 % interval of a statistic from its values with one item left out.

    None where fewer than three items could be left out, or the value is not finite.
    """
    n = len(left_out)
    if n < 3 or not np.isfinite(value):
        return None
    error = float(np.sqrt((n - 1) / n * np.sum((np.asarray(left_out) - np.mean(left_out)) ** 2)))
    half = 1.959964 * error  # the central 95 % of a normal distribution
    return value - half, value + half
