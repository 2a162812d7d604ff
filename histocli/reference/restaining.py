"""Recolouring of a reference image with the stains of another reference image."""

import numpy as np

from histocli.base.types import Json, RGBImage
from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density
from histocli.optics.stains import restain


def restain_like(image: RGBImage, own: Json, other: Json) -> RGBImage:
    """Give an image the stain colours and amounts of another reference.

    ``image`` is uint8 RGB (H, W, 3) with white glass. ``own`` and ``other`` are the statistics
    ``Appearance`` of the image's reference and of the other one, in JSON. If either lacks a stain
    matrix, the image is returned unchanged.
    """
    if not own.get("stain_matrix") or not other.get("stain_matrix"):
        return image
    # index 3: the 75th percentile in tissue; at least 0.05 avoids dividing by hardly any stain
    gains = [
        float(np.clip(other[stain][3] / max(own[stain][3], 0.05), 0.4, 2.5))
        for stain in ("hematoxylin", "eosin")
    ]
    before, after = (np.array(side["stain_matrix"], np.float64) for side in (own, other))
    density = restain(rgb_to_optical_density(image), before, after, np.array(gains))
    return optical_density_to_rgb(density)
