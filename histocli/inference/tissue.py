"""Find tissue on a slide: everything that absorbs more than empty glass, except marker ink.

The threshold depends on the empty glass of the slide only, so neither a pale section nor a thick
stroke of ink moves it. (Ink would move a threshold between two modes, such as Otsu's, so far that
the pale section is lost.) Ink is recognised by its colour: tissue absorbs green most, with any
stain; green and blue ink do not; red ink absorbs far less red than tissue does; black ink absorbs
all colours strongly, over an area larger than any pigment.

Nuclei outside the mask are never found, so the mask includes too much rather than too little: it is
widened, and gaps within tissue belong to it.
"""

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, RGBImage
from histocli.inference.tiling import clipped

# optical density of green above glass; the palest connective tissue has about 0.08
FAINTEST_TISSUE = 0.045
# largest difference in optical density between the channels of glass; more means stained tissue
NEUTRAL = 0.10
# micrometres per pixel at which the mask is made, unless the overview is coarser; reduces noise
COARSE_UM = 4.0
MARGIN_UM = 24.0  # width of the margin that is added to the mask, in micrometres
GAP_UM2 = 40_000.0  # smaller gaps in tissue, such as lumina, vessels and fat, are filled
SPECK_UM2 = 30.0  # islands of a smaller area hold no nucleus and are removed
# diameter, in micrometres, of a disc that fits into ink, but not into red cells, pigment or nuclei
INK_UM = 60.0
BLACK_OD = 1.2  # optical density of black ink in the channel that absorbs least


def tissue_mask(overview: RGBImage, mpp: float, glass_level: float) -> BoolMask:
    """Find tissue on an overview of a slide, at about 10 um per pixel or finer.

    Parameters
    ----------
    overview : ndarray of uint8, shape (H, W, 3)
    mpp : float
        Micrometres per pixel of the overview.
    glass_level : float
        Level of empty glass, in 1..256, as ``optics.density.white_level`` measures it.
    """
    tissue, _ = tissue_and_ink(overview, mpp, glass_level)
    return tissue


def tissue_and_ink(overview: RGBImage, mpp: float, glass_level: float) -> tuple[BoolMask, BoolMask]:
    """Return the mask of :func:`tissue_mask`, and that of the strokes of ink left out of it."""
    height, width = overview.shape[:2]
    step = max(1, int(COARSE_UM / mpp))
    # finer pixels than COARSE_UM would only take longer
    down, right = -height % step, -width % step
    padded = cv2.copyMakeBorder(overview, 0, down, 0, right, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // step, padded.shape[0] // step)
    coarse = np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)
    tissue, ink = (
        mask.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]
        for mask in _masks(coarse, mpp * step, glass_level)
    )
    return tissue, ink


def _masks(overview: RGBImage, mpp: float, glass_level: float) -> tuple[BoolMask, BoolMask]:
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
    return np.asarray(tissue & ~ink), ink


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
        Slide pixels along a side of a pixel of the mask.
    ratio : float
        Slide pixels along a side of an image pixel.
    image_shape : (int, int)
    n, side_px : int
        Largest number of squares, and their side in image pixels; the image's border cuts squares.
    """
    cells = np.argwhere(tissue)
    chosen = cells[np.unique(np.linspace(0, max(len(cells) - 1, 0), n).astype(int))[: len(cells)]]
    squares = []
    half = side_px // 2
    for y, x in ((chosen + 0.5) * factor / ratio).astype(int).tolist():
        square = slice(y - half, y + half), slice(x - half, x + half)
        rows, columns = clipped(square, image_shape)
        # the centre of a mask pixel at the border may lie outside the image
        if rows.start < rows.stop and columns.start < columns.stop:
            squares.append((rows, columns))
    return squares


def ink_colours(density: FloatArray) -> BoolMask:
    """Tell which pixels have a colour of ink, given optical density above glass, (H, W, 3)."""
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
    """Keep ink that is as wide as a stroke of a pen, and its paler rim."""
    opened = cv2.morphologyEx(ink.view(np.uint8), cv2.MORPH_OPEN, _disc(INK_UM / 2 / mpp))
    return np.asarray(
        cv2.dilate(opened, _disc(INK_UM / 3 / mpp)).astype(bool) & (ink | (opened > 0))
    )


def _glass(overview: RGBImage, glass_level: float) -> npt.NDArray[np.float64]:
    """Return the colour of glass, plus one: the median of bright pixels if these are neutral, else
    grey of the given level.
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
