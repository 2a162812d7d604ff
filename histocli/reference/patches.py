"""Where a reference shows nuclei, in a grid of patches that do not overlap."""

import numpy as np
import numpy.typing as npt


def corners_of_patches(
    nuclei: npt.NDArray[np.bool_], side: int, most: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return the upper left corners of patches that hold nuclei.

    Parameters
    ----------
    nuclei : ndarray of bool, shape (H, W)
    side : int
        Side of a patch, in pixels.
    most : int
        Where there are more patches, this many are drawn.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    list of (top, left)
        Row by row.
    """
    height, width = nuclei.shape
    corners = [
        (top, left)
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
        if nuclei[top : top + side, left : left + side].any()
    ]
    if len(corners) > most:
        chosen = np.sort(rng.choice(len(corners), most, replace=False))
        corners = [corners[i] for i in chosen]
    return corners
