"""How well pale nuclei are found: recall by the contrast of a nucleus with what surrounds it.

A mean score hides that a method finds the dark third of the nuclei and misses the pale third; this
shows it.
"""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage
from histocli.instances.matching import LabelImage, matched_pairs, overlaps

# width of the ring around a nucleus; 1.25 um at 40x: wider than a blurred edge, narrower than most
# gaps
RING_PX = 5
# optical density of a grey level, natural log
DARKNESS = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)


def nuclear_contrast(
    image: RGBImage, labels: LabelImage, *, ring_px: int = RING_PX
) -> npt.NDArray[np.float64]:
    """Measure how much darker each nucleus is than the ring around it.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB values in 0..255.
    labels : ndarray of integers, shape (H, W)
        0 is background, k > 0 is nucleus k, negative is ignored. The labels in use are 1..n or any
        subset.
    ring_px : int
        Width of the ring, in pixels. Pixels of other nuclei are not part of it; each background
        pixel belongs to the ring of the nearest nucleus.

    Returns
    -------
    ndarray of float64, shape (n,)
        Mean optical density (natural log, mean of the three channels) inside minus that of the
        ring, by ascending label. A nucleus that others enclose completely is compared with the
        whole background.
    """
    ids = np.unique(labels[labels > 0])
    if not len(ids):
        return np.zeros(0)
    density = DARKNESS[image].mean(axis=2)
    # consecutive, so that counting needs no more than n + 1 bins
    index = np.searchsorted(ids, labels).astype(np.int64) + 1
    index[labels <= 0] = 0
    inside = index > 0
    n_bins = len(ids) + 1
    area = np.bincount(index.ravel(), minlength=n_bins)[1:]
    mean_inside = np.bincount(index.ravel(), density.ravel(), n_bins)[1:] / area

    distance, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner_of = np.zeros(int(nearest.max()) + 1, np.int64)
    # every zero pixel of the transform has a number of its own
    owner_of[nearest[inside]] = index[inside]
    ring = (labels == 0) & (distance <= ring_px)
    owner = owner_of[nearest[ring]]
    ring_area = np.bincount(owner, minlength=n_bins)[1:]
    ring_sum = np.bincount(owner, density[ring], n_bins)[1:]
    background = density[labels == 0]
    everywhere = float(background.mean()) if background.size else 0.0
    mean_ring = np.where(ring_area > 0, ring_sum / np.maximum(ring_area, 1), everywhere)
    return np.asarray(mean_inside - mean_ring, np.float64)


def contrast_and_found(
    image: RGBImage, truth: LabelImage, prediction: LabelImage
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return for each true nucleus, by ascending label, its contrast and whether a prediction
    matches it with IoU > 0.5.
    """
    table = overlaps(truth, prediction)
    found = np.zeros(len(table.areas_truth), bool)
    found[table.rows[matched_pairs(table)]] = True
    return nuclear_contrast(image, truth), found


def recall_by_tercile(
    contrast: npt.NDArray[np.float64], found: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Return the share of nuclei found in the lowest, middle and highest third of contrast; 1 where
    a third is empty.
    """
    order = np.argsort(contrast, kind="stable")
    low, middle, high = (
        float(found[third].mean()) if len(third) else 1.0 for third in np.array_split(order, 3)
    )
    return low, middle, high


def recall_by_contrast(
    image: RGBImage, truth: LabelImage, prediction: LabelImage
) -> tuple[float, float, float]:
    """Return the recall at IoU > 0.5 in the lowest, middle and highest third of nuclear contrast of
    one image.
    """
    return recall_by_tercile(*contrast_and_found(image, truth, prediction))


def pooled_recall_by_contrast(
    images: Iterable[tuple[RGBImage, LabelImage, LabelImage]],
) -> tuple[float, float, float]:
    """Return the recall by contrast over the pooled nuclei of a set of images.

    Parameters
    ----------
    images : iterable of (image, truth, prediction)
        Shapes (H, W, 3), (H, W) and (H, W). The thirds are taken over all nuclei of the set.
    """
    parts = [contrast_and_found(*item) for item in images]
    if not parts:
        return 1.0, 1.0, 1.0
    return recall_by_tercile(
        np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    )
