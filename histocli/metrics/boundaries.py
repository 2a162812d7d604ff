"""Boundaries: how far the outlines of two label images lie apart.

A pixel of nucleus k is a boundary pixel when one of its four neighbours is not k. The border of the
image and ignored pixels are no neighbours: nobody knows what lies behind them.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, IntArray
from histocli.instances.matching import LabelImage

NEAR_EPSILON = 1e-4  # of float32 distances, so that a distance equal to the tolerance is within it
PERCENTILE = 0.95
STRIP_PX = 64
BATCH_ELEMENTS = 500_000  # of padded point pairs that are compared at a time


def boundary_mask(labels: LabelImage, ignored: BoolMask | None = None) -> BoolMask:
    """Return the boundary pixels of nuclei.

    Parameters
    ----------
    labels : ndarray of integers, shape (H, W)
        0 = background, k > 0 = nucleus k; negative as 0.
    ignored : ndarray of bool, shape (H, W), optional
        Pixels that are no boundary and make none.
    """
    mask = np.zeros(labels.shape, bool)
    for top in range(0, labels.shape[0], STRIP_PX):  # strips that fit the processor's cache
        rows = slice(top, min(top + STRIP_PX, labels.shape[0]))
        above = slice(top, min(top + STRIP_PX, labels.shape[0] - 1))
        below = slice(above.start + 1, above.stop + 1)
        for first, second in (
            ((rows, slice(None, -1)), (rows, slice(1, None))),
            ((above,), (below,)),
        ):
            differs = labels[first] != labels[second]
            if ignored is not None:
                differs &= ~(ignored[first] | ignored[second])
            mask[first] |= differs
            mask[second] |= differs
    mask &= labels > 0
    return mask


def near(mask: BoolMask, radius_px: float) -> BoolMask:
    """Return the pixels whose centre lies within a radius of the centre of a pixel of the mask,
    shape (H, W).
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    reach = math.floor(radius_px + NEAR_EPSILON)
    if reach <= 4:  # a small disc is faster than distances
        offset = np.arange(-reach, reach + 1)
        disc = offset[:, None] ** 2 + offset**2 <= (radius_px + NEAR_EPSILON) ** 2
        return cv2.dilate(mask.view(np.uint8), disc.astype(np.uint8)).astype(bool)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= radius_px + NEAR_EPSILON)


def boundary_hits(
    truth: BoolMask, prediction: BoolMask, radius_px: float, core: tuple[slice, slice]
) -> tuple[int, int, int, int]:
    """Count boundary pixels of each side in a part of an image, and those near one of the other
    side.

    Parameters
    ----------
    truth, prediction : ndarray of bool, shape (H, W)
        Of :func:`boundary_mask`.
    radius_px : float
        In pixels; a distance equal to it is near.
    core : (slice, slice)
        What is counted; around it at least the radius must be there, or the image end.

    Returns
    -------
    truth_px, truth_hits, prediction_px, prediction_hits : int
    """
    found = []
    for mine, other in ((truth, prediction), (prediction, truth)):
        own = mine[core]
        found += [
            int(np.count_nonzero(own)),
            int(np.count_nonzero(own & near(other, radius_px)[core])),
        ]
    return found[0], found[1], found[2], found[3]


def hausdorff95(
    truth: LabelImage,
    prediction: LabelImage,
    ignored: BoolMask | None,
    pairs: IntArray,
    masks: tuple[BoolMask, BoolMask] | None = None,
) -> npt.NDArray[np.float64]:
    """Return for pairs of nuclei the Hausdorff distance of their boundaries without the farthest 5
    %.

    The larger of the two directed distances: for each boundary pixel of one nucleus the distance to
    the nearest one of the other, and of these the 95th percentile with linear interpolation
    (Huttenlocher et al. 1993; Maier-Hein et al. 2024).

    Parameters
    ----------
    truth, prediction : ndarray of integers, shape (H, W)
    ignored : ndarray of bool, shape (H, W), optional
    pairs : ndarray of int, shape (n, 2)
        Labels of each pair; no label is in two of them.
    masks : (ndarray of bool, ndarray of bool), optional
        The boundary pixels of both, where they are known.

    Returns
    -------
    ndarray of float64, shape (n,)
        In pixels; NaN where one of the two has no boundary, because it fills the image.
    """
    result = np.full(len(pairs), np.nan)
    if not len(pairs):
        return result
    sides = [
        _points_by_pair(labels, boundary_mask(labels, ignored), pairs[:, side])
        for side, labels in enumerate((truth, prediction))
    ]
    (first, first_n), (second, second_n) = sides
    first_end, second_end = np.cumsum(first_n), np.cumsum(second_n)
    # padding costs least among pairs of one size
    order = np.argsort(np.maximum(first_n, second_n), kind="stable")
    order = order[(first_n[order] > 0) & (second_n[order] > 0)]
    position = 0
    while position < len(order):
        # the largest batch whose padded table stays small; sizes grow along the order
        size = 1
        while position + size < len(order):
            widest = order[position : position + 2 * size]
            if (
                len(widest) * int(first_n[widest].max()) * int(second_n[widest].max())
                > BATCH_ELEMENTS
            ):
                break
            size = len(widest)
        batch = order[position : position + size]
        a = _padded(first, first_end[batch] - first_n[batch], first_n[batch])
        b = _padded(second, second_end[batch] - second_n[batch], second_n[batch])
        # squares of whole numbers below 2**24 are exact in float32
        squared = np.square(a[:, :, None, 0] - b[:, None, :, 0])
        squared += np.square(a[:, :, None, 1] - b[:, None, :, 1])
        # padding repeats the first point: it changes no minimum, and is left out of the percentile
        result[batch] = np.maximum(
            _percentile(squared.min(axis=2), first_n[batch]),
            _percentile(squared.min(axis=1), second_n[batch]),
        )
        position += size
    return result


def _points_by_pair(
    labels: LabelImage, mask: BoolMask, ids: IntArray
) -> tuple[npt.NDArray[np.float32], IntArray]:
    """Return the boundary points of the given nuclei, grouped in the order of ``ids``, and how many
    each has.
    """
    place = np.flatnonzero(mask)
    who = labels.ravel()[place].astype(np.int64)
    lowest, highest = int(ids.min()), int(ids.max())
    if highest - lowest <= 4 * labels.size:  # looking up is several times faster than searching
        number = np.full(highest - lowest + 1, -1, np.int64)
        number[ids - lowest] = np.arange(len(ids))
        known = np.flatnonzero((who >= lowest) & (who <= highest))
        pair = number[who[known] - lowest]
        known, pair = known[pair >= 0], pair[pair >= 0]
    else:
        sorted_of = np.argsort(ids)
        at = np.minimum(np.searchsorted(ids[sorted_of], who), len(ids) - 1)
        known = np.flatnonzero(ids[sorted_of][at] == who)
        pair = sorted_of[at[known]]
    # 16 bits are sorted by radix
    order = np.argsort(pair.astype(np.uint16) if len(ids) < 2**16 else pair, kind="stable")
    y, x = np.divmod(place[known][order], labels.shape[1])
    return np.stack([y, x], axis=1).astype(np.float32), np.bincount(pair, minlength=len(ids))


def _padded(
    points: npt.NDArray[np.float32], start: IntArray, number: IntArray
) -> npt.NDArray[np.float32]:
    """Return (batch, most, 2); rows are filled up with their first point."""
    index = np.arange(int(number.max()))
    return points[start[:, None] + np.where(index < number[:, None], index, 0)]


def _percentile(squared: npt.NDArray[np.float32], number: IntArray) -> npt.NDArray[np.float64]:
    """Return the 95th percentile of the roots of the first ``number`` values of each row."""
    known = np.arange(squared.shape[1]) < number[:, None]
    distance = np.sort(np.where(known, np.sqrt(squared.astype(np.float64)), np.inf), axis=1)
    position = PERCENTILE * (number - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, number - 1)
    rows = np.arange(len(number))
    return np.asarray(
        distance[rows, low] + (position - low) * (distance[rows, high] - distance[rows, low])
    )
