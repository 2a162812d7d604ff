"""Bars and words on a light plate in a corner of a picture, read on tissue as well as on glass."""

from collections.abc import Sequence

import cv2
import numpy as np

from histocli.base.types import RGBImage

INK = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SCALE = 0.4  # size of letters for each unit of ``letter_size``


def letter_size(image: RGBImage) -> int:
    """Return the unit of bars and letters: larger pictures have thicker ones."""
    shorter = int(min(image.shape[:2]))
    return max(1, round(shorter / 256))


def text_px(text: str, unit: int) -> tuple[int, int]:
    """Return width and height of a text in letters of a size, in pixels."""
    (width, height), _ = cv2.getTextSize(text, FONT, SCALE * unit, unit)
    return int(width), int(height)


def put_text(image: RGBImage, text: str, left: int, baseline: int, unit: int) -> None:
    """Write a text into a picture, in place; other characters than ASCII become question marks."""
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(image, plain, (left, baseline), FONT, SCALE * unit, INK, unit, cv2.LINE_AA)


def add_plate(image: RGBImage, bar: RGBImage, words: Sequence[str], *, right: bool) -> RGBImage:
    """Draw a bar with words above it into a lower corner of a copy.

    One word stands at the left end of the bar; several are spread from its left to its right end.
    """
    drawn = image.copy()
    height, width = image.shape[:2]
    unit = letter_size(image)
    margin, gap = 5 * unit, 3 * unit
    sizes = [text_px(word, unit) for word in words]
    needed = sum(wide for wide, _ in sizes) + 2 * gap * (len(words) - 1)
    across = max(bar.shape[1], needed)
    if bar.shape[1] < across and len(words) > 1:
        bar = np.asarray(cv2.resize(bar, (across, bar.shape[0])), np.uint8)
    left = width - margin - across if right else margin
    bottom, thick = height - margin, bar.shape[0]
    top = bottom - thick - max(tall for _, tall in sizes) - gap
    plate = drawn[max(top - 2 * unit, 0) : bottom + 2 * unit, max(left - 2 * unit, 0) :]
    plate = plate[:, : across + 4 * unit]
    plate[...] = np.rint(0.2 * plate + 0.8 * 255).astype(np.uint8)
    there = drawn[bottom - thick : bottom, max(left, 0) : left + bar.shape[1]]
    there[...] = bar[: there.shape[0], : there.shape[1]]
    spare = (across - sum(wide for wide, _ in sizes)) / max(len(words) - 1, 1)
    at = float(left)
    for word, (wide, _) in zip(words, sizes, strict=True):
        put_text(drawn, word, round(at), bottom - thick - gap, unit)
        at += wide + spare
    return drawn
