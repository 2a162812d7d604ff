"""Which kinds of nuclei a reference shows, estimated from its rough nuclei.

The estimate is crude on purpose: the rough map breaks vesicular nuclei up and misses faint ones, so
synthesis draws the mixture of each patch widely around it. What it must tell is one tissue from
another.
"""

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.kinds import N_KINDS, Kind
from histocli.instances.measurements import Measurements
from histocli.reference.texture import NuclearTextures

PALE_CORE = 0.85  # contrast of the core over that of the rim, below which a nucleus is vesicular
LONG = 2.2  # elongation from which a nucleus is a spindle
SOFT = 1.8  # blur of the edge over the image's, from which a nucleus is out of focus
LYMPHOCYTE_UM2 = (16.0, 42.0)
VERY_DARK = 1.35  # contrast over the median
SMALL = 0.5  # area over the typical
BROKEN = 0.25  # share of the fragments that are no single nucleus which vesicular ones left behind
RARE = 0.004  # share of the kinds that a small image may lack by chance

Mixture = tuple[float, ...]
"""Share of each ``Kind``, sums to 1."""


def estimate_mixture(
    nuclei: Measurements, textures: NuclearTextures, softness: FloatArray, typical_area_um2: float
) -> Mixture:
    """Estimate the share of each kind of nucleus.

    Parameters
    ----------
    nuclei : Measurements
    textures : NuclearTextures
        Of the same nuclei.
    softness : ndarray of float, shape (len(textures),)
        Blur of each nucleus's edge over that of the image.
    typical_area_um2 : float

    Returns
    -------
    tuple of float
        One share per ``Kind``; sums to 1.
    """
    shares = np.zeros(N_KINDS)
    if len(textures) == 0:
        shares[Kind.DENSE] = 1
        return tuple(shares.tolist())
    row = textures.nucleus
    area, elongation = nuclei.area_um2[row], nuclei.elongation[row]
    contrast = textures.colour[:, 0] - textures.surround[:, 0]
    median = float(np.median(contrast))
    dark = contrast > VERY_DARK * median
    single = textures.single
    weight = np.sqrt(area)  # fragments are many and small
    broken = BROKEN * float(weight[~single].sum() / weight.sum())
    kinds: dict[Kind, npt.NDArray[np.bool_]] = {
        Kind.APOPTOTIC: single & dark & (area < SMALL * typical_area_um2) & (elongation < 1.5),
        Kind.MITOTIC: ~single & dark & (area > SMALL * typical_area_um2),
        Kind.SPINDLE: single & (elongation > LONG),  # a fused pair is long too
        Kind.LYMPHOCYTE: (
            single
            & (area > LYMPHOCYTE_UM2[0])
            & (area < LYMPHOCYTE_UM2[1])
            & (elongation < 1.35)
            & (contrast > median)
        ),
        Kind.VESICULAR: single & (textures.core_to_rim < PALE_CORE),
        Kind.BLURRED: single & (softness > SOFT),
    }
    left = np.ones(len(row), bool)
    for kind, member in kinds.items():
        shares[kind] = float(weight[member & left].sum() / weight.sum())
        left &= ~member
    shares[Kind.VESICULAR] += broken
    shares[Kind.MITOTIC] *= 0.2  # most dark ragged fragments are fused or folded nuclei
    shares[[Kind.APOPTOTIC, Kind.MITOTIC]] += RARE
    shares[Kind.DENSE] = 0
    shares[Kind.DENSE] = max(0.1, 1 - shares.sum())
    return tuple(float(share) for share in shares / shares.sum())


def edge_softness(
    darkness: FloatArray, labels: InstanceLabels, nuclei: Measurements, textures: NuclearTextures
) -> FloatArray:
    """Blur of each nucleus's edge, relative to the image's: contrast over slope at its border.

    Parameters
    ----------
    darkness : ndarray of float32, shape (H, W)
        Smoothed absorbance.
    labels : ndarray of int32, shape (H, W)
    nuclei : Measurements
    textures : NuclearTextures

    Returns
    -------
    ndarray of float32, shape (len(textures),)
        1 is typical, 2 twice as wide.
    """
    if len(textures) == 0:
        return np.zeros(0, np.float32)
    inside = labels > 0
    padded = np.pad(labels, 1, mode="edge")
    here = np.zeros(labels.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        here |= padded[dy : dy + labels.shape[0], dx : dx + labels.shape[1]] == 0
    edge = here & inside
    slope_y, slope_x = np.gradient(darkness)
    owner = np.searchsorted(nuclei.id, labels[edge])
    slope = np.hypot(slope_y, slope_x)[edge]
    mean = np.bincount(owner, slope, len(nuclei)) / np.maximum(
        np.bincount(owner, minlength=len(nuclei)), 1
    )
    contrast = np.maximum(textures.colour[:, 0] - textures.surround[:, 0], 0.02)
    blur = contrast / np.maximum(mean[textures.nucleus], 1e-4)
    return np.asarray(blur / max(float(np.median(blur)), 1e-6), np.float32)
