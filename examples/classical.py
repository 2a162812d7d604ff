"""Nuclei without a network: Otsu's threshold and a watershed, with fixed parameters in micrometres.

A trained segmenter has to beat this method. Where no truth exists, it is a second opinion. Stains
are unmixed with the fixed colours of Ruifrok and Johnston (2001), so that nothing is fitted to a
data set.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from histocli.base.types import InstanceLabels, RGBImage

# Sigma of the smoothing of hematoxylin: below the grain of chromatin, above the sensor's noise.
SMOOTHING_UM = 0.35
# Radius of the opening that removes threads between nuclei.
OPENING_UM = 0.25
# Least area of a nucleus; a lymphocyte has about 30.
MIN_AREA_UM2 = 10.0
# Sigma of the smoothing of the distance, so that a rough outline makes no seeds.
DISTANCE_SMOOTHING_UM = 0.5
# Least distance of two centres.
SEED_DISTANCE_UM = 2.0


def classical_nuclei(image: RGBImage, mpp: float) -> InstanceLabels:
    """Segment nuclei by Otsu's threshold on hematoxylin and a watershed on the distance to the
    outline.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        sRGB values in 0..255.
    mpp : float
        Pixel size, in micrometres per pixel.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 is background, nuclei are 1..n. Empty where the image has one colour only.
    """
    empty = np.zeros(image.shape[:2], np.int32)
    if image.size == 0:
        return empty
    hematoxylin = ndimage.gaussian_filter(
        rgb2hed(image)[..., 0].astype(np.float32), SMOOTHING_UM / mpp
    )
    # In an image of one colour there is no threshold between equal values.
    if np.ptp(hematoxylin) < 1e-6:
        return empty
    radius = max(1, round(OPENING_UM / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    foreground = (hematoxylin > threshold_otsu(hematoxylin)).astype(np.uint8)
    mask = ndimage.binary_fill_holes(cv2.morphologyEx(foreground, cv2.MORPH_OPEN, disk))

    exact = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    distance = ndimage.gaussian_filter(exact, DISTANCE_SMOOTHING_UM / mpp)
    regions, _ = ndimage.label(mask)
    centres = peak_local_max(
        distance,
        min_distance=max(1, round(SEED_DISTANCE_UM / mpp)),
        labels=regions,
        exclude_border=False,
    )
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(centres.T)] = np.arange(1, len(centres) + 1)
    labels = watershed(-distance, markers, mask=mask)

    keep = np.bincount(labels.ravel(), minlength=1) * mpp**2 >= MIN_AREA_UM2
    keep[0] = False
    new_id = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return np.asarray(new_id[labels])
