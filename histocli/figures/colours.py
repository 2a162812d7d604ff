"""Colours of outlines and maps: one that shows on stained tissue, many by number, and graded ones.

Of 729 colours spread evenly over sRGB, yellow differs most from what outlines lie on (the borders
of nuclei of five public sets, and glass): the 5 % of pixels nearest to it are still 86 units of
CIELAB away, also as people without red or green cones see it (Machado et al. 2009). Cyan comes to
13 there, white to 4.
"""

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import RGBImage

Colours = npt.NDArray[np.uint8]
"""(n, 3) sRGB."""

LINE: Colours = np.array([[255, 230, 0]], np.uint8)
"""The one colour of outlines."""

PALETTE: Colours = np.frombuffer(
    bytes.fromhex("00e5ff ffd600 00e676 ff6d00 f5f5f5 76ff03 409cff fff18c 1de9b6 ffa07a"), np.uint8
).reshape(-1, 3)
"""Ten bright colours of which successive ones differ much, for outlines by number."""

# The dark end of the map is as purple as tissue, so outlines leave it out.
LINES_FROM = 0.4


def viridis(levels: npt.NDArray[np.floating]) -> RGBImage:
    """Return the colours of levels in 0..1, of any shape; lightness rises evenly with the level."""
    steps = np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)
    column = np.arange(256, dtype=np.uint8)[:, None]
    table = np.asarray(cv2.applyColorMap(column, cv2.COLORMAP_VIRIDIS), np.uint8)[:, 0, ::-1]
    return np.asarray(table[steps])


def graded(values: npt.NDArray[np.floating], low: float, high: float) -> Colours:
    """Return colours of outlines for values (n,): dark teal at ``low`` or less, yellow at ``high``.

    Values that are not finite count as ``low``.
    """
    share = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / max(high - low, 1e-9)
    return viridis(LINES_FROM + (1 - LINES_FROM) * np.clip(share, 0, 1))
