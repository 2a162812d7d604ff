"""Convert stored pixel values to 8-bit RGB by fixed rules.

Contrast is never stretched to the range of one image, so that two tiles of a scan stay comparable:

- unsigned integers of b significant bits become ``round(v * 255 / (2**b - 1))``. b is recorded in
  the file (12 bits in a 16-bit TIFF), or else the width of the type;
- floats are taken as 0..1 where no value exceeds 1.1, else as 0..255 (rounding and interpolation
  leave values a little above 1 and below 0);
- a grey channel is repeated three times; an opacity channel is blended with white, the colour of
  empty glass; palette indices are replaced by their colours.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.errors import UnsupportedSlide
from histocli.base.types import RGBImage

SLACK = 0.1  # how far floats may lie outside 0..1


@dataclass(frozen=True)
class Colours:
    """How the stored values of an image encode its colours."""

    bits: int | None = None
    """Significant bits of integers; None where the file does not record them."""
    premultiplied: bool = False  # colours are stored multiplied by opacity
    opaque: bool = False
    """Whether the last of two or four channels is not opacity and is left out."""
    inverted: bool = False
    """Whether 0 is white."""
    luma_chroma: bool = False
    """Whether channels are brightness and two colour differences (YCbCr of JPEG)."""
    palette: npt.NDArray[Any] | None = None
    """Red, green and blue of each index, uint16, shape (3, n)."""


def to_rgb(values: npt.NDArray[Any], path: Path, colours: Colours = Colours()) -> RGBImage:
    """Turn stored values, shape (H, W) or (H, W, C), into RGB; ``path`` is for messages.

    Raises ``UnsupportedSlide`` for a wrong shape or number of channels, for floats outside 0..255,
    and for types whose value for white is not known.
    """
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UnsupportedSlide(
            f"{path}: has shape {values.shape}; "
            "an image needs a height and a width of at least one pixel"
        )
    if colours.palette is not None:
        palette = np.asarray(colours.palette).T
        if palette.max(initial=0) > 255:  # TIFF palettes have 16 bits; some writers fill only 8
            palette = (palette.astype(np.uint32) + 128) // 257
        image: RGBImage = palette.astype(np.uint8)[values]
    else:
        image = _to_8_bits(values, colours.bits, path)
    if colours.luma_chroma and image.ndim == 3 and image.shape[2] == 3:
        # OpenCV has the red difference before the blue one
        image = np.asarray(cv2.cvtColor(image[..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)
    if colours.inverted:
        image = 255 - image
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[2]
    if channels not in (1, 2, 3, 4):
        raise UnsupportedSlide(
            f"{path}: has {channels} channels; "
            "brightfield images have 1 (grey), 3 (RGB) or 4 (RGB and opacity)"
        )
    if channels in (2, 4):
        colour, alpha = image[..., :-1], image[..., -1:]
        image = colour if colours.opaque else _on_white(colour, alpha, colours.premultiplied)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image, dtype=np.uint8)


def to_channels_last(values: npt.NDArray[Any], axes: str, path: Path) -> npt.NDArray[Any]:
    """Return an array as (H, W) or (H, W, C); ``axes`` names each of its axes by one letter."""
    kept = [axis for axis in range(values.ndim) if values.shape[axis] > 1 or axes[axis] in "YX"]
    names = "".join(axes[axis] for axis in kept)
    values = values.reshape([values.shape[axis] for axis in kept])
    channel = next((name for name in "SC" if name in names), "")
    if "Y" not in names or "X" not in names or set(names) - {"Y", "X", channel}:
        raise UnsupportedSlide(
            f"{path}: holds a stack of shape {values.shape} (axes {names}) and not one image; "
            "save the image you mean as its own file"
        )
    return np.transpose(values, [names.index(name) for name in ("Y", "X", channel) if name])


def _to_8_bits(values: npt.NDArray[Any], bits: int | None, path: Path) -> npt.NDArray[np.uint8]:
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype == np.uint8 and bits in (None, 8):
        return values
    if values.dtype in (np.uint8, np.uint16):
        width = 8 * values.dtype.itemsize
        top = 2 ** (bits or width) - 1
        # a table is fast: at most 65536 different values for millions of pixels
        table = (np.arange(2**width) * 510 + top) // (2 * top)
        return np.asarray(np.minimum(table, 255).astype(np.uint8)[values])
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= -SLACK and high <= 255):  # NaN fails here too
            raise UnsupportedSlide(
                f"{path}: holds floats from {low:.4g} to {high:.4g}; "
                "brightness must lie in 0..1 or 0..255; save it as 8-bit RGB"
            )
        scaled = values * 255.0 if high <= 1 + SLACK else values
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    raise UnsupportedSlide(
        f"{path}: holds {values.dtype} values, whose white is unknown; "
        "save it as 8-bit or 16-bit RGB"
    )


def _on_white(
    colour: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8], premultiplied: bool
) -> npt.NDArray[np.uint8]:
    alpha = opacity.astype(np.uint32)
    if alpha.min() == 255:
        return colour
    light = colour.astype(np.uint32) * (np.uint32(255) if premultiplied else alpha)
    composite = (light + (255 - alpha) * 255 + 127) // 255
    return np.asarray(np.minimum(composite, 255), np.uint8)
