"""The contrast of a nucleus: how much darker it is than the background around it."""

import cv2
import numpy as np

from histocli.base.types import RGBImage
from histocli.instances.overlaps import FloatVector, LabelImage

DARKNESS = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)
"""(256,) optical density of each grey level, natural logarithm."""


def nuclear_contrast(image: RGBImage, labels: LabelImage) -> FloatVector:
    """Measure how much darker each nucleus is than the ring around it.

    The ring of a nucleus is the background within 5 px for which no other nucleus is nearer. Pixels
    with negative labels are left out.

    Returns
    -------
    ndarray of float64, shape (n,)
        Mean optical density (natural log, mean of the three channels) of the nucleus minus that
        of its ring, by ascending label. A nucleus without a ring is compared with the whole
        background, or with 0 where the image has none.
    """
    ids = np.unique(labels[labels > 0])
    if not len(ids):
        return np.zeros(0)
    density = DARKNESS[image].mean(axis=2)
    # nuclei become 1..n, so that counting needs n + 1 bins
    index = np.searchsorted(ids, labels).astype(np.int64) + 1
    index[labels <= 0] = 0
    inside = index > 0
    n_bins = len(ids) + 1
    area = np.bincount(index.ravel())[1:]
    mean_inside = np.bincount(index.ravel(), density.ravel())[1:] / area

    distance, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner_of = np.zeros(int(nearest.max()) + 1, np.int64)
    # the transform gives every pixel of a nucleus a number of its own
    owner_of[nearest[inside]] = index[inside]
    # 5 px: wider than a blurred edge at 40x, and narrower than most gaps between nuclei
    ring = (labels == 0) & (distance <= 5)
    owner = owner_of[nearest[ring]]
    ring_area = np.bincount(owner, minlength=n_bins)[1:]
    ring_sum = np.bincount(owner, density[ring], n_bins)[1:]
    background = density[labels == 0]
    everywhere = float(background.mean()) if background.size else 0.0
    mean_ring = np.where(ring_area > 0, ring_sum / np.maximum(ring_area, 1), everywhere)
    return np.asarray(mean_inside - mean_ring, np.float64)
