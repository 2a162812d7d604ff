"""Nuclei in the colours of what became of them, over the picture they were found in.

The colours are of Okabe and Ito (2008), which people with any common colour blindness tell apart;
and since no colour should carry a meaning alone, missed nuclei are filled and the outlines of false
ones are dotted.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage
from histocli.figures.overlays import add_scale_bar, enlarged, outline_mask

KINDS = ("matched", "missed", "false", "split", "merged")
COLOURS: dict[str, tuple[int, int, int]] = {
    "matched": (86, 180, 233),
    "missed": (240, 228, 66),
    "false": (0, 0, 0),
    "split": (213, 94, 0),
    "merged": (0, 158, 115),
}
"""sRGB of the outline of each kind."""
TINT = 0.35  # how much of its colour fills a missed nucleus
DOT_PX = 3  # period of the dots of false nuclei


def fate_overlay(
    image: RGBImage,
    truth: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    truth_fates: npt.NDArray[np.uint8],
    prediction_fates: npt.NDArray[np.uint8],
    *,
    thickness_px: int = 1,
) -> RGBImage:
    """Draw the outlines of predictions, and of true nuclei that no prediction matches.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB values in 0..255.
    truth, prediction : ndarray of integers, shape (H, W)
        Nucleus k is item k - 1 of the fates of its side; 0 and below is drawn as nothing.
    truth_fates, prediction_fates : ndarray of uint8, shape (n,)
        0 matched, 1 missed or false, 2 split or a piece, 3 merged or a part.
    thickness_px : int
        Of the lines, >= 1.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new image.
    """
    if image.shape[:2] != truth.shape or truth.shape != prediction.shape or image.ndim != 3:
        raise ValueError(
            f"image {image.shape}, truth {truth.shape} and prediction {prediction.shape} must agree"
        )
    drawn = image.copy()
    of_truth = _fate_image(truth, truth_fates)
    of_prediction = _fate_image(prediction, prediction_fates)
    missed = of_truth == 1
    tinted = (1 - TINT) * drawn[missed] + TINT * np.array(COLOURS["missed"])
    drawn[missed] = np.rint(tinted).astype(np.uint8)
    true_line = outline_mask(truth, thickness_px)
    predicted_line = outline_mask(prediction, thickness_px)
    height, width = truth.shape
    dots = (np.arange(height)[:, None] + np.arange(width)) % DOT_PX > 0
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


def _fate_image(
    labels: npt.NDArray[np.integer], fates: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int8]:
    """Return the fate of the nucleus of each pixel; -1 for no nucleus."""
    table = np.concatenate([[-1], fates.astype(np.int8)]).astype(np.int8)
    return np.asarray(table[np.clip(labels, 0, len(fates))])


def fate_picture(
    image: RGBImage,
    truth: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    truth_fates: npt.NDArray[np.uint8],
    prediction_fates: npt.NDArray[np.uint8],
    *,
    most_px: int,
    mpp: float,
) -> RGBImage:
    """Draw :func:`fate_overlay` as a picture of at most a certain side, with a scale bar.

    Of a larger image the part with most mistakes is shown; a smaller one is enlarged by whole
    numbers up to 3. ``mpp`` is in micrometres per pixel of the image.
    """
    window = worst_window(truth, prediction, truth_fates, prediction_fates, most_px)
    truth, prediction, image = truth[window], prediction[window], image[window]
    zoom = max(1, min(3, most_px // max(image.shape[:2])))
    _, prediction = enlarged(image, prediction, zoom)
    image, truth = enlarged(image, truth, zoom)
    thickness_px = 2 if max(image.shape[:2]) > 300 else 1
    drawn = fate_overlay(
        image, truth, prediction, truth_fates, prediction_fates, thickness_px=thickness_px
    )
    return add_scale_bar(drawn, mpp / zoom)


def worst_window(
    truth: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    truth_fates: npt.NDArray[np.uint8],
    prediction_fates: npt.NDArray[np.uint8],
    side: int,
) -> tuple[slice, slice]:
    """Return the square, inside the image, with most pixels of nuclei that do not match.

    Parameters are those of :func:`fate_overlay`; ``side`` is in pixels.
    """
    wrong = (_fate_image(truth, truth_fates) > 0) | (_fate_image(prediction, prediction_fates) > 0)
    height, width = (min(side, length) for length in truth.shape)
    total = cv2.integral(wrong.astype(np.uint8), sdepth=cv2.CV_64F)
    inside = (
        total[height:, width:]
        - total[:-height, width:]
        - total[height:, :-width]
        + total[:-height, :-width]
    )
    top, left = (int(at) for at in np.unravel_index(int(inside.argmax()), inside.shape))
    return slice(top, top + height), slice(left, left + width)
