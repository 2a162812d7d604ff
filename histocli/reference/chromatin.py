"""Shares of the kinds of nuclei in a reference image, estimated from its rough nuclei.

Rough nuclei are the objects of the automatic nucleus map (``reference/rough.py``). The estimate is
crude, because the map breaks vesicular nuclei into fragments and misses faint nuclei. It only has
to differ between tissues: synthesis draws the mixture of each patch widely around it.
"""

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.kinds import N_KINDS, Kind
from histocli.instances.measurements import Measurements
from histocli.reference.rough import inner_border
from histocli.reference.texture import NuclearTextures

Mixture = tuple[float, ...]  # share of each ``Kind`` of nucleus; sums to 1


def estimate_mixture(
    nuclei: Measurements, textures: NuclearTextures, softness: FloatArray, typical_area_um2: float
) -> Mixture:
    """Estimate the share of each kind of nucleus.

    ``textures`` and ``softness``, from ``edge_softness``, describe the same nuclei in the same
    order; ``typical_area_um2`` is the median area of compact nuclei.
    """
    shares = np.zeros(N_KINDS)
    if len(textures) == 0:
        shares[Kind.DENSE] = 1
        return tuple(shares.tolist())
    row = textures.nucleus
    area, elongation = nuclei.area_um2[row], nuclei.elongation[row]
    contrast = textures.colour[:, 0] - textures.surround[:, 0]
    median = float(np.median(contrast))
    dark = contrast > 1.35 * median
    small = area < 0.5 * typical_area_um2
    single = textures.single
    weight = np.sqrt(area)  # not the number: fragments are many and small
    # a quarter of the objects that are not single nuclei count as pieces of vesicular nuclei
    broken = 0.25 * float(weight[~single].sum() / weight.sum())
    kinds: dict[Kind, npt.NDArray[np.bool_]] = {
        Kind.APOPTOTIC: single & dark & small & (elongation < 1.5),
        Kind.MITOTIC: ~single & dark & (area > 0.5 * typical_area_um2),
        Kind.SPINDLE: single & (elongation > 2.2),  # two fused nuclei are long but not single
        Kind.LYMPHOCYTE: (
            single & (area > 16.0) & (area < 42.0) & (elongation < 1.35) & (contrast > median)
        ),
        Kind.VESICULAR: single & (textures.core_to_rim < 0.85),
        Kind.BLURRED: single & (softness > 1.8),
    }
    left = np.ones(len(row), bool)
    for kind, member in kinds.items():
        shares[kind] = float(weight[member & left].sum() / weight.sum())
        left &= ~member
    shares[Kind.VESICULAR] += broken
    shares[Kind.MITOTIC] *= 0.2  # most dark ragged objects are fused or folded nuclei
    shares[[Kind.APOPTOTIC, Kind.MITOTIC]] += 0.004  # small images may lack these kinds by chance
    shares[Kind.DENSE] = 0
    shares[Kind.DENSE] = max(0.1, 1 - shares.sum())
    return tuple(float(share) for share in shares / shares.sum())


def edge_softness(
    darkness: FloatArray, labels: InstanceLabels, nuclei: Measurements, textures: NuclearTextures
) -> FloatArray:
    """Return the blur of each nucleus's edge over the median blur of the image's nuclei.

    Blur is the contrast of a nucleus over the mean slope of the smoothed absorbance ``darkness``
    (H, W) along its border. The result has shape (len(textures),).
    """
    if len(textures) == 0:
        return np.zeros(0, np.float32)
    edge = inner_border(labels)
    slope_y, slope_x = np.gradient(darkness)
    owner = np.searchsorted(nuclei.id, labels[edge])
    slope = np.hypot(slope_y, slope_x)[edge]
    mean = np.bincount(owner, slope, len(nuclei)) / np.maximum(
        np.bincount(owner, minlength=len(nuclei)), 1
    )
    contrast = np.maximum(textures.colour[:, 0] - textures.surround[:, 0], 0.02)
    blur = contrast / np.maximum(mean[textures.nucleus], 1e-4)
    return np.asarray(blur / max(float(np.median(blur)), 1e-6), np.float32)
