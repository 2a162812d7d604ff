"""Polygons and outlines, as the readers of annotation files return them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ring: TypeAlias = npt.NDArray[np.float64]
"""(n, 2) x and y of the corners of a closed line, n >= 3."""
Polygon: TypeAlias = tuple[Ring, ...]
"""The outer ring, then the holes."""


@dataclass(frozen=True)
class Outline:
    """The outline of one nucleus, or of an area to ignore."""

    polygons: tuple[Polygon, ...]
    ignored: bool = False


def ring_of(points: Iterable[Any]) -> Ring:
    """Return a ring of points [x, y].

    Raises ``ValueError`` or ``TypeError`` for fewer than three points, and for what is no number.
    """
    ring = np.array(list(points), np.float64)
    if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
        raise ValueError(f"a ring has shape {ring.shape}")
    if not np.isfinite(ring).all():
        raise ValueError("a coordinate is no finite number")
    return ring
