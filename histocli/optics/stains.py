"""The colours of stains, estimated per image, and the amounts of stain in every pixel.

``optical_density = concentrations @ stain_matrix`` (Ruifrok and Johnston 2001). The colours come
from the extreme directions of the image's own optical density (Macenko et al. 2009), with a check
that they can be hematoxylin and eosin at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray

TYPICAL_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], np.float32)
TYPICAL_STAINS = TYPICAL_STAINS / np.linalg.norm(TYPICAL_STAINS, axis=1, keepdims=True)
"""Hematoxylin and eosin in optical density, rows of length 1 (Ruifrok and Johnston 2001)."""


@dataclass(frozen=True)
class StainEstimate:
    """Colours of the two stains of one image."""

    stain_matrix: FloatArray
    """(2, 3), unit rows, hematoxylin then eosin."""
    measured: bool
    """False where ``TYPICAL_STAINS`` replace colours that the image does not show."""
    reason: str  # why nothing was measured; empty otherwise


def estimate_stains(optical_density: FloatArray) -> StainEstimate:
    """Estimate the colours of hematoxylin and eosin of one image.

    Macenko et al. 2009: project the stained pixels on the plane of their two largest singular
    vectors and take the 1st and 99th percentile of the angle. Added to this are the order of the
    two (hematoxylin absorbs more red) and the refusal of impossible colours.

    Parameters
    ----------
    optical_density : ndarray of float32, shape (..., 3)
        Natural log; 0 is glass.

    Returns
    -------
    StainEstimate
        ``TYPICAL_STAINS`` and a reason where the image is nearly empty, or shows only one stain or
        other stains.
    """
    pixels = optical_density.reshape(-1, 3)
    # faster than max over an axis of three
    strongest = np.maximum(np.maximum(pixels[:, 0], pixels[:, 1]), pixels[:, 2])
    # less than 0.15 is glass (Macenko et al. 2009), more than 4 nearly black
    stained = pixels[(strongest > 0.15) & (strongest < 4)]
    if len(stained) < 500:
        return StainEstimate(TYPICAL_STAINS, False, "too few stained pixels")
    stained = stained[:: max(1, len(stained) // 100_000)].astype(np.float64)
    # the plane passes through the origin: glass has no stain
    _, vectors = np.linalg.eigh(stained.T @ stained)
    plane = vectors[:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(stained @ plane[:, 1], stained @ plane[:, 0])
    extremes = np.percentile(angles, [1, 99])
    if np.rad2deg(extremes[1] - extremes[0]) < 8.0:  # degrees between colours
        return StainEstimate(TYPICAL_STAINS, False, "only one colour of stain")
    rows = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    rows = np.clip(rows, 0, None)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # hematoxylin comes first: it absorbs more red, compared with green
    rows = rows[np.argsort(-(rows[:, 0] - 0.5 * rows[:, 1]))]
    deviation = np.rad2deg(np.arccos(np.clip((rows * TYPICAL_STAINS).sum(axis=1), -1, 1)))
    if deviation.max() > 38.0:  # degrees from the typical colours
        return StainEstimate(
            TYPICAL_STAINS, False, "colours that hematoxylin and eosin do not have"
        )
    return StainEstimate(rows.astype(np.float32), True, "")


def unmix(
    optical_density: npt.NDArray[np.floating], stain_matrix: npt.NDArray[np.floating]
) -> FloatArray:
    """Return the amounts of stain, shape (..., 2), in optical density (..., 3), by least squares.

    Noise may make amounts slightly negative.
    """
    inverse = np.linalg.pinv(stain_matrix.astype(np.float64)).astype(np.float32)
    return (optical_density @ inverse).astype(np.float32)


def mix(
    concentrations: npt.NDArray[np.floating], stain_matrix: npt.NDArray[np.floating]
) -> FloatArray:
    """Return the optical density, shape (..., 3), of stain amounts, shape (..., 2)."""
    return (concentrations @ stain_matrix).astype(np.float32)


def restain(
    optical_density: npt.NDArray[np.floating],
    stain_matrix: npt.NDArray[np.floating],
    other_matrix: npt.NDArray[np.floating],
    gains: npt.NDArray[np.floating],
) -> FloatArray:
    """Replace the stain colours of tissue by those of another image, and scale the amounts.

    This is the method of Vahadane et al. 2016 without its sparse estimate of stains.

    Parameters
    ----------
    optical_density : ndarray of float, shape (..., 3)
    stain_matrix, other_matrix : ndarray of float, shape (2, 3)
        Colours of the stains before and afterwards, as in ``StainEstimate``.
    gains : ndarray of float, shape (2,)
        Factors on the amounts of hematoxylin and eosin.

    Returns
    -------
    ndarray of float32, shape (..., 3)
        Optical density, >= 0; it keeps the part that the two stains do not explain.
    """
    amounts = unmix(optical_density, stain_matrix)
    changed = (
        optical_density
        - mix(amounts, stain_matrix)
        + mix(amounts * np.asarray(gains, np.float32), other_matrix)
    )
    return np.asarray(np.maximum(changed, 0), np.float32)


def stain_angle(
    first: Sequence[npt.NDArray[np.floating]], second: Sequence[npt.NDArray[np.floating]]
) -> float:
    """Return how far the stain matrices of two sets of images differ, in degrees.

    That is the larger angle of the two between the median colours of hematoxylin and of eosin.
    """
    unit = []
    for matrices in (first, second):
        middle = np.median(matrices, axis=0)
        unit.append(middle / np.maximum(np.linalg.norm(middle, axis=1, keepdims=True), 1e-6))
    return float(np.rad2deg(np.arccos(np.clip((unit[0] * unit[1]).sum(axis=1), -1, 1))).max())


_HEMATOXYLIN = np.linalg.pinv(TYPICAL_STAINS)[:, 0].astype(np.float32)


def typical_hematoxylin(optical_density: FloatArray) -> FloatArray:
    """Return the amount of hematoxylin of typical colour, shape (...), in density (..., 3)."""
    amount: FloatArray = optical_density @ _HEMATOXYLIN
    return amount
