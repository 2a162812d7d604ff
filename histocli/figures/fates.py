"""Nuclei in the colours of what became of them, over the picture they were found in.

The colours are of Okabe and Ito (2008), which people with any common colour blindness tell apart;
and since no colour should carry a meaning alone, missed nuclei are filled and the outlines of false
ones are dotted.
"""

from __future__ import annotations

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
    "split": (213, 94, 0),
    "merged": (0, 158, 115),
}
"""sRGB of the outline of each kind."""
TINT = 0.35  # how much of its colour fills a missed nucleus


class Fated(NamedTuple):
    """Truth or prediction, and what became of its nuclei."""

    labels: npt.NDArray[np.integer]
    """(H, W) nucleus k is item k - 1 of the fates; 0 and below is drawn as nothing."""
    fates: npt.NDArray[np.uint8]
    """(n,) 0 matched, 1 missed or false, 2 split or a piece, 3 merged or a part."""

    def image(self) -> npt.NDArray[np.int8]:
        """Return the fate of the nucleus of each pixel; -1 for no nucleus."""
        table = np.concatenate([[-1], self.fates.astype(np.int8)]).astype(np.int8)
        return np.asarray(table[np.clip(self.labels, 0, len(self.fates))])


def fate_overlay(
    image: RGBImage, truth: Fated, prediction: Fated, *, thickness_px: int = 1
) -> RGBImage:
    """Draw on a copy the outlines of predictions, and of true nuclei that no prediction matches."""
    drawn = image.copy()
    of_truth, of_prediction = truth.image(), prediction.image()
    missed = of_truth == 1
    tinted = (1 - TINT) * drawn[missed] + TINT * np.array(COLOURS["missed"])
    drawn[missed] = np.rint(tinted).astype(np.uint8)
    true_line = outline_mask(truth.labels, thickness_px)
    predicted_line = outline_mask(prediction.labels, thickness_px)
    height, width = missed.shape
    dots = (np.arange(height)[:, None] + np.arange(width)) % 3 > 0
    for lines, fates, fate, name in (
        (true_line, of_truth, 2, "split"),
        (true_line, of_truth, 3, "merged"),
        (predicted_line, of_prediction, 0, "matched"),
        (predicted_line, of_prediction, 2, "split"),
        (predicted_line, of_prediction, 3, "merged"),
        (predicted_line & dots, of_prediction, 1, "false"),
        (true_line, of_truth, 1, "missed"),
    ):
        drawn[lines & (fates == fate)] = COLOURS[name]
    return drawn


def fate_picture(
    image: RGBImage, truth: Fated, prediction: Fated, *, most_px: int, mpp: float
) -> RGBImage:
    """Draw :func:`fate_overlay` as a picture of at most a certain side, with a scale bar.

    Of a larger image the part with most mistakes is shown; a smaller one is enlarged by whole
    numbers up to 3. ``mpp`` is in micrometres per pixel of the image.
    """
    window = worst_window(truth, prediction, most_px)
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


def worst_window(truth: Fated, prediction: Fated, side: int) -> tuple[slice, slice]:
    """Return the square, inside the image, with most pixels of nuclei that do not match."""
    wrong = (truth.image() > 0) | (prediction.image() > 0)
    height, width = (min(side, length) for length in wrong.shape)
    total = cv2.integral(wrong.astype(np.uint8), sdepth=cv2.CV_64F)
    inside = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    top, left = (int(at) for at in np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + height), slice(left, left + width)
