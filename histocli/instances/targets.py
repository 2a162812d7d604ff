"""Convert labels to training targets of the network, and maps of the network back to labels.

A pixel has two targets: whether it belongs to a nucleus, and its depth. The depth is the distance
to the border of the nucleus divided by the largest such distance of the nucleus. It is 1 at the
centre of small and large nuclei alike, and low where nuclei touch. Contacts of nuclei can be a
third target. A core is a connected part of the mask with a large depth; a nucleus grows from it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.components import disk, fill_holes, label_components, numbers_of

MEAN_IS_LESS_SURE = 0.07
"""How much lower the confidence of an object is in the mean of many views than in one."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds on maps; fixed, since tuning gained at most 0.003 of the Jaccard index AJI."""

    probability: float = 0.5
    """A pixel belongs to a nucleus above this probability."""
    distance: float = 0.45
    """A pixel belongs to the core of a nucleus above this depth, in 0..1."""
    smallest_um2: float = 4.0
    """Smaller objects are dropped, in square micrometres."""
    smallest_core_um2: float = 0.6
    """No nucleus grows from a smaller core, in square micrometres."""
    confidence: float = 0.0
    """Objects with a lower mean probability are dropped; 0 keeps all. The command ``train``
    chooses the value with held-out synthetic patches."""
    largest_hole_um2: float = 12.0
    """Holes in the nucleus mask up to this area are filled, in square micrometres."""

    def for_views(self, views: int) -> "Thresholds":
        """Return the thresholds for maps that are means over so many views of an image.

        A mean is less sure than a single view. The confidence is lowered such that as many nuclei
        of synthetic patches are kept (``docs/research/trials.md``).
        """
        lower = MEAN_IS_LESS_SURE * (1 - 1 / views)
        return replace(self, confidence=max(self.confidence - lower, 0.0))


DEFAULT_THRESHOLDS = Thresholds()


def border_distance(labels: InstanceLabels) -> FloatArray:
    """Return the distance of every nuclear pixel to its nucleus's border, in pixels; 0 outside.

    Border pixels have 1. Image borders do not count, since a nucleus may go on beyond them.
    """
    padded = np.pad(labels, 1, mode="edge")
    same = np.ones(labels.shape, bool)
    for neighbour in (padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1]):
        same &= neighbour == labels
    # a pixel beside another nucleus or the background is a border pixel itself
    interior = (labels > 0) & same
    distance = cv2.distanceTransform(interior.astype(np.uint8), cv2.DIST_L2, 5)
    return np.where(labels > 0, distance + 1, 0).astype(np.float32)


def normalised_distance(labels: InstanceLabels) -> npt.NDArray[np.uint8]:
    """Return how deep every pixel lies in its nucleus: 255 at the deepest place, 0 outside."""
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


CONTACT_UM = 0.75  # two nuclei meet where both lie within this radius of a pixel, in micrometres


def contacts(labels: InstanceLabels, mpp: float) -> npt.NDArray[np.bool_]:
    """Mark where two nuclei meet: both sides of a common border, and narrow gaps."""
    disc = disk(max(1, CONTACT_UM / mpp))
    known = np.maximum(labels, 0).astype(np.float32)  # holds ids exactly up to 16 million
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
        Nucleus probability and depth, both in 0..1.
    mpp : float
        Micrometres per pixel.
    thresholds : Thresholds

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 is background, 1..n are instances; each object's pixels are connected.
    """
    pixel_um2 = mpp * mpp
    probability, distance = maps[..., 0], maps[..., 1]
    mask = fill_holes(probability > thresholds.probability, thresholds.largest_hole_um2 / pixel_um2)
    labels = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return labels
    # only the pixels of the mask, a small part of a section, are used from here on
    where = np.flatnonzero(mask)
    core = label_components(mask & (distance > thresholds.distance)).ravel()[where]
    large = np.bincount(core) >= thresholds.smallest_core_um2 / pixel_um2
    seed = numbers_of(large)[core]
    owner, shared = _owners(label_components(mask).ravel()[where], seed)
    if shared.any():
        part = where[shared]
        owner[shared] = _parted(mask.shape, part, distance.ravel()[part], seed[shared])
    areas = np.bincount(owner)
    mean = np.bincount(owner, probability.ravel()[where]) / np.maximum(areas, 1)
    sure = mean.astype(np.float32) >= thresholds.confidence
    kept = sure & (areas >= thresholds.smallest_um2 / pixel_um2)
    labels.ravel()[where] = numbers_of(kept)[owner]
    return labels


def _owners(
    component: InstanceLabels, seed: InstanceLabels
) -> tuple[InstanceLabels, npt.NDArray[np.bool_]]:
    """Assign each component of the mask that holds at most one core to one nucleus.

    ``component`` and ``seed`` are the numbers, from 1, of each pixel's component and large core (0:
    no core). The first result is the number of each pixel's nucleus: that of the core, or a number
    above all cores in a component without one. The second result tells which pixels belong to
    components with several cores, which ``_parted`` divides.
    """
    n_components, n_seeds = int(component.max()), int(seed.max())
    home = np.zeros(n_seeds + 1, np.int32)
    home[seed] = component  # a core is connected and in the mask, so it lies in one component
    n_cores = np.bincount(home[1:], minlength=n_components + 1)
    sole = np.arange(n_components + 1, dtype=np.int32) + n_seeds
    sole[home[1:]] = np.arange(1, n_seeds + 1)
    return sole[component], (n_cores > 1)[component]


def _parted(
    shape: tuple[int, ...], where: npt.NDArray[np.intp], distance: FloatArray, seed: InstanceLabels
) -> InstanceLabels:
    """Divide pixels at flat indices ``where`` among cores by a watershed on the depth."""
    levels, markers = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    region = np.zeros(shape, bool)
    # 256 levels make a faster queue than floats
    levels.ravel()[where] = np.rint((1 - np.clip(distance, 0, 1)) * 255).astype(np.uint8)
    markers.ravel()[where] = seed
    region.ravel()[where] = True
    return np.asarray(watershed(levels, markers, mask=region).ravel()[where])


def mean_within(labels: InstanceLabels, values: FloatArray) -> FloatArray:
    """Return the mean of values within object k at index k, shape (n + 1,); 0 at index 0."""
    owner = labels.ravel()
    mean = np.bincount(owner, values.ravel()) / np.maximum(np.bincount(owner), 1)
    mean[0] = 0
    return np.asarray(mean, np.float32)
