"""Labels to network targets, and network maps back to labels: the two directions side by side.

The target of a pixel is whether it is nucleus, and how deep inside its nucleus it lies: the
distance to the border divided by the largest such distance of that nucleus, so that small and large
nuclei have equally strong centres and touching nuclei are parted by a valley. Where two nuclei meet
can be a target of its own.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.components import areas_px, fill_holes, label_components


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where maps are cut. Tuning them on truth was worth 0.003 AJI at most, so they are fixed."""

    probability: float = 0.5
    """A pixel is nucleus above this."""
    distance: float = 0.45
    """A pixel is the core of a nucleus above this normalised depth."""
    smallest_um2: float = 4.0
    """Smaller objects are no nuclei, in square micrometres."""
    smallest_core_um2: float = 0.6
    """Smaller cores do not seed a nucleus, in square micrometres."""
    confidence: float = 0.0
    """Objects with a lower mean probability are dropped; 0 keeps all. ``train`` chooses it from
    held-out synthetic patches."""
    largest_hole_um2: float = 12.0
    """Smaller holes in the nucleus mask are filled, in square micrometres."""


DEFAULT_THRESHOLDS = Thresholds()


def border_distance(labels: InstanceLabels) -> FloatArray:
    """Distance of every nuclear pixel to the border of its nucleus, in pixels; 0 outside.

    The image's border does not count as a border, since a nucleus may go on behind it.
    """
    padded = np.pad(labels, 1, mode="edge")
    same = np.ones(labels.shape, bool)
    centre = labels
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        same &= (
            padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx] == centre
        )
    # pixels with a stranger beside them have distance zero to the border pixels
    interior = (labels > 0) & same
    distance = cv2.distanceTransform(interior.astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(labels > 0, distance + 1, 0).astype(np.float32)


def normalised_distance(labels: InstanceLabels) -> npt.NDArray[np.uint8]:
    """Depth of every pixel inside its nucleus as 0..255: 255 at the deepest place of each nucleus,
    0 outside.

    Parameters
    ----------
    labels : ndarray of int32, shape (H, W)
        0 = background, k = nucleus k, -1 = ignored.

    Returns
    -------
    ndarray of uint8, shape (H, W)
    """
    distance = border_distance(labels)
    index = np.maximum(labels, 0).ravel()
    deepest = np.zeros(int(index.max(initial=0)) + 1, np.float32)
    inside = np.flatnonzero(index)
    values = distance.ravel()[inside]
    order = np.argsort(values, kind="stable")  # the last write of each nucleus is its largest
    deepest[index[inside[order]]] = values[order]
    deepest[0] = 1
    scaled = distance.ravel() / deepest[index]
    depth: npt.NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return depth.reshape(labels.shape)


CONTACT_UM = 0.75
"""Pixels whose neighbourhood of this radius holds two nuclei are where these meet, in
micrometres."""


def contacts(labels: InstanceLabels, mpp: float) -> npt.NDArray[np.bool_]:
    """Tell where two nuclei meet: on both sides of the border they share, and in a gap between them
    that is narrow.

    Parameters
    ----------
    labels : ndarray of int32, shape (H, W)
        0 = background, k = nucleus k, -1 = ignored.
    mpp : float
        Micrometres per pixel.

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    radius = max(1, round(CONTACT_UM / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    known = np.maximum(labels, 0).astype(np.float32)  # exact up to 16 million nuclei
    largest = cv2.dilate(known, disc)
    smallest = cv2.erode(np.where(known > 0, known, np.float32(np.inf)), disc)
    return np.asarray((largest > 0) & (smallest < largest), np.bool_)


def maps_to_instances(
    maps: FloatArray, mpp: float, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> InstanceLabels:
    """Decode network maps into instances.

    Parameters
    ----------
    maps : ndarray of float32, shape (H, W, 2)
        Nucleus probability and normalised border distance, both in 0..1.
    mpp : float
        Micrometres per pixel of the maps.
    thresholds : Thresholds

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 = background, 1..n. Each object's pixels are connected.
    """
    pixel_um2 = mpp * mpp
    probability, distance = maps[..., 0], maps[..., 1]
    mask = fill_holes(probability > thresholds.probability, thresholds.largest_hole_um2 / pixel_um2)
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    cores, components = (
        label_components(mask & (distance > thresholds.distance)),
        label_components(mask),
    )
    # most of a section is no nucleus, so from here on only these pixels are touched
    where = np.flatnonzero(mask)
    component, core = components.ravel()[where], cores.ravel()[where]
    large = np.bincount(core) >= thresholds.smallest_core_um2 / pixel_um2
    large[0] = False
    seed = np.where(large, np.cumsum(large), 0).astype(np.int32)[core]
    n_components, n_seeds = int(component.max()), int(seed.max())
    home = np.zeros(n_seeds + 1, np.int32)
    home[seed] = component  # a core is connected and in the mask, so it lies in one component
    n_cores = np.bincount(home[1:], minlength=n_components + 1)
    # A component of the mask with one core is one nucleus; one without a core is a nucleus all the
    # same, if it is large enough. Only those with several have to be parted.
    sole = np.arange(n_components + 1, dtype=np.int32) + n_seeds
    sole[home[1:]] = np.arange(1, n_seeds + 1)
    owner = sole[component]
    shared = (n_cores > 1)[component]
    if shared.any():
        part = where[shared]
        levels, markers, region = (
            np.zeros(mask.shape, np.uint8),
            np.zeros(mask.shape, np.int32),
            np.zeros(mask.shape, bool),
        )
        # few levels: a faster queue, the same valleys
        levels.ravel()[part] = np.rint((1 - np.clip(distance.ravel()[part], 0, 1)) * 255).astype(
            np.uint8
        )
        markers.ravel()[part] = seed[shared]
        region.ravel()[part] = True
        owner[shared] = watershed(levels, markers, mask=region).ravel()[part]
    areas = np.bincount(owner)
    mean = (np.bincount(owner, probability.ravel()[where]) / np.maximum(areas, 1)).astype(
        np.float32
    )
    kept = (areas >= thresholds.smallest_um2 / pixel_um2) & (mean >= thresholds.confidence)
    kept[0] = False
    labels = np.zeros(mask.shape, np.int32)
    labels.ravel()[where] = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[owner]
    return labels


def mean_within(labels: InstanceLabels, values: FloatArray) -> FloatArray:
    """Mean of values within every object, shape (n + 1,); 0 for the background."""
    owner = labels.ravel()
    mean = np.bincount(owner, values.ravel()) / np.maximum(np.bincount(owner), 1)
    mean[0] = 0
    return np.asarray(mean, np.float32)


__all__ = [
    "DEFAULT_THRESHOLDS",
    "Thresholds",
    "areas_px",
    "border_distance",
    "contacts",
    "maps_to_instances",
    "mean_within",
    "normalised_distance",
]
