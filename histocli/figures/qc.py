"""The quality picture of a slide: where nuclei were sought, their density, and outlined crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.figures.colours import viridis
from histocli.figures.overlays import add_scale_bar, enlarged, outline_overlay
from histocli.figures.plates import put_text, text_px

PAPER = 255
TEXT_PX = 26
THUMBNAIL_PX = 640  # longer side of each picture of the whole slide
CROP_PX = 256
IN_ROW = 3  # crops beside each other, each a plain and an outlined one
SHOWN_PX = 212  # side of a crop in the picture
SMOOTH_UM = 50.0
"""Standard deviation, in micrometres, of the Gaussian that smooths the density of nuclei."""
GLASS_SHARE = 0.95  # of the brightest green; what is brighter is glass
FAINT = 0.45  # share of the grey slide that shows through the heat map
FRAME = (20, 20, 20)  # colour of the frames and numbers of crops on the slide


class Crop(NamedTuple):
    """A square of the slide that is shown enlarged."""

    image: RGBImage
    labels: npt.NDArray[np.integer]
    place: tuple[float, float]
    """y and x of its centre, in pixels of the overview."""


def qc_picture(
    overview: RGBImage,
    tissue: BoolMask,
    centroids_px: npt.NDArray[np.floating],
    overview_mpp: float,
    crops: Sequence[Crop],
    title: str,
    *,
    mpp: float,
) -> RGBImage:
    """Lay out the quality picture of one slide.

    Parameters
    ----------
    tissue : ndarray of bool, shape (H, W)
        Where nuclei were looked for; other pixels are faded.
    centroids_px : ndarray of float, shape (n, 2)
        y and x of each nucleus, in pixels of the overview.
    overview_mpp, mpp : float
        Micrometres per pixel of the overview and of the crops.
    crops : sequence of Crop
        Numbered in their order, on the slide and beside it.
    title : str
        The text above the pictures.
    """
    density = nuclei_per_mm2(centroids_px, tissue.shape, overview_mpp)
    top = float(np.percentile(density[tissue], 99)) if tissue.any() else 0.0
    scale = THUMBNAIL_PX / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = np.asarray(cv2.resize(overview, size, interpolation=method), np.uint8)
    heat = np.asarray(cv2.resize(density, size, interpolation=cv2.INTER_LINEAR), np.float32)
    inside = cv2.resize(tissue.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    plain = np.where(inside[..., None], shown, _faded(shown)).astype(np.uint8)
    for number, crop in enumerate(crops, 1):
        side = crop.image.shape[0] * mpp / overview_mpp * scale
        _frame(plain, (crop.place[0] * scale, crop.place[1] * scale), side, str(number))
    plain = add_scale_bar(plain, overview_mpp / scale)
    maps = [
        _in_line([_text("looked at, with the crops below", size[0]), plain], ABOVE, 0),
        _in_line([_key(top, size[0]), heat_map(shown, heat, inside, top)], ABOVE, 0),
    ]
    drawn = [_crop(number, crop, mpp) for number, crop in enumerate(crops, 1)]
    rows = [maps, *(drawn[index : index + IN_ROW] for index in range(0, len(drawn), IN_ROW))]
    blocks = [_in_line(row, BESIDE) for row in rows]
    width = max(block.shape[1] for block in blocks)
    return _in_line([_text(title, width), *blocks], ABOVE)


def nuclei_per_mm2(
    centroids_px: npt.NDArray[np.floating], shape: tuple[int, ...], mpp: float
) -> FloatArray:
    """Return nuclei per mm2 at each pixel, smoothed by ``SMOOTH_UM`` and reflected at borders."""
    counts = np.zeros(shape, np.float32)
    y, x = (np.clip(centroids_px[:, axis].astype(np.int64), 0, shape[axis] - 1) for axis in (0, 1))
    np.add.at(counts, (y, x), 1.0)
    sigma = max(SMOOTH_UM / mpp, 0.5)
    if min(shape) > 1:
        smooth = cv2.GaussianBlur(counts, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        counts = np.asarray(smooth, np.float32)
    return np.asarray(counts / (mpp * mpp) * 1e6, np.float32)


def heat_map(
    overview: RGBImage, density: npt.NDArray[np.floating], tissue: BoolMask, top: float
) -> RGBImage:
    """Colour visible tissue by density, its structure as a change of lightness; fade the rest."""
    shown = tissue & visible(overview)
    grey = overview.mean(axis=2, keepdims=True)
    colours = viridis(density / max(top, 1e-9)).astype(np.float32)
    # around the mean of the tissue, so that the lightness of the map is kept on average
    middle = float(grey[shown].mean()) if shown.any() else 128.0
    mixed = np.clip(colours + FAINT * (grey - middle), 0, 255)
    drawn = np.where(shown[..., None], mixed, _faded(overview))
    return np.asarray(np.rint(drawn), np.uint8)


def visible(overview: RGBImage) -> BoolMask:
    """Tell which pixels are darker than empty glass, which stain always absorbs green of.

    The mask of tissue is wider: it has a margin, and holds small gaps.
    """
    green = overview[..., 1]
    return np.asarray(green < GLASS_SHARE * np.percentile(green, 99.5))


def _faded(overview: RGBImage) -> RGBImage:
    grey = overview.mean(axis=2, keepdims=True)
    return np.asarray(np.rint(np.repeat((grey + 3 * PAPER) / 4, 3, axis=2)), np.uint8)


def _key(top: float, width: int) -> RGBImage:
    """Return a line that names the heat map, with a bar from no nuclei to the densest."""
    first, last = "nuclei per mm2   0", _round(top)
    line = _text(first, width)
    begin = 2 + text_px(first, 1)[0] + 8
    end = max(begin + 20, min(begin + 160, width - text_px(last, 1)[0] - 12))
    bar = line[8:20, begin:end]
    bar[...] = viridis(np.linspace(0, 1, end - begin))[: bar.shape[1]]
    put_text(line, last, end + 8, TEXT_PX - 8, 1)
    return line


def _frame(image: RGBImage, centre: tuple[float, float], side: float, text: str) -> None:
    """Draw a frame with a number around a place, in place."""
    half = max(side / 2, 3)
    top, left = round(centre[0] - half), round(centre[1] - half)
    bottom, right = round(centre[0] + half), round(centre[1] + half)
    cv2.rectangle(image, (left, top), (right, bottom), (255, 255, 255), 3, cv2.LINE_AA)
    cv2.rectangle(image, (left, top), (right, bottom), FRAME, 1, cv2.LINE_AA)
    width, height = text_px(text, 1)
    x = min(max(left, 2), image.shape[1] - width - 4)
    y = min(max(top, height + 5), image.shape[0] - 4)
    image[y - height - 3 : y + 3, x : x + width + 4] = PAPER
    put_text(image, text, x + 2, y, 1)


def _crop(number: int, crop: Crop, mpp: float) -> RGBImage:
    """Return a crop beside its outlined copy, under its number."""
    zoom = max(1, math.ceil(SHOWN_PX / crop.image.shape[0]))
    image, labels = enlarged(crop.image, crop.labels, zoom)
    thick = max(1, round(1.3 * image.shape[0] / SHOWN_PX))
    size = (SHOWN_PX, SHOWN_PX)
    plain, outlined = (
        np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA), np.uint8)
        for each in (image, outline_overlay(image, labels, thickness_px=thick))
    )
    if number == 1:
        outlined = add_scale_bar(outlined, mpp * crop.image.shape[0] / SHOWN_PX)
    pair = _in_line([plain, outlined], BESIDE, 2)
    return _in_line([_text(str(number), pair.shape[1]), pair], ABOVE, 0)


def _text(text: str, width: int) -> RGBImage:
    line = np.full((TEXT_PX, width, 3), PAPER, np.uint8)
    while text and text_px(text, 1)[0] > width - 4:
        text = text[:-1]
    put_text(line, text, 2, TEXT_PX - 8, 1)
    return line


ABOVE, BESIDE = 0, 1
"""Axes along which pictures are laid out."""


def _in_line(pictures: Sequence[RGBImage], axis: int, gap: int = 10) -> RGBImage:
    """Lay pictures out along an axis with gaps, padded to the largest size across the axis."""
    across = 1 - axis
    longest = max(picture.shape[across] for picture in pictures)
    parts = []
    for number, picture in enumerate(pictures):
        margins = [(0, 0), (0, 0), (0, 0)]
        margins[axis] = (0, gap if number < len(pictures) - 1 else 0)
        margins[across] = (0, longest - picture.shape[across])
        parts.append(np.pad(picture, margins, constant_values=PAPER))
    return np.concatenate(parts, axis=axis)


def _round(value: float) -> str:
    digits = max(0, math.floor(math.log10(value)) - 1) if value >= 1 else 0
    return f"{round(value, -digits):,.0f}"
