"""Patches cut out of a labelled image, so that every labelled pixel counts exactly once.

A window is the place of one patch. Windows lie side by side from pixel (0, 0); the last one of a
row or column is moved back to end with the image. Pixels that an earlier window holds are ignored
(label -1) in a later one. An image smaller than a patch is extended by mirrored pixels, which are
ignored. Nuclei that the border of a window cuts are kept in part.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import InstanceLabels, RGBImage


@dataclass(frozen=True)
class Window:
    """Where a patch lies in its image, in pixels."""

    y: int  # first row
    x: int  # first column
    own_y: int
    """First row that no earlier window holds."""
    own_x: int
    """First column that no earlier window holds."""


def windows_of(shape: tuple[int, ...], patch_px: int) -> list[Window]:
    """Return the windows that cover an image of the given height and width, row by row."""
    rows, columns = (_starts_and_owned(length, patch_px) for length in shape[:2])
    return [Window(y, x, own_y, own_x) for y, own_y in rows for x, own_x in columns]


def _starts_and_owned(length: int, patch_px: int) -> list[tuple[int, int]]:
    """Return along one axis each window's first pixel, and its first that no earlier window has.

    >>> _starts_and_owned(10, 4), _starts_and_owned(8, 4), _starts_and_owned(3, 4)
    ([(0, 0), (4, 4), (6, 8)], [(0, 0), (4, 4)], [(0, 0)])
    """
    starts = list(range(0, max(length - patch_px, 0) + 1, patch_px))
    if starts[-1] + patch_px < length:
        starts.append(length - patch_px)
    return [(start, number * patch_px) for number, start in enumerate(starts)]


def cut_patch(
    image: RGBImage, labels: npt.NDArray[np.integer], window: Window, patch_px: int
) -> tuple[RGBImage, InstanceLabels]:
    """Cut a patch and its labels out of a labelled image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    labels : ndarray of integers, shape (H, W)
        0 is background, -1 is ignored; ids need not be consecutive.
    window : Window
    patch_px : int
        Side of the patch, in pixels.

    Returns
    -------
    image : ndarray of uint8, shape (patch_px, patch_px, 3)
        Pixels beyond the image are mirrored.
    labels : ndarray of int32, shape (patch_px, patch_px)
        Ids 1..n in the order of the old ids; -1 where labels were -1, on pixels of an earlier
        window, and beyond the image.
    """
    y, x, own_y, own_x = window.y, window.x, window.own_y, window.own_x
    pixels = image[y : y + patch_px, x : x + patch_px]
    kept = np.full((patch_px, patch_px), -1, np.int64)
    own = labels[own_y : y + patch_px, own_x : x + patch_px]
    kept[own_y - y :, own_x - x :][: own.shape[0], : own.shape[1]] = own
    ids, numbers = np.unique(kept, return_inverse=True)
    fresh = np.where(ids > 0, np.cumsum(ids > 0), ids).astype(np.int32)
    missing = [(0, patch_px - side) for side in pixels.shape[:2]]
    mirrored = np.pad(pixels, [*missing, (0, 0)], mode="symmetric")
    return mirrored, fresh[numbers].reshape(kept.shape)


def looks_like_a_mask(labels: npt.NDArray[np.integer]) -> bool:
    """Tell whether the only id covers several separate objects, as in masks without numbers."""
    inside = labels > 0
    if not inside.any() or labels[inside].min() != labels.max():
        return False
    return int(cv2.connectedComponents(inside.astype(np.uint8))[0]) > 2  # the background counts
