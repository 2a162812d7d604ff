"""Where a slide shows tissue: everything that absorbs more than its glass, except marker ink.

The threshold hangs on the glass of the slide itself and on nothing else, so neither a pale section
nor a thick stroke of ink moves it (a threshold between two modes, such as Otsu's, is drawn to the
ink and loses the pale section). Ink is told by its colour: whatever the stains, tissue absorbs
green most; green and blue ink do not, red ink lets red pass as no tissue does, and black ink
absorbs all alike, over an area larger than any pigment.

What is left out is not looked at, so the mask errs on the side of tissue: it is widened, and gaps
within tissue belong to it.
"""

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.inference.tiling import clipped

# optical density of green above glass; the palest connective tissue has about 0.08
FAINTEST_TISSUE = 0.045
# optical density between the channels of glass; more is a stain, and no glass is in sight
NEUTRAL = 0.10
# the mask is made at this pixel size, or at that of a coarser overview; noise below is averaged out
COARSE_UM = 4.0
MARGIN_UM = 24.0  # how far the mask is widened
GAP_UM2 = 40_000.0  # smaller gaps within tissue are lumina, vessels and fat
SPECK_UM2 = 30.0  # smaller islands hold no nucleus
# ink covers at least a disc of this diameter; red cells, pigment and single nuclei do not
INK_UM = 60.0
BLACK_OD = 1.2  # optical density of black ink in the channel that absorbs least


def tissue_mask(overview: RGBImage, mpp: float, glass_level: float) -> BoolMask:
    """Find tissue on a coarse view of a slide; at most some 10 um per pixel.

    Parameters
    ----------
    overview : ndarray of uint8, shape (H, W, 3)
    mpp : float
        Micrometres per pixel of the overview.
    glass_level : float
        Level of empty glass, in 1..256, as ``optics.density.white_level`` measures it.
    """
    height, width = overview.shape[:2]
    step = max(1, int(COARSE_UM / mpp))
    # margins are tens of micrometres, so finer pixels than this only take longer
    down, right = -height % step, -width % step
    padded = cv2.copyMakeBorder(overview, 0, down, 0, right, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // step, padded.shape[0] // step)
    coarse = np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)
    mask = _mask(coarse, mpp * step, glass_level)
    return mask.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]


def _mask(overview: RGBImage, mpp: float, glass_level: float) -> BoolMask:
    glass = _glass(overview, glass_level)
    stained, ink = np.empty(overview.shape[:2], bool), np.empty(overview.shape[:2], bool)
    # in strips, because the overview of a large slide has millions of pixels
    for start in range(0, len(overview), 512):
        rows = slice(start, start + 512)
        density = density_above_glass(overview[rows], glass)
        stained[rows] = density[..., 1] > FAINTEST_TISSUE
        ink[rows] = ink_colours(density)
    ink = _extended(ink, mpp)
    tissue = _without_islands(stained & ~ink, SPECK_UM2 / mpp**2)
    tissue = cv2.dilate(tissue.view(np.uint8), _disc(MARGIN_UM / mpp)).astype(bool)
    tissue = ~_without_islands(~tissue, GAP_UM2 / mpp**2, keep_at_border=True)
    return np.asarray(tissue & ~ink)


def squares_of_tissue(
    tissue: BoolMask,
    factor: int,
    ratio: float,
    image_shape: tuple[int, int],
    *,
    n: int,
    side_px: int,
) -> list[tuple[slice, slice]]:
    """Choose squares of an image that lie on tissue, spread evenly over it.

    Parameters
    ----------
    tissue : ndarray of bool, shape (h, w)
    factor : int
        Slide pixels along a side of a cell of the mask.
    ratio : float
        Slide pixels along a side of an image pixel.
    image_shape : (int, int)
    n, side_px : int
        Largest number of squares, and the side of one; squares at the image's border are cut.
    """
    cells = np.argwhere(tissue)
    chosen = cells[np.unique(np.linspace(0, max(len(cells) - 1, 0), n).astype(int))[: len(cells)]]
    squares = []
    half = side_px // 2
    for y, x in ((chosen + 0.5) * factor / ratio).astype(int).tolist():
        square = slice(y - half, y + half), slice(x - half, x + half)
        rows, columns = clipped(square, image_shape)
        # a cell may reach over the border
        if rows.start < rows.stop and columns.start < columns.stop:
            squares.append((rows, columns))
    return squares


def ink_colours(density: FloatArray) -> BoolMask:
    """Tell which pixels have a colour that ink has and tissue has not, given optical density above
    glass, shape (H, W, 3).
    """
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    strongest = np.maximum(np.maximum(red, green), blue)
    green_ink = (red > 1.25 * green + 0.05) & (blue > 1.1 * green)
    blue_ink = (red > 1.35 * green + 0.08) & (blue < red)
    # thick blue ink absorbs green nearly as much
    blue_ink |= (red > 1.1 * green) & (green > 1.0) & (blue < 0.6 * red)
    red_ink = (red < 0.25 * green) & (blue > 0.85 * green) & (green > 0.4)
    black_ink = np.minimum(np.minimum(red, green), blue) > BLACK_OD
    return np.asarray(((green_ink | blue_ink | red_ink) & (strongest > 0.2)) | black_ink)


def _extended(ink: BoolMask, mpp: float) -> BoolMask:
    """Keep what is as wide as a stroke, with its soft rim."""
    opened = cv2.morphologyEx(ink.view(np.uint8), cv2.MORPH_OPEN, _disc(INK_UM / 2 / mpp))
    return np.asarray(
        cv2.dilate(opened, _disc(INK_UM / 3 / mpp)).astype(bool) & (ink | (opened > 0))
    )


def _glass(overview: RGBImage, glass_level: float) -> npt.NDArray[np.float64]:
    """Return the colour of glass, plus one: its median where it is in sight, else a neutral one of
    that level.
    """
    bright = overview.max(axis=2) >= glass_level - 1 - 6
    if bright.any():
        counts = (
            np.bincount(overview[..., channel][bright], minlength=256) for channel in range(3)
        )
        found = np.array(
            [np.searchsorted(np.cumsum(count), count.sum() / 2) + 1.0 for count in counts]
        )
        if np.ptp(np.log(found)) < NEUTRAL:
            return found
    return np.full(3, glass_level)


def density_above_glass(image: RGBImage, glass: npt.NDArray[np.float64]) -> FloatArray:
    """Return optical density relative to a colour of glass (3,), float32, shape (H, W, 3), >= 0."""
    table = np.maximum(np.log(glass[None] / (np.arange(256)[:, None] + 1.0)), 0).astype(np.float32)
    return np.stack([table[:, channel][image[..., channel]] for channel in range(3)], axis=2)


def _without_islands(
    mask: BoolMask, smallest_px: float, *, keep_at_border: bool = False
) -> BoolMask:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    keep = statistics[:, cv2.CC_STAT_AREA] >= smallest_px
    if keep_at_border:
        for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[line] = True
    keep[0] = False
    return np.asarray(keep[labels])


def _disc(radius_px: float) -> np.ndarray:
    side = 2 * max(0, round(radius_px)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
