"""Distances between real and synthetic patches, and of patches to reference images.

A synthetic patch *follows* the reference image that it was made after.
"""

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, IntArray

Vector = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]
"""(n,) True for the patches that a statistic is computed from."""


def standardise_by(real: FloatArray, synthetic: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scale each feature to mean 0 and standard deviation 1 over the real patches."""
    mean, spread = real.mean(axis=0), real.std(axis=0) + 1e-6
    return (real - mean) / spread, (synthetic - mean) / spread


class Kernels:
    """The cubic polynomial kernel of all pairs of patches, computed once for all subsets."""

    def __init__(self, real: FloatArray, synthetic: FloatArray) -> None:
        first, second = real.astype(np.float64), synthetic.astype(np.float64)
        self._own = [(side @ side.T / side.shape[1] + 1) ** 3 for side in (first, second)]
        for kernel in self._own:
            np.fill_diagonal(kernel, 0)
        self._cross = (first @ second.T / first.shape[1] + 1) ** 3

    def distance(self, real: Chosen, synthetic: Chosen) -> float:
        """Return the unbiased squared maximum mean discrepancy of the kept patches.

        The kernel inception distance uses this statistic (Binkowski et al. 2018). Its mean is 0 for
        two samples of one distribution, so that it may be below 0 by chance.
        """
        within, weights = 0.0, [kept.astype(np.float64) for kept in (real, synthetic)]
        for kernel, weight in zip(self._own, weights, strict=True):
            n = weight.sum()
            within += float(weight @ kernel @ weight) / max(n * (n - 1), 1.0)
        between = weights[0] @ self._cross @ weights[1] / (real.sum() * synthetic.sum())
        return float(within - 2 * between)


def patch_spectra(images: npt.NDArray[np.uint8]) -> Vector:
    """Return the log power of each patch, (S, S, 3), at each spatial frequency, in a Hann window.

    Returns
    -------
    ndarray of float64, shape (n, S // 2)
        Natural logarithm of the power of the mean of the three channels, averaged over all
        directions, at 1..S // 2 cycles per patch.
    """
    side = images.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)[None]
    frequency = np.fft.fftfreq(side) * side
    radius = np.rint(np.hypot(frequency[:, None], frequency[None])).astype(int)
    count = np.bincount(radius.ravel())[1 : side // 2 + 1]
    spectra = np.zeros((len(images), side // 2))
    for row, image in zip(spectra, images, strict=True):
        light = image.astype(np.float64).mean(axis=-1)
        power = np.abs(np.fft.fft2((light - light.mean()) * window)) ** 2
        total = np.bincount(radius.ravel(), power.ravel())[1 : side // 2 + 1]
        row[:] = np.log(total / count + 1e-6)
    return spectra


def distance_to_references(
    real: FloatArray, image_of: IntArray, synthetic: FloatArray, followed: IntArray
) -> tuple[Vector, Vector]:
    """Return the distances of each synthetic patch to its own reference and to the others.

    Parameters
    ----------
    real, synthetic : ndarray of float, shape (n, F) and (m, F)
        Features of the patches.
    image_of, followed : ndarray of int, shape (n,) and (m,)
        Number of the reference that each real patch shows, and that each synthetic one follows.

    Returns
    -------
    own, others : ndarray of float64, shape (m,)
        Distance to the mean features of the real patches of a reference: root mean square over the
        features, in standard deviations of the real patches. ``own`` is 0 where no real patch
        shows the own reference, and ``others`` the mean over the other references.
    """
    first, second = standardise_by(real, synthetic)
    names = np.unique(image_of)
    means = np.stack([first[image_of == name].mean(axis=0) for name in names])
    away = np.sqrt(((second[:, None] - means[None]) ** 2).mean(axis=-1))
    mine = names[None] == followed[:, None]
    own = np.where(mine, away, 0).sum(axis=1) / np.maximum(mine.sum(axis=1), 1)
    others = np.where(mine, 0, away).sum(axis=1) / np.maximum((~mine).sum(axis=1), 1)
    return own.astype(np.float64), others.astype(np.float64)


def histogram_distance(first: Vector, second: Vector) -> float:
    """Return the earth mover's distance of two histograms, in bins; NaN if one is empty."""
    if not first.sum() or not second.sum():
        return float("nan")
    return float(np.abs(np.cumsum(first / first.sum() - second / second.sum())).sum())
