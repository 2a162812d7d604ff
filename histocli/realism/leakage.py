"""Does refinement leave traces in the shape of the labels?

A refiner that edits along the labels leaves a trace there that no real nucleus has. A segmenter
that learns from refined patches learns the trace instead of nuclei
(``docs/research/refinement.md``).
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.rng import rng_for
from histocli.base.types import FloatArray, InstanceLabels, IntArray, RGBImage
from histocli.optics.density import rgb_to_optical_density
from histocli.training.two_sample import judge_features

SCALES_PX = (1.0, 2.0, 4.0)
PIXELS = 150
"""Pixels of nuclei, and as many of background, that are judged in a patch."""
FOLDS = 3


def residual_auc(
    initial: Sequence[RGBImage],
    refined: Sequence[RGBImage],
    labels: Sequence[InstanceLabels],
    groups: IntArray,
    seed: int = 0,
) -> float:
    """Return how well the edits alone tell nuclei from background.

    A linear classifier sees only the change of optical density around a pixel, at several scales,
    and is tested on groups of patches that it has not learnt from.

    Parameters
    ----------
    initial, refined : sequence of ndarray of uint8, shape (H, W, 3)
        Patches before and after refinement.
    labels : sequence of ndarray of int, shape (H, W)
        Pixels below 0 are left out.
    groups : ndarray of int, shape (n,)
        Number of the reference of each patch.

    Returns
    -------
    float
        Area under the ROC curve: 0.5 where edits do not know the labels, 1 where they show them.
        NaN with fewer than two groups, or without nuclei or background.
    """
    sides: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    of_side: tuple[list[int], list[int]] = ([], [])
    for number, (before, after, label) in enumerate(zip(initial, refined, labels, strict=True)):
        features = _features(before, after)
        rng = rng_for(seed, "residual", number)
        for side, numbers, chosen in zip(sides, of_side, (label > 0, label == 0), strict=True):
            places = np.flatnonzero(chosen)
            if len(places):
                some = rng.choice(places, PIXELS)
                side.append(features.reshape(-1, features.shape[-1])[some])
                numbers.extend([int(groups[number])] * PIXELS)
    if not all(sides) or len(np.unique(groups)) < 2:
        return float("nan")
    nuclei, background = (np.concatenate(side) for side in sides)
    images: tuple[npt.NDArray[np.int64], ...] = tuple(np.array(each) for each in of_side)
    return judge_features(nuclei, background, *images, folds=FOLDS, seed=seed).auc


def _features(before: RGBImage, after: RGBImage) -> FloatArray:
    """Return the change of density and its size around each pixel, shape (H, W, features)."""
    change = rgb_to_optical_density(after) - rgb_to_optical_density(before)
    size = np.ascontiguousarray(np.abs(change).mean(axis=-1))
    planes = [change.mean(axis=-1), size]
    planes += [cv2.GaussianBlur(size, (0, 0), scale) for scale in SCALES_PX]
    planes += [cv2.GaussianBlur(change.mean(axis=-1), (0, 0), scale) for scale in SCALES_PX]
    return np.stack(planes, axis=-1).astype(np.float32)
