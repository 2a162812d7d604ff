"""Distances between two sets of images, and of patches to the reference they follow."""

import numpy as np
import numpy.typing as npt

from histocli.base.rng import rng_for
from histocli.base.types import FloatArray

SUBSET = 200
SUBSETS = 50


def standardise_by(
    real: npt.NDArray[np.floating], *others: npt.NDArray[np.floating]
) -> list[FloatArray]:
    """Bring features to zero mean and unit spread over the real ones; returns the real ones
    first.
    """
    mean, spread = real.mean(axis=0), real.std(axis=0) + 1e-6
    return [np.asarray((side - mean) / spread, np.float32) for side in (real, *others)]


def kernel_distance(
    real: npt.NDArray[np.floating], synthetic: npt.NDArray[np.floating], seed: int = 0
) -> tuple[float, float]:
    """Kernel inception distance's statistic on any features (Binkowski et al. 2018): unbiased, 0
    for two samples of one kind.

    Parameters
    ----------
    real, synthetic : ndarray of float, shape (n, F), (m, F)
        Features; brought to the spread of the real ones.
    seed : int

    Returns
    -------
    mean, half_width : float
        Over random subsets; 1.96 standard deviations of the subsets' values over the square root of
        their number.
    """
    first, second = standardise_by(real, synthetic)
    size = min(SUBSET, len(first), len(second))
    rng = rng_for(seed, "kernel distance")
    values = [
        _unbiased(
            first[rng.choice(len(first), size, replace=False)],
            second[rng.choice(len(second), size, replace=False)],
        )
        for _ in range(SUBSETS)
    ]
    return float(np.mean(values)), float(1.96 * np.std(values) / np.sqrt(SUBSETS))


def _unbiased(first: FloatArray, second: FloatArray) -> float:
    n, features = first.shape

    def kernel(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
        return np.asarray((a.astype(np.float64) @ b.T / features + 1) ** 3)

    own, other = kernel(first, first), kernel(second, second)
    within = (own.sum() - np.trace(own) + other.sum() - np.trace(other)) / (n * (n - 1))
    return float(within - 2 * kernel(first, second).mean())


def patch_spectra(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Logarithm of the power of each patch at each spatial frequency, over directions, of the mean
    of the colours.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, S, S, 3)

    Returns
    -------
    ndarray of float64, shape (n, S // 2)
        Frequencies 1..S/2 in cycles per patch; natural logarithm.
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
        row[:] = np.log(
            np.bincount(radius.ravel(), power.ravel())[1 : side // 2 + 1] / count + 1e-6
        )
    return spectra


def radial_spectrum(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Mean over patches of :func:`patch_spectra`, shape (S // 2,); 0 without patches."""
    return np.asarray(patch_spectra(images).sum(axis=0) / max(len(images), 1))


def spectrum_distance(real: npt.NDArray[np.uint8], synthetic: npt.NDArray[np.uint8]) -> float:
    """Root mean square difference of the radial spectra, in natural logarithms of power."""
    return float(np.sqrt(np.mean((radial_spectrum(real) - radial_spectrum(synthetic)) ** 2)))


def distance_to_references(
    real: npt.NDArray[np.floating],
    image_of: npt.NDArray[np.integer],
    synthetic: npt.NDArray[np.floating],
    style_of: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distance of each patch to the mean of its own reference, and to those of the others.

    Parameters
    ----------
    real : ndarray of float, shape (n, F)
        Features of real patches.
    image_of : ndarray of int, shape (n,)
        Which reference each shows.
    synthetic : ndarray of float, shape (m, F)
    style_of : ndarray of int, shape (m,)
        Which reference each follows.

    Returns
    -------
    own, others : ndarray of float64, shape (m,)
        Root mean square over the features, in spreads of the real patches; others is the mean over
        the other references.
    """
    first, second = standardise_by(real, synthetic)
    names = np.unique(image_of)
    means = np.stack([first[image_of == name].mean(axis=0) for name in names])
    away = np.sqrt(((second[:, None] - means[None]) ** 2).mean(axis=-1))
    mine = names[None] == np.asarray(style_of)[:, None]
    own = np.where(mine, away, 0).sum(axis=1) / np.maximum(mine.sum(axis=1), 1)
    others = np.where(mine, 0, away).sum(axis=1) / np.maximum((~mine).sum(axis=1), 1)
    return own.astype(np.float64), others.astype(np.float64)
