"""Contact sheets: many patches on one picture, each beside a copy with outlined nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage
from histocli.figures.overlays import add_scale_bar, enlarged, outline_overlay

MARGIN_PX = 12
PAIR_GAP_PX = 2
"""Gap between a patch and its outlined copy: small, so that the two are seen as a pair."""
PAPER = 255


def patch_sheet(
    images: Sequence[RGBImage],
    labels: Sequence[npt.NDArray[np.integer]],
    *,
    columns: int | None = None,
    mpp: float | None = None,
) -> RGBImage:
    """Lay patches out in rows, each beside the same patch with the outlines of its nuclei.

    Parameters
    ----------
    images : sequence of ndarray of uint8, shape (H, W, 3)
        At least one; their sizes may differ.
    columns : int, optional
        Pairs in a row; by default chosen so that width to height is about 3 to 2.
    mpp : float, optional
        Micrometres per pixel of the patches; if given, the first outlined patch has a scale bar.
    """
    if not images or len(images) != len(labels):
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels; at least one of each is needed"
        )
    largest = max(max(image.shape[:2]) for image in images)
    zoom = max(1, round(256 / largest))  # smaller patches are enlarged to a side of about 256 px
    pairs = [
        _pair(image, label, zoom, mpp if number == 0 else None)
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    height = max(pair.shape[0] for pair in pairs)
    width = max(pair.shape[1] for pair in pairs)
    pleasant = max(1, math.ceil(math.sqrt(1.5 * len(pairs) * height / width)))
    columns = min(columns or pleasant, len(pairs))
    rows = -(-len(pairs) // columns)
    step_y, step_x = height + MARGIN_PX, width + MARGIN_PX
    sheet = np.full((rows * step_y + MARGIN_PX, columns * step_x + MARGIN_PX, 3), PAPER, np.uint8)
    for index, pair in enumerate(pairs):
        row, column = divmod(index, columns)
        y = MARGIN_PX + row * step_y + (height - pair.shape[0]) // 2
        x = MARGIN_PX + column * step_x + (width - pair.shape[1]) // 2
        sheet[y : y + pair.shape[0], x : x + pair.shape[1]] = pair
    return sheet


def picture_rows(rows: Sequence[Sequence[RGBImage]]) -> RGBImage:
    """Lay rows of pictures out on a sheet, such as initial patch, refined patch and reference.

    All pictures have one size, and all rows one length. Each line of the sheet holds two rows.
    """
    if not rows or not rows[0]:
        raise ValueError("at least one row of one picture is needed")
    frame = ((0, PAIR_GAP_PX), (0, PAIR_GAP_PX), (0, 0))
    lines = [
        np.concatenate([np.pad(picture, frame, constant_values=PAPER) for picture in row], axis=1)
        for row in rows
    ]
    if len(lines) % 2:
        lines.append(np.full_like(lines[0], PAPER))
    pairs = [np.concatenate(lines[index : index + 2], axis=1) for index in range(0, len(lines), 2)]
    return np.concatenate(pairs, axis=0)


def _pair(
    image: RGBImage, labels: npt.NDArray[np.integer], zoom: int, mpp: float | None
) -> RGBImage:
    """Return an enlarged patch beside its outlined copy, with a scale bar if ``mpp`` is given."""
    shown, shown_labels = enlarged(image, labels, zoom)
    outlined = outline_overlay(shown, shown_labels)
    if mpp is not None:
        outlined = add_scale_bar(outlined, mpp / zoom)
    gap = np.full((shown.shape[0], PAIR_GAP_PX, 3), PAPER, np.uint8)
    return np.concatenate([shown, gap, outlined], axis=1)
