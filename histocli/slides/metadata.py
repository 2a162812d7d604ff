"""What pictures say of themselves beside their pixels: how they were held, and their colours.

Cameras write pixels as the sensor has them, and say in EXIF how the picture is to be turned. Every
viewer turns it, so it is turned here, too. Colour profiles are not applied: networks learn from
pixels as scanners write them. Both are said.
"""

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from histocli.base.types import RGBImage

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112
"""EXIF's number for the orientation, 1..8; 1 is upright."""


def upright(pixels: RGBImage, data: bytes, path: Path) -> RGBImage:
    """Return the pixels of a picture as viewers show them.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        As stored.
    data : bytes
        The file, a PNG, JPEG or WebP.
    path : Path
        For messages.
    """
    orientation, profile = _read(data)
    if profile is not None and "srgb" not in profile.lower():
        text = "%s: its colour profile (%s) is not applied; colours may differ from a viewer's"
        logger.warning(text, path, profile)
    if orientation not in range(2, 9):
        return pixels
    logger.warning("%s: is turned as its EXIF orientation (%d) says", path, orientation)
    return np.ascontiguousarray(turned(pixels, orientation))


def turned(pixels: RGBImage, orientation: int) -> RGBImage:
    """Return pixels of an EXIF orientation, 1..8, upright."""
    turn: dict[int, Callable[[RGBImage], RGBImage]] = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90,
    }
    return turn[orientation](pixels) if orientation in turn else pixels


def _read(data: bytes) -> tuple[int, str | None]:
    """Return the orientation and the name of the colour profile; 1 and None where none is said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures are no attack here
            with Image.open(io.BytesIO(data)) as image:
                found = image.getexif().get(ORIENTATION, 1)
                content = image.info.get("icc_profile")
        orientation = found if isinstance(found, int) else 1
    except Exception:  # over damaged metadata, PIL raises errors of any class
        return 1, None
    if not content:
        return orientation, None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(content))
        return orientation, " ".join(ImageCms.getProfileDescription(opened).split()) or "unnamed"
    except Exception:  # the same
        return orientation, "damaged"
