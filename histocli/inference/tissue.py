"""Where a slide shows tissue: everything that absorbs more than its glass, except marker ink.

The threshold hangs on the glass of the slide itself and on nothing else, so neither a pale section nor a thick stroke of ink
moves it (a threshold between two modes, such as Otsu's, is drawn to the ink and loses the pale section). Ink is told by its
colour: whatever the stains, tissue absorbs green most; green and blue ink do not, red ink lets red pass as no tissue does, and
black ink absorbs all alike, over an area larger than any pigment.

What is left out is not looked at, so the mask errs on the side of tissue: it is widened, and gaps within tissue belong to it.
"""

import cv2
import numpy as np

from histocli.base.types import BoolMask, FloatArray, RGBImage

FAINTEST_TISSUE = 0.045  # optical density of green above glass; the palest connective tissue has about 0.08
NEUTRAL = 0.10  # optical density between the channels of glass; more is a stain, and no glass is in sight
COARSE_UM = 4.0  # the mask is made at this pixel size, or at that of a coarser overview; noise below is averaged out
MARGIN_UM = 24.0  # how far the mask is widened
GAP_UM2 = 40_000.0  # smaller gaps within tissue are lumina, vessels and fat
SPECK_UM2 = 30.0  # smaller islands hold no nucleus
INK_UM = 60.0  # ink covers at least a disc of this diameter; red cells, pigment and single nuclei do not
BLACK_OD = 1.2  # optical density of black ink in the channel that absorbs least


def tissue_mask(overview: RGBImage, mpp: float, glass_level: float) -> BoolMask:
    """Find tissue.

    Parameters
    ----------
    overview : ndarray of uint8, shape (H, W, 3)
        The slide, coarse; at most some 10 um per pixel.
    mpp : float
        Micrometres per pixel of the overview.
    glass_level : float
        Level of empty glass, in 1..256, as ``optics.density.white_level`` measures it.

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    height, width = overview.shape[:2]
    step = max(1, int(COARSE_UM / mpp))
    if step > 1:  # margins are tens of micrometres, so finer pixels than this only take longer
        down, right = -height % step, -width % step
        padded = cv2.copyMakeBorder(overview, 0, down, 0, right, cv2.BORDER_REPLICATE)
        size = (padded.shape[1] // step, padded.shape[0] // step)
        coarse = np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.repeat(np.repeat(_mask(coarse, mpp * step, glass_level), step, axis=0), step, axis=1)[:height, :width]
    return _mask(overview, mpp, glass_level)


def _mask(overview: RGBImage, mpp: float, glass_level: float) -> BoolMask:
    density = _density_above_glass(overview, glass_level)
    ink = ink_mask(density, mpp)
    tissue = (density[..., 1] > FAINTEST_TISSUE) & ~ink
    tissue = _without_islands(tissue, SPECK_UM2 / mpp**2)
    tissue = cv2.dilate(tissue.astype(np.uint8), _disc(MARGIN_UM / mpp)).astype(bool)
    tissue = ~_without_islands(~tissue, GAP_UM2 / mpp**2, keep_at_border=True)
    return np.asarray(tissue & ~ink)


def ink_mask(density: FloatArray, mpp: float) -> BoolMask:
    """Find marker ink by its colour and its extent.

    Parameters
    ----------
    density : ndarray of float32, shape (H, W, 3)
        Optical density above glass.
    mpp : float

    Returns
    -------
    ndarray of bool, shape (H, W)
    """
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    strongest = np.maximum(np.maximum(red, green), blue)
    green_ink = (red > 1.25 * green + 0.05) & (blue > 1.1 * green)
    blue_ink = (red > 1.35 * green + 0.08) & (blue < red)
    blue_ink |= (red > 1.1 * green) & (green > 1.0) & (blue < 0.6 * red)  # thick blue ink absorbs green nearly as much
    red_ink = (red < 0.25 * green) & (blue > 0.85 * green) & (green > 0.4)
    black_ink = np.minimum(np.minimum(red, green), blue) > BLACK_OD
    ink = ((green_ink | blue_ink | red_ink) & (strongest > 0.2)) | black_ink
    opened = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_OPEN, _disc(INK_UM / 2 / mpp))
    # the soft rim of a stroke is ink as well
    return np.asarray(cv2.dilate(opened, _disc(INK_UM / 3 / mpp)).astype(bool) & (ink | (opened > 0)))


def _density_above_glass(overview: RGBImage, glass_level: float) -> FloatArray:
    """Return optical density relative to the glass of this slide, >= 0."""
    bright = overview.max(axis=2) >= glass_level - 1 - 6
    glass = np.full(3, glass_level)
    if bright.any():
        found = np.median(overview[bright], axis=0) + 1.0
        if np.ptp(np.log(found)) < NEUTRAL:
            glass = found
    table = np.maximum(np.log(glass[None] / (np.arange(256)[:, None] + 1.0)), 0).astype(np.float32)
    density = np.stack([table[:, channel][overview[..., channel]] for channel in range(3)], axis=2)
    return np.asarray(density, np.float32)


def _without_islands(mask: BoolMask, smallest_px: float, *, keep_at_border: bool = False) -> BoolMask:
    n, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if n <= 1:
        return mask
    keep = statistics[:, cv2.CC_STAT_AREA] >= smallest_px
    if keep_at_border:
        for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[line] = True
    keep[0] = False
    return np.asarray(keep[labels])


def _disc(radius_px: float) -> np.ndarray:
    side = 2 * max(0, round(radius_px)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
