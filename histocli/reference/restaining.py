"""Tissue of one reference in the stains of another one."""

import numpy as np

from histocli.base.types import Json, RGBImage
from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density
from histocli.optics.stains import restain


def restain_like(image: RGBImage, own: Json, other: Json) -> RGBImage:
    """Give an image the stains of another reference, in colour and amount.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        Glass made white.
    own, other : dict
        ``appearance`` of the statistics of the image's reference and of the other one, as
        ``reference.statistics.Appearance`` in JSON.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The image as it is where the stains of one of the two are not recorded.
    """
    if not own.get("stain_matrix") or not other.get("stain_matrix"):
        return image
    # the 75th percentile in tissue; 0.05 is hardly any stain
    gains = [
        float(np.clip(other[stain][3] / max(own[stain][3], 0.05), 0.4, 2.5))
        for stain in ("hematoxylin", "eosin")
    ]
    before, after = (np.array(side["stain_matrix"], np.float64) for side in (own, other))
    density = restain(rgb_to_optical_density(image), before, after, np.array(gains))
    return optical_density_to_rgb(density)
