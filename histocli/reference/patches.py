"""Non-overlapping patches of a reference image that contain nuclei."""

import numpy as np
import numpy.typing as npt


def corners_of_patches(
    nuclei: npt.NDArray[np.bool_], side: int, most: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Return the corners (top, left) of patches that contain nuclei, row by row.

    Patches have ``side`` pixels; of more than ``most`` patches, ``most`` are drawn at random.
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
