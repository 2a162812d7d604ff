"""Pixel sizes that a microscope scan can have, in micrometres per pixel (mpp)."""

import math

MPP_RANGE = (0.05, 5.0)  # screen resolutions, such as 72 dpi, lie far outside
ASSUMED_MPP = 0.25  # that of a 40x scan, where most images without a recorded pixel size come from


def sane_mpp(value: float | None) -> float | None:
    """Return a pixel size that a microscope scan can have, None for any other number and NaN."""
    if value is None or math.isnan(value) or not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
        return None
    return float(value)
