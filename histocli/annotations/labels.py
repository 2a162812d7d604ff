"""A label image that is opened for reading: one class for all files and stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidInput

LARGE_PX = 50_000_000
"""A label image of at least this many pixels is read in parts (windows) if its format allows."""

Labels: TypeAlias = npt.NDArray[np.integer[Any]]
"""(H, W) of any integer type: 0 = background, k = nucleus k, -1 = ignored."""
Shape: TypeAlias = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class OpenLabels:
    """A label image of a fixed size that can be read in windows."""

    source: str  # for messages
    shape: Shape
    read: Callable[[slice, slice], Labels]
    """Reads a window of rows and columns; safe from several threads."""
    mpp: float | None = None  # micrometres per pixel, where they are recorded

    @classmethod
    def in_memory(cls, labels: Labels, source: str, mpp: float | None = None) -> OpenLabels:
        """Wrap an array, shape (H, W)."""
        height, width = labels.shape
        return cls(source=source, shape=(height, width), read=lambda y, x: labels[y, x], mpp=mpp)

    @property
    def extent(self) -> Shape:
        """Height and width, equal to ``shape``; ``Outlines`` also has this property."""
        return self.shape

    def on(self, _: Shape) -> OpenLabels:
        """Return this image unchanged; only ``Outlines.on`` needs a shape."""
        return self

    def whole(self) -> Labels:
        """Read the whole image."""
        return self.read(slice(None), slice(None))


def checked_ids(labels: Labels, source: str) -> Labels:
    """Return labels; ``InvalidInput`` for labels below -1, mostly due to a type that overflowed."""
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < -1:
        raise InvalidInput(
            f"{source}: holds the label {int(labels.min())}; labels are 0 for background, "
            "1 and above for nuclei, and -1 for ignored pixels; was it saved with too small a type?"
        )
    return labels
