"""Label-free selection: which of several segmenters suits a tissue, told without any truth.

Networks that learnt from differently made patches make different mistakes, so where they agree they are probably right:
``agreement`` is the score to choose by. Over 23 models it ranked the panoptic quality with a Spearman correlation of 0.63 to
0.85 on three of five development sets, and of 0.27 and 0.42 on the other two. Stability when
contrast is lowered looked as plausible and ranked hardly anything, alone or together with agreement
(``benchmarks/selection.py``); it is kept to be reported, not to choose by.
"""

from collections.abc import Sequence

import numpy as np

from histocli.base.types import InstanceLabels, RGBImage
from histocli.metrics.counts import count

REDUCED_CONTRAST = 0.75
"""Factor of the absorbance in the test of stability."""


def agreement(one: InstanceLabels, others: Sequence[InstanceLabels]) -> float:
    """Mean panoptic quality of one segmentation against those of other models of the same image.

    Parameters
    ----------
    one : ndarray of int, shape (H, W)
        0 = background.
    others : sequence of ndarray
        The same shape.

    Returns
    -------
    float
        0..1; symmetric in each pair. 1 where all found nothing.
    """
    return float(np.mean([count(other, one).panoptic_quality for other in others]))


def stability(before: InstanceLabels, after: InstanceLabels) -> float:
    """Panoptic quality between the segmentations of an image and of the same image with less contrast; 0..1."""
    return float(count(before, after).panoptic_quality)


def count_stability(before: InstanceLabels, after: InstanceLabels) -> float:
    """Smaller over larger number of nuclei with full and with less contrast; 0..1, 1 where both found nothing."""
    fewer, more = sorted((len(np.unique(before[before > 0])), len(np.unique(after[after > 0]))))
    return fewer / more if more else 1.0


def reduce_contrast(image: RGBImage, factor: float = REDUCED_CONTRAST) -> RGBImage:
    """Multiply the absorbance of an image whose glass is white; stain thins out, nothing moves.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    factor : float
        Of the absorbance, 0..1.
    """
    table = np.rint(256 * ((np.arange(256) + 1) / 256) ** factor - 1).clip(0, 255).astype(np.uint8)
    return np.asarray(table[image], np.uint8)
