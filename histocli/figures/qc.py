"""The quality picture of a slide: where nuclei were sought, their density, and outlined crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.figures.overlays import enlarged, outline_overlay

PAPER = 255
INK = (40, 40, 40)
TEXT_PX = 26
THUMBNAIL_PX = 1000  # longer side of each picture of the whole slide
CROP_PX = 256
SMOOTH_UM = 50.0
"""Standard deviation, in micrometres, of the Gaussian that smooths the density of nuclei."""
FAINT = 0.35  # share of the grey slide that shows through the heat map


def qc_picture(
    overview: RGBImage,
    tissue: BoolMask,
    centroids_px: npt.NDArray[np.floating],
    overview_mpp: float,
    crops: Sequence[tuple[RGBImage, npt.NDArray[np.integer]]],
    title: str,
) -> RGBImage:
    """Lay out the quality picture of one slide.

    Parameters
    ----------
    tissue : ndarray of bool, shape (H, W)
        Where nuclei were looked for; other pixels are faded.
    centroids_px : ndarray of float, shape (n, 2)
        y and x of each nucleus, in pixels of the overview.
    overview_mpp : float
        Micrometres per pixel of the overview.
    crops : sequence of (image, labels)
        Squares of the slide, all of one size, and the labels of their nuclei.
    title : str
        The text above the pictures.
    """
    density = nuclei_per_mm2(centroids_px, tissue.shape, overview_mpp)
    top = float(np.percentile(density[tissue], 99)) if tissue.any() else 0.0
    scale = THUMBNAIL_PX / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    greyed = np.where(
        tissue[..., None], overview, (overview.astype(np.uint16) + 2 * 225) // 3
    ).astype(np.uint8)
    plain = np.asarray(cv2.resize(greyed, size, interpolation=method), np.uint8)
    shown = np.asarray(cv2.resize(overview, size, interpolation=method), np.uint8)
    heat = np.asarray(cv2.resize(density, size, interpolation=cv2.INTER_LINEAR), np.float32)
    inside = cv2.resize(tissue.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    caption = f"nuclei per mm2, 0 (blue) to {_round(top)} (red)"
    maps = [
        _in_line([picture, _text(text, size[0])], ABOVE, 0)
        for picture, text in (
            (plain, "where nuclei were looked for"),
            (_heat_map(shown, heat, inside, top), caption),
        )
    ]
    pictures = [_crop(image, labels) for image, labels in crops]
    rows = [maps, *(pictures[index : index + 4] for index in range(0, len(pictures), 4))]
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


def _heat_map(
    overview: RGBImage, density: npt.NDArray[np.floating], tissue: BoolMask, top: float
) -> RGBImage:
    levels = np.clip(density / max(top, 1e-9) * 255, 0, 255).astype(np.uint8)
    colours = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), np.uint8)[..., ::-1]
    grey = np.repeat(overview.mean(axis=2, keepdims=True), 3, axis=2)
    mixed = FAINT * grey + (1 - FAINT) * colours
    faded = (grey + 2 * PAPER) / 3
    return np.rint(np.where(tissue[..., None], mixed, faded)).astype(np.uint8)


def _crop(image: RGBImage, labels: npt.NDArray[np.integer]) -> RGBImage:
    larger, larger_labels = enlarged(image, labels, max(1, CROP_PX // max(image.shape[:2])))
    return _in_line([larger, outline_overlay(larger, larger_labels)], BESIDE, 2)


def _text(text: str, width: int) -> RGBImage:
    line = np.full((TEXT_PX, width, 3), PAPER, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(line, plain, (2, TEXT_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    return line


ABOVE, BESIDE = 0, 1
"""Axes along which pictures are laid out."""


def _in_line(pictures: Sequence[RGBImage], axis: int, gap: int = 12) -> RGBImage:
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
    return f"{round(value, -digits):.0f}"
