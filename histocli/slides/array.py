"""Images that a Python program holds as arrays, read like slides."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.errors import UnknownPixelSize
from histocli.base.types import RGBImage
from histocli.base.units import MPP_RANGE, sane_mpp
from histocli.slides.colours import to_rgb
from histocli.slides.slide import Slide


class ArraySlide(Slide):
    """An image in memory.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, C)
        Converted to RGB by the rules of :mod:`histocli.slides.colours`, as pixels of files are.
    mpp : float or None
        Micrometres per pixel. An array records none, so one has to be given.
    name : str
        Stands for the path in messages.

    Raises
    ------
    UnknownPixelSize
        ``mpp`` is None or out of range.
    UnsupportedSlide
        The array has the wrong shape or type.
    """

    backend = "numpy"

    def __init__(
        self, image: npt.ArrayLike, mpp: float | None, *, name: str = "image array"
    ) -> None:
        low, high = MPP_RANGE
        if mpp is None or sane_mpp(mpp) is None:
            raise UnknownPixelSize(
                f"{name}: mpp must lie between {low} and {high} micrometres per pixel, got {mpp}; "
                "give it with mpp=, for example mpp=0.25 for a 40x scan"
            )
        super().__init__(Path(name), mpp)
        self._values: npt.NDArray[Any] = np.asarray(image)
        _ = self._pixels  # converted at once, so that a wrong array is refused here

    def _decode(self) -> RGBImage:
        return to_rgb(self._values, self.path)
