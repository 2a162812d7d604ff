"""Label images read in windows (rectangles), so that a slide is never in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from histocli.base.types import BoolMask, IntArray
from histocli.instances.overlaps import LabelImage

CORE_PX = 4096
"""Side of a window: two shards (files) of a label store, so that few blocks are decoded twice."""

Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""``map``, or a function like it that uses threads; results come in the order of the jobs."""


class Windowed(Protocol):
    """A label image that is read in parts."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window inside the image; several threads may call this."""


class InMemory:
    """A label image in memory, as a :class:`Windowed`."""

    def __init__(self, labels: LabelImage) -> None:
        self._labels = labels
        self.shape = labels.shape[0], labels.shape[1]

    def read(self, rows: slice, columns: slice) -> LabelImage:
        """Return the labels of a window."""
        return self._labels[rows, columns]


@dataclass(frozen=True)
class Rectangle:
    """Part of an image: rows top..bottom and columns left..right, the last ones excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the rectangle."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def meets(self, other: "Rectangle") -> bool:
        """Tell whether two rectangles share a pixel."""
        return (
            self.top < other.bottom
            and other.top < self.bottom
            and self.left < other.right
            and other.left < self.right
        )

    def grown(self, before: int, after: int, shape: tuple[int, int]) -> "Rectangle":
        """Return the rectangle with a margin, cut at the border of an image of this shape."""
        return Rectangle(
            max(self.top - before, 0),
            min(self.bottom + after, shape[0]),
            max(self.left - before, 0),
            min(self.right + after, shape[1]),
        )

    def within(self, area: "Rectangle") -> tuple[slice, slice]:
        """Return rows and columns, counted from the first pixel of a larger rectangle."""
        top, left = area.top, area.left
        return Rectangle(
            self.top - top, self.bottom - top, self.left - left, self.right - left
        ).slices


def tile(shape: tuple[int, int], shift: int = 0) -> list[Rectangle]:
    """Tile an image with windows.

    All but the first window of each axis begin ``shift`` pixels later. Reading a window with a
    margin of ``shift`` pixels before it then begins where a shard of a label store begins.
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
    """True and predicted labels in one window, both 0 where the truth is ignored."""

    truth: LabelImage
    prediction: LabelImage
    ignored: BoolMask | None
    """Where the truth is ignored; None if no pixel is."""


class MaskedPair:
    """True and predicted label image without some nuclei.

    True nuclei with a label in ``no_truth`` become ignored pixels, and predicted nuclei with one in
    ``no_prediction`` become background.
    """

    def __init__(
        self, truth: Windowed, prediction: Windowed, no_truth: IntArray, no_prediction: IntArray
    ) -> None:
        self._sides, self._no_truth = (truth, prediction), no_truth
        self._no_prediction = no_prediction
        self.shape = truth.shape

    def read(self, window: Rectangle) -> WindowLabels:
        """Return the labels of a window; several threads may call this."""
        truth, prediction = (side.read(*window.slices) for side in self._sides)
        ignored = (truth < 0) | np.isin(truth, self._no_truth)
        drop = (prediction < 0) | np.isin(prediction, self._no_prediction) | ignored
        if drop.any():
            prediction = np.where(drop, 0, prediction)
        if not ignored.any():
            return WindowLabels(truth, prediction, None)
        return WindowLabels(np.where(ignored, 0, truth), prediction, ignored)
