"""Small charts: coordinates of each bar, line and tick of a chart, ready to be drawn as SVG.

The numbers of a chart are also put in words, for tooltips and screen readers. The template of the
report draws the charts: a plotting library would add tens of megabytes, and its pictures would
follow neither the light or dark colours of the page nor the text size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Frame:
    """Size of a chart, and the edges of its drawing area, in units of the SVG view box."""

    width: int = 420
    height: int = 220
    left: int = 48
    top: int = 12
    right: int = 410
    bottom: int = 180

    def x(self, share: float) -> float:
        """Return the x coordinate at a share, 0..1, of the width of the drawing area."""
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, share: float) -> float:
        """Return the y coordinate at a share, 0..1, of the height, counted from below."""
        return round(self.bottom - share * (self.bottom - self.top), 1)


FRAME = Frame()

Tick = tuple[float, str]
"""Coordinate of a tick on an axis, and the text beside it."""


class Column(NamedTuple):
    """One bar of a histogram."""

    series: int
    x: float
    y: float
    width: float
    height: float
    label: str


class Point(NamedTuple):
    """One point of a line."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class ChartLayout:
    """A chart with the coordinates of its parts."""

    chart: Histogram | Lines
    spoken: str
    """The numbers of the chart in words."""
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    bars: Sequence[Column] = ()
    lines: Sequence[Sequence[Point]] = ()


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars of one or two distributions over the same bins."""

    title: str
    edges: Sequence[float]
    series: Sequence[tuple[str, Sequence[float]]]
    """Name of each distribution, and the value in each bin."""
    x_label: str
    y_label: str
    logarithmic: bool = False
    """Whether the x axis is logarithmic."""
    diagonal: ClassVar[bool] = False

    def drawn(self) -> ChartLayout:
        """Return the bars of all series side by side; the tallest fills the drawing area."""
        scale = math.log if self.logarithmic else float
        place = [scale(edge) for edge in self.edges]
        at = [FRAME.x((each - place[0]) / (place[-1] - place[0])) for each in place]
        tallest = max((max(values, default=0) for _, values in self.series), default=0) or 1
        bars = []
        for series, (name, values) in enumerate(self.series):
            for index, value in enumerate(values):
                part = (at[index + 1] - at[index]) / len(self.series)
                bars.append(
                    Column(
                        series=series,
                        x=round(at[index] + series * part + 0.5, 1),
                        y=FRAME.y(value / tallest),
                        width=round(max(part - 1, 0.5), 1),
                        height=round(FRAME.bottom - FRAME.y(value / tallest), 1),
                        label=f"{name}: {value:g} from {self.edges[index]:g} "
                        f"to {self.edges[index + 1]:g}",
                    )
                )
        shown = range(0, len(at), max(1, len(at) // 6))
        return ChartLayout(
            chart=self,
            spoken="; ".join(f"{name}: {sum(values):g} in all" for name, values in self.series),
            x_ticks=[(at[index], f"{self.edges[index]:.3g}") for index in shown],
            y_ticks=[(FRAME.y(value / tallest), f"{value:g}") for value in _ticks(0, tallest)],
            bars=bars,
        )


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines through points, such as a training curve."""

    title: str
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    """Name of each line, and (x, y) of its points."""
    x_label: str
    y_label: str
    diagonal: bool = False
    """Whether the line y = x is drawn, and both axes go from 0 to 1."""

    def drawn(self) -> ChartLayout:
        """Return the lines without points that are not finite."""
        lines = [
            (name, [point for point in line if all(map(math.isfinite, point))])
            for name, line in self.series
        ]
        low, high = np.zeros(2), np.ones(2)
        points = [point for _, line in lines for point in line]
        if points and not self.diagonal:
            low, high = np.min(points, axis=0), np.max(points, axis=0)
            high = np.where(high > low, high, low + 1)
        spread = high - low

        def x_at(x: float) -> float:
            return FRAME.x((x - low[0]) / spread[0])

        def y_at(y: float) -> float:
            return FRAME.y((y - low[1]) / spread[1])

        return ChartLayout(
            chart=self,
            spoken="; ".join(
                f"{name}: from {line[0][1]:.4g} to {line[-1][1]:.4g}"
                for name, line in lines
                if line
            ),
            x_ticks=[(x_at(x), f"{x:g}") for x in _ticks(low[0], high[0])],
            y_ticks=[(y_at(y), f"{y:g}") for y in _ticks(low[1], high[1])],
            lines=[
                [Point(x_at(x), y_at(y), f"{name}: {x:.4g}, {y:.4g}") for x, y in line]
                for name, line in lines
            ],
        )


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers between two numbers, low < high."""
    raw = (high - low) / 5
    step = min(
        (10 ** math.floor(math.log10(raw)) * nice for nice in (1, 2, 2.5, 5, 10)),
        key=lambda s: abs(s - raw),
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(value) for value in np.arange(first, last + 1) * step]
