"""Label images that are read window by window, so that a slide is never in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from histocli.base.types import BoolMask, IntArray
from histocli.instances.overlaps import LabelImage

CORE_PX = 4096
"""Side of a window: two shards of our label stores, so that few chunks are decoded twice."""

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""``map``, or the method of a thread pool; results come in the order of the jobs."""


class Windowed(Protocol):
    """A label image that is read in parts."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window that lies inside; safe from several threads."""


class InMemory:
    """A label image in memory, in the shape of :class:`Windowed`."""

    def __init__(self, labels: LabelImage) -> None:
        self._labels = labels
        self.shape = labels.shape[0], labels.shape[1]

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window."""
        return self._labels[rows, columns]


@dataclass(frozen=True)
class Rectangle:
    """Part of an image: rows top..bottom, columns left..right, half open."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def meets(self, other: "Rectangle") -> bool:
        """Tell whether the two share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )

    def grown(self, before: int, after: int, shape: tuple[int, int]) -> "Rectangle":
        """Return the window with a margin, cut at the border of the image."""
        return Rectangle(
            max(self.top - before, 0),
            min(self.bottom + after, shape[0]),
            max(self.left - before, 0),
            min(self.right + after, shape[1]),
        )

    def within(self, area: "Rectangle") -> tuple[slice, slice]:
        """Return the rows and columns, counted from the first pixel of a larger rectangle."""
        top, left = area.top, area.left
        return Rectangle(
            self.top - top, self.bottom - top, self.left - left, self.right - left
        ).slices


def tile(shape: tuple[int, int], shift: int = 0) -> list[Rectangle]:
    """Tile an image with windows.

    All but the first of each axis begin ``shift`` pixels later: then a window that is read with a
    margin of as many pixels before it begins where chunks begin.
    """
    rows, columns = (
        [
            (start + shift * (start > 0), min(start + CORE_PX + shift, side))
            for start in range(0, max(side - shift, 1), CORE_PX)
        ]
        for side in shape
    )
    return [Rectangle(top, bottom, left, right) for top, bottom in rows for left, right in columns]


class WindowLabels(NamedTuple):
    """Truth and prediction in one window, both 0 where the truth is ignored."""

    truth: LabelImage
    prediction: LabelImage
    ignored: BoolMask | None
    """Where the truth is ignored; None if no pixel is."""


class MaskedPair:
    """Truth and prediction, some nuclei painted over.

    True nuclei that are left out become ignored pixels, predicted ones background.
    """

    def __init__(
        self, truth: Windowed, prediction: Windowed, no_truth: IntArray, no_prediction: IntArray
    ) -> None:
        self._sides, self._no_truth = (truth, prediction), no_truth
        self._no_prediction = no_prediction
        self.shape = truth.shape

    def read(self, window: Rectangle) -> WindowLabels:
        """Return both in a window; safe from several threads."""
        truth, prediction = (side.read(*window.slices) for side in self._sides)
        ignored = (truth < 0) | np.isin(truth, self._no_truth)
        drop = (prediction < 0) | np.isin(prediction, self._no_prediction) | ignored
        if drop.any():
            prediction = np.where(drop, 0, prediction)
        if not ignored.any():
            return WindowLabels(truth, prediction, None)
        return WindowLabels(np.where(ignored, 0, truth), prediction, ignored)
