"""Charts of lines as a picture, for people who have no browser at hand."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from histocli.base.types import RGBImage
from histocli.figures.charts import FRAME, ChartLayout, Lines

SCALE = 2  # pixels for each unit of the layout: thin lines and small letters stay sharp
PAPER, GRID, INK = (255, 255, 255), (225, 229, 234), (40, 44, 48)
SERIES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (184, 87, 143))
"""Colours of lines, after Okabe and Ito (2008), which readers with any colour vision tell apart."""
FONT = cv2.FONT_HERSHEY_SIMPLEX
TITLE_PX = 34
LETTERS = 0.42


def charts_picture(charts: Sequence[Lines]) -> RGBImage:
    """Draw charts beside each other."""
    if not charts:
        raise ValueError("at least one chart is needed")
    return np.concatenate([_chart(each.drawn()) for each in charts], axis=1)


def _chart(layout: ChartLayout) -> RGBImage:
    """Draw a chart under its title and the names of its lines."""
    image = np.full((FRAME.height * SCALE, FRAME.width * SCALE, 3), PAPER, np.uint8)
    for at, label in layout.y_ticks:
        _line(image, (FRAME.left, at), (FRAME.right, at), GRID)
        _text(image, label, FRAME.left - 5, at + 4, from_right=True)
    for at, label in layout.x_ticks:
        _text(image, label, at, FRAME.bottom + 15, centred=True)
    _line(image, (FRAME.left, FRAME.bottom), (FRAME.right, FRAME.bottom), INK)
    x_label = layout.chart.x_label
    _text(image, x_label, (FRAME.left + FRAME.right) / 2, FRAME.height - 6, centred=True)
    for number, line in enumerate(layout.lines):
        points = np.array([[point.x * SCALE, point.y * SCALE] for point in line], np.float64)
        colour = SERIES[number % len(SERIES)]
        if len(points) > 1:
            path = np.rint(points * 16).astype(np.int32)[:, None]
            cv2.polylines(image, [path], False, colour, 2, cv2.LINE_AA, shift=4)
        if len(points) <= 40:
            for x, y in points:
                cv2.circle(image, (round(x), round(y)), 4, colour, -1, cv2.LINE_AA)
    return np.concatenate([_head(layout, image.shape[1]), image])


def _head(layout: ChartLayout, width: int) -> RGBImage:
    head = np.full((TITLE_PX * SCALE, width, 3), PAPER, np.uint8)
    title = layout.chart.title
    place = (FRAME.left * SCALE, 15 * SCALE)
    cv2.putText(head, _ascii(title), place, FONT, 1.4 * LETTERS * SCALE / 2, INK, 2, cv2.LINE_AA)
    at = float(FRAME.left)
    for number, (name, _) in enumerate(layout.chart.series):
        if len(layout.chart.series) == 1:
            break  # the title says what the line is
        begin, end = (round(x * SCALE) for x in (at, at + 14))
        cv2.line(head, (begin, 26 * SCALE), (end, 26 * SCALE), SERIES[number % 4], 3, cv2.LINE_AA)
        _text(head, name, at + 18, 30)
        at += _width(name) / SCALE + 34
    return head


def _line(
    image: RGBImage,
    begin: tuple[float, float],
    end: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    first, last = ((round(x * SCALE), round(y * SCALE)) for x, y in (begin, end))
    cv2.line(image, first, last, colour, 1)


def _ascii(text: str) -> str:
    """Return a text in the characters that the font has; others become question marks."""
    return text.encode("ascii", "replace").decode()


def _width(text: str) -> int:
    (width, _), _ = cv2.getTextSize(text, FONT, LETTERS * SCALE / 2 * 1.4, 1)
    return int(width)


def _text(
    image: RGBImage,
    text: str,
    x: float,
    y: float,
    *,
    centred: bool = False,
    from_right: bool = False,
) -> None:
    """Write a text in place; ``x`` is its left end, its middle or its right end."""
    plain = _ascii(text)
    shift = _width(plain) * (0.5 if centred else 1.0 if from_right else 0.0)
    place = (round(x * SCALE - shift), round(y * SCALE))
    cv2.putText(image, plain, place, FONT, LETTERS * SCALE / 2 * 1.4, INK, 1, cv2.LINE_AA)
