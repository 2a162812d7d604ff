"""Outlines of nuclei over their image, coloured by fate, such as matched, missed or false.

:mod:`histocli.metrics.fates` defines the fates. The colours are of Okabe and Ito (2008), which
people with any common colour blindness can tell apart. Missed nuclei are also filled, and the
outlines of false ones black and white, so that colour is not the only sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage
from histocli.figures.overlays import add_scale_bar, enlarged, outline_mask

COLOURS: dict[str, tuple[int, int, int]] = {
    "matched": (86, 180, 233),
    "missed": (240, 228, 66),
    "false": (0, 0, 0),
    "split": (255, 110, 0),
    "merged": (0, 158, 115),
}
"""sRGB of the outline of each fate."""
TINT = 0.35  # share of the colour in the fill of a missed nucleus


class Fated(NamedTuple):
    """True or predicted labels of an image, and the fates of the nuclei."""

    labels: npt.NDArray[np.integer]
    """(H, W) label k > 0 has the fate ``fates[k - 1]``; labels <= 0 are not drawn."""
    fates: npt.NDArray[np.uint8]
    """(n,) 0 matched, 1 missed or false, 2 split or a piece of it, 3 merged or a part of it."""

    def image(self) -> npt.NDArray[np.int8]:
        """Return (H, W) the fate of the nucleus of each pixel; -1 for no nucleus."""
        table = np.concatenate([[-1], self.fates.astype(np.int8)]).astype(np.int8)
        return np.asarray(table[np.clip(self.labels, 0, len(self.fates))])


def fate_overlay(
    image: RGBImage, truth: Fated, prediction: Fated, *, thickness_px: int = 1
) -> RGBImage:
    """Draw on a copy the outlines of predictions and of unmatched true nuclei."""
    drawn = image.copy()
    of_truth, of_prediction = truth.image(), prediction.image()
    missed = of_truth == 1
    tinted = (1 - TINT) * drawn[missed] + TINT * np.array(COLOURS["missed"])
    drawn[missed] = np.rint(tinted).astype(np.uint8)
    true_line = outline_mask(truth.labels, thickness_px)
    predicted_line = outline_mask(prediction.labels, thickness_px)
    height, width = missed.shape
    # black dashes on white, which show on dark nuclei as well as on glass
    dash = 3 * max(1, thickness_px)
    dashes = (np.arange(height)[:, None] + np.arange(width)) // dash % 2 > 0
    drawn[predicted_line & (of_prediction == 1)] = 255
    for lines, fates, fate, name in (
        (true_line, of_truth, 2, "split"),
        (true_line, of_truth, 3, "merged"),
        (predicted_line, of_prediction, 0, "matched"),
        (predicted_line, of_prediction, 2, "split"),
        (predicted_line, of_prediction, 3, "merged"),
        (predicted_line & dashes, of_prediction, 1, "false"),
        (true_line, of_truth, 1, "missed"),
    ):
        drawn[lines & (fates == fate)] = COLOURS[name]
    return drawn


def fate_picture(
    image: RGBImage,
    truth: Fated,
    prediction: Fated,
    *,
    window: tuple[slice, slice],
    most_px: int,
    mpp: float,
) -> RGBImage:
    """Draw :func:`fate_overlay` in a window with a scale bar.

    A window smaller than ``most_px`` is enlarged by a whole number up to 3. ``mpp`` is in
    micrometres per pixel of the image.
    """
    zoom = max(1, min(3, most_px // max(image[window].shape[:2])))
    _, predicted = enlarged(image[window], prediction.labels[window], zoom)
    image, true = enlarged(image[window], truth.labels[window], zoom)
    drawn = fate_overlay(
        image,
        Fated(true, truth.fates),
        Fated(predicted, prediction.fates),
        thickness_px=2 if max(image.shape[:2]) > 300 else 1,
    )
    return add_scale_bar(drawn, mpp / zoom)


def worst_window(pairs: Sequence[tuple[Fated, Fated]], side: int) -> tuple[slice, slice]:
    """Return rows and columns of the square, cut to the image, with most unmatched pixels.

    ``pairs`` are truth and prediction of one image, for one or several predictions.
    """
    wrong = sum(
        ((truth.image() > 0) | (prediction.image() > 0)).astype(np.uint8)
        for truth, prediction in pairs
    )
    height, width = (min(side, length) for length in pairs[0][0].labels.shape)
    total = cv2.integral(np.asarray(wrong, np.uint8), sdepth=cv2.CV_64F)
    inside = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    top, left = (int(at) for at in np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + height), slice(left, left + width)
