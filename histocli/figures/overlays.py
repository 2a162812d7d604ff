"""Outlines of nuclei and scale bars, drawn over images."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, RGBImage

PALETTE: npt.NDArray[np.uint8] = np.frombuffer(
    bytes.fromhex("00e5ff ffd600 00e676 ff6d00 f5f5f5 76ff03 409cff fff18c 1de9b6 ffa07a"), np.uint8
).reshape(-1, 3)
"""(10, 3) sRGB: bright, unlike stained tissue, and successive colours differ much."""


def outline_overlay(
    image: RGBImage, instance_labels: npt.NDArray[np.integer], *, thickness_px: int = 1
) -> RGBImage:
    """Draw the outline of every nucleus inside its border: touching nuclei show two lines.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB.
    instance_labels : ndarray of integers, shape (H, W)
        0 is background. Nucleus k has colour k modulo 10 of :data:`PALETTE`. Ignored pixels, below
        0, are faded and hatched.
    thickness_px : int
        Width of the lines, at least 1.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new image.

    Raises
    ------
    ValueError
        Image and labels differ in shape.
    """
    if image.shape[:2] != instance_labels.shape or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image {image.shape} must be (H, W, 3) over instance_labels {instance_labels.shape}"
        )
    drawn = np.array(image)
    ignored = instance_labels < 0
    if ignored.any():
        _hatch(drawn, ignored)
    lines = outline_mask(instance_labels, thickness_px)
    drawn[lines] = PALETTE[instance_labels[lines].astype(np.int64) % len(PALETTE)]
    return drawn


def enlarged(
    image: RGBImage, labels: npt.NDArray[np.integer], zoom: int
) -> tuple[RGBImage, npt.NDArray[np.integer]]:
    """Enlarge an image and its labels by a whole number, before thin outlines are drawn."""
    if zoom == 1:
        return image, labels
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    larger = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    return larger, np.repeat(np.repeat(labels, zoom, axis=0), zoom, axis=1)


def outline_mask(instance_labels: npt.NDArray[np.integer], thickness_px: int = 1) -> BoolMask:
    """Return the pixels of nuclei within ``thickness_px``, >= 1, of a pixel outside their nucleus.

    The border of the image is no outline: a nucleus may go on beyond it.
    """
    mask = np.zeros(instance_labels.shape, bool)
    # One pixel: the four neighbours; more: a disc, so that lines are as wide along diagonals.
    offsets = [
        (y, x)
        for y in range(thickness_px + 1)
        for x in range(-thickness_px, thickness_px + 1)
        if (y, x) > (0, 0) and y * y + x * x <= thickness_px**2
    ]
    for y, x in offsets:
        rows, columns = instance_labels.shape[0] - y, instance_labels.shape[1] - abs(x)
        if rows <= 0 or columns <= 0:
            continue
        above = (slice(0, rows), slice(max(0, -x), max(0, -x) + columns))
        below = (slice(y, y + rows), slice(max(0, x), max(0, x) + columns))
        differs = instance_labels[above] != instance_labels[below]
        mask[above] |= differs
        mask[below] |= differs
    return mask & (instance_labels > 0)


SCALE_BAR_UM = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SCALE_BAR_SHARE = 0.3  # longest bar, as a share of the width of the picture


def scale_bar_um(width_px: int, mpp: float) -> float:
    """Return the longest of ``SCALE_BAR_UM`` that fits a picture, in um; 0 if none fits."""
    fitting = (length for length in SCALE_BAR_UM if length / mpp <= SCALE_BAR_SHARE * width_px)
    return float(max(fitting, default=0))


def add_scale_bar(image: RGBImage, mpp: float) -> RGBImage:
    """Draw a scale bar with its length into the lower left corner of a copy.

    ``mpp`` is in micrometres per pixel of the picture. A picture that is too small for a bar is
    copied as it is.
    """
    drawn = image.copy()
    height, width = image.shape[:2]
    length = scale_bar_um(width, mpp)
    if not length or min(height, width) < 48:
        return drawn
    text = f"{length:g} um" if length < 1000 else f"{length / 1000:g} mm"
    unit = max(1, round(min(height, width) / 256))  # larger pictures have thicker bars and letters
    margin, thick, bar = 5 * unit, 3 * unit, round(length / mpp)
    scale = 0.4 * unit
    (text_width, text_height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    # a light plate: the bar is read on dark nuclei as well as on glass
    top = height - margin - thick - text_height - 3 * unit
    plate = drawn[
        max(top - 2 * unit, 0) : height - margin + 2 * unit,
        margin - 2 * unit : margin + max(bar, text_width) + 2 * unit,
    ]
    plate[...] = np.rint(0.25 * plate + 0.75 * 255).astype(np.uint8)
    drawn[height - margin - thick : height - margin, margin : margin + bar] = 0
    baseline = (margin, height - margin - thick - 3 * unit)
    cv2.putText(
        drawn, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), unit, cv2.LINE_AA
    )
    return drawn


def _hatch(picture: RGBImage, where: BoolMask) -> None:
    """Fade pixels to grey and draw diagonal stripes over them, in place."""
    rows, columns = np.nonzero(where)
    grey = picture[rows, columns].mean(axis=-1, keepdims=True)
    faded = grey + 0.65 * (215 - grey)  # the tissue stays recognisable
    faded[(rows + columns) % 8 == 0] = 160
    picture[rows, columns] = np.rint(faded).astype(np.uint8)
