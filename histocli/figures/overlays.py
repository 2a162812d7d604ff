"""Outlines of nuclei and scale bars, drawn over images."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, RGBImage
from histocli.figures.colours import LINE, Colours, graded
from histocli.figures.plates import add_plate, letter_size


def outline_overlay(
    image: RGBImage,
    instance_labels: npt.NDArray[np.integer],
    *,
    thickness_px: int = 1,
    colours: Colours = LINE,
) -> RGBImage:
    """Draw the outline of every nucleus inside its border: touching nuclei show two lines.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB.
    instance_labels : ndarray of integers, shape (H, W)
        0 is background. Ignored pixels, below 0, are faded and hatched.
    thickness_px : int
        Width of the lines, at least 1.
    colours : ndarray of uint8, shape (n, 3)
        Nucleus k has colour k modulo n.

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
    drawn[lines] = colours[instance_labels[lines].astype(np.int64) % len(colours)]
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
SMALLEST_PX = 48  # a picture with a shorter side gets no bar
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
    height, width = image.shape[:2]
    length = scale_bar_um(width, mpp)
    if not length or min(height, width) < SMALLEST_PX:
        return image.copy()
    unit = letter_size(image)
    text = f"{length:g} um" if length < 1000 else f"{length / 1000:g} mm"
    bar = np.zeros((3 * unit, round(length / mpp), 3), np.uint8)
    return add_plate(image, bar, [text], right=False)


def add_colour_bar(image: RGBImage, low: float, high: float, label: str) -> RGBImage:
    """Draw the colours of :func:`histocli.figures.colours.graded` into the lower right corner.

    ``label`` says what goes from ``low`` to ``high``. A picture that is too small is copied.
    """
    height, width = image.shape[:2]
    if min(height, width) < 4 * SMALLEST_PX:
        return image.copy()
    unit = letter_size(image)
    steps = graded(np.linspace(low, high, min(100 * unit, width // 3)), low, high)
    bar = np.repeat(steps[None], 6 * unit, axis=0)
    return add_plate(image, bar, [f"{low:.3g}", label, f"{high:.3g}"], right=True)


def _hatch(picture: RGBImage, where: BoolMask) -> None:
    """Fade pixels to grey and draw diagonal stripes over them, in place."""
    rows, columns = np.nonzero(where)
    grey = picture[rows, columns].mean(axis=-1, keepdims=True)
    faded = grey + 0.65 * (215 - grey)  # the tissue stays recognisable
    faded[(rows + columns) % 8 == 0] = 160
    picture[rows, columns] = np.rint(faded).astype(np.uint8)
