"""Connected components, holes and small objects of masks, by OpenCV."""

import cv2
import numpy as np

from histocli.base.types import BoolMask, InstanceLabels


def label_components(mask: BoolMask) -> InstanceLabels:
    """Number the connected parts of a mask, shape (H, W); pixels connect by their sides.

    Numbers start at 1 and follow the raster order of the components' first pixels.
    """
    _, labels = cv2.connectedComponents(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    return labels.astype(np.int32, copy=False)


def areas_px(labels: InstanceLabels) -> np.ndarray:
    """Count the pixels of each nucleus, by id; entry 0 counts background and ignored pixels."""
    return np.bincount(np.maximum(labels, 0).ravel())


def drop_small(labels: InstanceLabels, smallest_px: float) -> InstanceLabels:
    """Turn nuclei of fewer pixels into background; renumber the others 1..n, in order of ids."""
    renumbered = numbers_of(areas_px(labels) >= smallest_px)
    return np.where(labels < 0, labels, renumbered[np.maximum(labels, 0)]).astype(np.int32)


def numbers_of(kept: BoolMask) -> InstanceLabels:
    """Return the new id of each object, by its old one: 1..n for kept ones, 0 for the others."""
    kept[0] = False  # the background; this changes the argument
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)


def fill_holes(mask: BoolMask, largest_px: float) -> BoolMask:
    """Fill the holes of at most ``largest_px`` pixels of a mask, shape (H, W)."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        (~mask).view(np.uint8), connectivity=4
    )
    left, top, width, height, area = statistics.T
    # background that reaches the image border is no hole
    inside = (
        (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    )
    hole = inside & (area <= largest_px)
    hole[0] = False  # component 0 is the mask itself
    return np.asarray(mask | hole[labels]) if hole.any() else mask


def disk(radius_px: float) -> np.ndarray:
    """Return a round structuring element, uint8, of the given radius in pixels."""
    size = 2 * max(0, round(radius_px)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def renumber(labels: InstanceLabels) -> InstanceLabels:
    """Number the nuclei that are present 1..n, in the order of their ids; 0 and -1 stay."""
    return drop_small(labels, 1)
