"""Outlines of nuclei as polygons.

A polygon runs along the outer edges of the nucleus's pixels. For a nucleus 20 pixels wide, its area
is 1 to 2 % too large, while the usual tracing through the centres of border pixels loses a tenth.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt


def trace_outlines(
    labels: npt.NDArray[np.integer],
    ids: npt.NDArray[np.integer],
    boxes: npt.NDArray[np.integer],
    origin: tuple[int, int] = (0, 0),
    tolerance_px: float = 0.5,
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the outline of each nucleus, without holes; of several parts the largest.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        Part of a label image that holds all pixels of the nuclei ``ids``.
    boxes : ndarray of int, shape (n, 4)
        y0, x0, y1, x1 of each nucleus, half open, in pixels of the whole image.
    origin : (int, int)
        y and x of the first pixel of ``labels`` in the whole image.
    tolerance_px : float
        Largest distance of pixel edges from the polygon; 0 keeps every step of the pixel grid.

    Yields
    ------
    ndarray of float64, shape (k, 2)
        x and y of the corners, with the first one repeated at the end, as multiples of one half, in
        pixels from the outer corner of the image's first pixel.
    """
    for number, (y0, x0, y1, x1) in zip(ids.tolist(), boxes.tolist(), strict=True):
        part = labels[y0 - origin[0] : y1 - origin[0], x0 - origin[1] : x1 - origin[1]]
        height, width = part.shape
        # On a grid of half pixels every pixel becomes three by three points, the outer ones on its
        # edges, so the outermost points of the nucleus lie on edges of pixels.
        doubled = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
        doubled[1::2, 1::2] = part == number
        cv2.dilate(doubled, np.ones((3, 3), np.uint8), dst=doubled)
        found, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        contour = found[0] if len(found) == 1 else max(found, key=cv2.contourArea)
        if tolerance_px:
            contour = cv2.approxPolyDP(contour, 2 * tolerance_px, True)
        points = contour[:, 0]
        yield np.concatenate([points, points[:1]]) * 0.5 + (x0, y0)
