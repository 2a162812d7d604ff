"""Label images that are read window by window, so that a slide is never in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

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
        ...

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window that lies inside; safe from several threads."""
        ...


class InMemory:
    """A label image in memory, in the shape of :class:`Windowed`."""

    def __init__(self, labels: LabelImage) -> None:
        self._labels = labels

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._labels.shape
        return height, width

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
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Its columns."""
        return slice(self.left, self.right)

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
        return (
            slice(self.top - area.top, self.bottom - area.top),
            slice(self.left - area.left, self.right - area.left),
        )


def tile(shape: tuple[int, int], shift: int = 0) -> list[Rectangle]:
    """Tile an image with windows.

    Parameters
    ----------
    shape : (int, int)
    shift : int
        Pixels by which all windows but the first of each axis begin later: then a window that is
        read with a margin of as many pixels before it begins where chunks begin.
    """
    rows, columns = (
        [
            (start + shift * (start > 0), min(start + CORE_PX + shift, side))
            for start in range(0, max(side - shift, 1), CORE_PX)
        ]
        for side in shape
    )
    return [Rectangle(top, bottom, left, right) for top, bottom in rows for left, right in columns]


@dataclass(frozen=True)
class WindowLabels:
    """Truth and prediction in one window."""

    truth: LabelImage
    """0 where the truth is ignored."""
    prediction: LabelImage
    """0 where the truth is ignored."""
    ignored: BoolMask | None
    """Where the truth is ignored; None if no pixel is."""


class MaskedPair:
    """Truth and prediction, some nuclei painted over.

    True nuclei that are left out become ignored pixels, predicted ones background.
    """

    def __init__(
        self, truth: Windowed, prediction: Windowed, no_truth: IntArray, no_prediction: IntArray
    ) -> None:
        self._truth, self._prediction = truth, prediction
        self._no_truth, self._no_prediction = no_truth, no_prediction
        self.shape = truth.shape

    def read(self, window: Rectangle) -> WindowLabels:
        """Return both in a window; safe from several threads."""
        truth = self._truth.read(window.rows, window.columns)
        prediction = self._prediction.read(window.rows, window.columns)
        ignored: BoolMask | None = truth < 0 if truth.dtype.kind == "i" else None
        if len(self._no_truth):
            left_out = np.isin(truth, self._no_truth)
            ignored = left_out if ignored is None else ignored | left_out
        if ignored is not None and not ignored.any():
            ignored = None
        drop = prediction < 0 if prediction.dtype.kind == "i" else np.zeros(prediction.shape, bool)
        if len(self._no_prediction):
            drop |= np.isin(prediction, self._no_prediction)
        if ignored is not None:
            truth, drop = np.where(ignored, 0, truth), drop | ignored
        if drop.any():
            prediction = np.where(drop, 0, prediction)
        return WindowLabels(truth, prediction, ignored)
