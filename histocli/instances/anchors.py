"""The anchor of a nucleus: the one pixel that stands for the place of the nucleus.

Slides are segmented in overlapping windows. The anchor decides which window keeps a nucleus, and
which number the nucleus gets. It is the pixel of the object nearest to the object's centroid. It is
computed in integers, relative to the object, so that all windows with the whole object agree.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import InstanceLabels

CENTROID_STEPS = 256  # centroids are rounded to 1/256 pixel, the same in every window


def anchors(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return y and x of the anchor of object k in row k - 1, shape (n, 2); -1 for absent ids.

    Of equally near pixels, the first in raster order counts. An anchor depends on the pixels of its
    own object only, and a shifted object has a shifted anchor.
    """
    inside = np.flatnonzero(labels.ravel() > 0)
    return anchors_of_pixels(inside, labels.ravel()[inside].astype(np.int64) - 1, labels.shape[1])


def anchors_of_pixels(
    inside: npt.NDArray[np.int64], objects: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.int64]:
    """Return anchors as :func:`anchors` does, for objects given as lists of pixels.

    Parameters
    ----------
    inside : ndarray of int64, shape (m,)
        Flat indices of the pixels in an image of this width, in raster order.
    objects : ndarray of int64, shape (m,)
        The number of each pixel's object, from 0.
    """
    n = int(objects.max(initial=-1)) + 1
    count = np.maximum(np.bincount(objects, minlength=n), 1)
    squared = np.zeros(inside.size, np.int64)
    for along in np.divmod(inside, width):
        first = np.full(n, np.iinfo(np.int64).max)
        np.minimum.at(first, objects, along)
        # relative to the object, so that the arithmetic is the same in every window
        own = along - first[objects]
        # float64 sums of integers are exact below 2**53
        total = np.bincount(objects, own, n).astype(np.int64)
        centre = (CENTROID_STEPS * total + count // 2) // count
        squared += (CENTROID_STEPS * own - centre[objects]) ** 2
    nearest = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(nearest, objects, squared)
    hits = np.flatnonzero(squared == nearest[objects])[::-1]
    anchor = np.full(n, -1, np.int64)
    anchor[objects[hits]] = inside[hits]  # written last to first, so the first of equals stays
    return np.where(anchor[:, None] < 0, -1, np.stack(np.divmod(anchor, width), axis=1))


def renumber_by_anchor(labels: npt.NDArray[np.integer[Any]]) -> InstanceLabels:
    """Renumber the objects that are present 1..n in the order of their anchors, y then x.

    Ignored pixels (negative) become background.
    """
    found = anchors(labels)
    order = np.lexsort((found[:, 1], found[:, 0]))
    order = order[found[order, 0] >= 0]
    numbers = np.zeros(len(found) + 1, np.int32)
    numbers[order + 1] = np.arange(1, len(order) + 1)
    renumbered: InstanceLabels = numbers[np.maximum(labels, 0)]
    return renumbered
