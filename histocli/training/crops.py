"""Random crops without resampling, which would change texture."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Values = TypeVar("Values", bound=np.generic)


def random_crop(
    planes: npt.NDArray[Values], side: int, rng: np.random.Generator
) -> npt.NDArray[Values]:
    """Cut a random square of ``side`` pixels from (H, W, C); turn it by quarters and mirror it."""
    top, left = (int(rng.integers(length - side + 1)) for length in planes.shape[:2])
    crop = np.rot90(planes[top : top + side, left : left + side], int(rng.integers(4)))
    return crop[:, ::-1] if rng.random() < 0.5 else crop
