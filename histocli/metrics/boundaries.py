"""Boundaries: how well the outlines of two label images agree.

A pixel of nucleus k is a boundary pixel when one of its four neighbours does not belong to k.
Pixels that are ignored or beyond the image are not neighbours: their nucleus is unknown.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from histocli.base.types import BoolMask, IntArray
from histocli.instances.matching import matched_pairs
from histocli.instances.overlaps import FloatVector, LabelImage, Overlaps
from histocli.metrics.counts import BoundaryCounts
from histocli.metrics.hausdorff import hausdorff95
from histocli.metrics.windows import Mapper, MaskedPair, Rectangle, tile

NEAR_EPSILON = 1e-4
"""Pixels added to a radius, so that a distance equal to the radius counts despite rounding."""
STRIP_PX = 64  # rows compared at a time: few enough for the processor's cache
OVERHANG_PX = 160  # least margin read below and right of a window; pairs beyond it are read alone


def boundary_mask(labels: LabelImage, ignored: BoolMask | None = None) -> BoolMask:
    """Return the boundary pixels of nuclei; labels below 0 are background.

    An ignored pixel is no boundary pixel, and makes none of its neighbours one.
    """
    mask = np.zeros(labels.shape, bool)
    for top in range(0, labels.shape[0], STRIP_PX):
        rows = slice(top, min(top + STRIP_PX, labels.shape[0]))
        above = slice(top, min(top + STRIP_PX, labels.shape[0] - 1))
        below = slice(top + 1, above.stop + 1)
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
    """Return the pixels whose centre lies within a radius of the centre of a pixel of the mask."""
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
) -> BoundaryCounts:
    """Count true and predicted boundary pixels, and how many are near one of the other kind.

    The two boundary masks show a part of an image. Only pixels in ``core`` are counted; around it
    the masks must reach farther by the radius, or to the border of the image.
    """
    return BoundaryCounts(
        truth_px=int(np.count_nonzero(truth[core])),
        truth_hits=int(np.count_nonzero((truth & near(prediction, radius_px))[core])),
        prediction_px=int(np.count_nonzero(prediction[core])),
        prediction_hits=int(np.count_nonzero((prediction & near(truth, radius_px))[core])),
    )


def count_boundaries(
    table: Overlaps,
    labels: MaskedPair,
    filled: Sequence[Rectangle],
    *,
    tolerance_px: float,
    mpp: float,
    mapper: Mapper,
) -> BoundaryCounts:
    """Compare the boundaries of an image window by window.

    Parameters
    ----------
    table : Overlaps
        Of the whole image.
    labels : MaskedPair
    filled : sequence of Rectangle
        The windows that contain nuclei. If there are several, new windows tile the image.
    tolerance_px : float
        Largest distance of boundary pixels that agree.
    mpp : float
        Micrometres per pixel.
    mapper : callable
        ``map``, or a function like it that uses threads.

    Returns
    -------
    BoundaryCounts
    """
    work = _WindowComparison(table, labels, filled, tolerance_px)
    windows = filled if len(filled) == 1 else tile(labels.shape, work.reach_px)
    total, distances = BoundaryCounts(images=1), [np.zeros(0)]
    for counts, distances_px in mapper(work, windows):
        total += counts
        distances.append(distances_px[np.isfinite(distances_px)])
    every = np.concatenate(distances)
    # fsum is exact, so that the order of the windows does not change the sum
    return total + BoundaryCounts(hd95_sum_um=math.fsum(every) * mpp, hd95_pairs=len(every))


class _WindowComparison:
    """Compares the boundary pixels of a window, and the matched pairs that begin in the window.

    A pair begins where its box begins: the smallest rectangle around both of its nuclei.
    """

    def __init__(
        self, table: Overlaps, labels: MaskedPair, filled: Sequence[Rectangle], tolerance_px: float
    ) -> None:
        self._labels, self._filled, self._tolerance_px = labels, filled, tolerance_px
        self.reach_px = math.floor(tolerance_px) + 2
        matched = matched_pairs(table)
        rows, columns = table.rows[matched], table.columns[matched]
        ids = table.truth.ids[rows], table.prediction.ids[columns]
        boxes = np.stack([table.truth.box[rows], table.prediction.box[columns]])
        box = np.concatenate([boxes[..., :2].min(axis=0), boxes[..., 2:].max(axis=0)], axis=1)
        order = np.argsort(box[:, 0], kind="stable")
        self._box: IntArray = box[order]
        self._pairs = np.stack(ids, axis=1)[order]

    def __call__(self, window: Rectangle) -> tuple[BoundaryCounts, FloatVector]:
        """Return the counts of a window and the Hausdorff distances of its pairs, in pixels."""
        mine = self._beginning_in(window)
        # nuclei may miss the corner of their box: a window may have pairs but no pixels of nuclei
        if not len(mine) and not any(window.meets(other) for other in self._filled):
            return BoundaryCounts(), np.zeros(0)
        shape = self._labels.shape
        area = window.grown(self.reach_px, max(self.reach_px, OVERHANG_PX), shape)
        sides, masks = self._read(area)
        counts = boundary_hits(*masks, self._tolerance_px, window.within(area))
        # boundaries need one pixel beyond the box, unless the image ends there
        box = self._box[mine]
        inside = np.minimum(box[:, 2] + 1, shape[0]) <= area.bottom
        inside &= np.minimum(box[:, 3] + 1, shape[1]) <= area.right
        distances = np.empty(len(mine))
        distances[inside] = hausdorff95(*sides, *masks, self._pairs[mine[inside]])
        for index in np.flatnonzero(~inside):
            distances[index] = self._alone(int(mine[index]))
        return counts, distances

    def _beginning_in(self, window: Rectangle) -> IntArray:
        """Return the indices of the pairs whose box begins in a window."""
        first, last = np.searchsorted(self._box[:, 0], [window.top, window.bottom])
        left = self._box[first:last, 1]
        return np.asarray(first + np.flatnonzero((left >= window.left) & (left < window.right)))

    def _alone(self, pair: int) -> float:
        """Read the box of one pair, and return the Hausdorff distance of the pair in pixels."""
        top, left, bottom, right = (int(edge) for edge in self._box[pair])
        area = Rectangle(top, bottom, left, right).grown(1, 1, self._labels.shape)
        sides, masks = self._read(area)
        return float(hausdorff95(*sides, *masks, self._pairs[pair : pair + 1])[0])

    def _read(
        self, area: Rectangle
    ) -> tuple[tuple[LabelImage, LabelImage], tuple[BoolMask, BoolMask]]:
        """Return the true and predicted labels, and their boundary masks."""
        truth, prediction, ignored = self._labels.read(area)
        masks = boundary_mask(truth, ignored), boundary_mask(prediction, ignored)
        return (truth, prediction), masks
