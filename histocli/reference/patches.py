"""Where a reference shows nuclei, in a grid of patches that do not overlap."""

import numpy as np
import numpy.typing as npt


def corners_of_patches(
    nuclei: npt.NDArray[np.bool_], side: int, most: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return the corners (top, left) of patches that hold nuclei, row by row.

    Where there are more than ``most`` patches of ``side`` pixels, so many of them are drawn.
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
