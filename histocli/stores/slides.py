"""Slides and images on disk: pixels as 8-bit RGB, and the micrometres per pixel that go with them.

Kind of file is told from its first bytes, not from its name:

- PNG, JPEG, WebP, BMP through imagecodecs. They record no pixel size; 0.25 um/px may be assumed, and the source says so.
- TIFF, BigTIFF, OME-TIFF, Aperio SVS and their kin through tifffile, at full resolution.
- Zarr through zarr: an OME-Zarr image (0.4 or 0.5, full resolution) or a plain array.

Whatever is stored becomes uint8 RGB by fixed rules, never stretched by the content of one image, so
that two tiles of one scan stay comparable:

- integers of b significant bits: ``round(v * 255 / (2**b - 1))``. b is what the file records (12 bits in a 16-bit TIFF), else
  the width of its type;
- floats: 0..1 where no value exceeds 1, else 0..255;
- one channel is repeated; opacity is composited on white, the colour of glass; palettes are looked up.

Coordinates: pixel (0, 0) is the upper left one, and resampling keeps its outer corner where it is.
"""

import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import psutil
import tifffile
import zarr

from histocli.base.errors import (
    HistosynthError,
    InputNotFound,
    OutOfResources,
    UnknownPixelSize,
    UnsupportedSlide,
)
from histocli.base.text import shortened
from histocli.base.types import RGBImage

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".svs")
ZARR_SUFFIXES = (".zarr",)
IMAGE_SUFFIXES = RASTER_SUFFIXES + TIFF_SUFFIXES + ZARR_SUFFIXES
"""Lower-case last suffixes of what ``read_image`` reads; ``.ome.tif`` ends in ``.tif``."""
DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr")

ASSUMED_MPP = 0.25  # a 40x scan, the commonest source of patches that record nothing
# what a microscope scan can have; screen resolutions (72, 96 dpi) lie far outside
SANE_MPP = (0.05, 5.0)
# pixels whose sides differ by more are not square, and one mpp would be wrong for one axis
SQUARE_TOLERANCE = 0.02
MEMORY_SHARE = 0.8  # of what is free may be taken by the pixels of one image

MICROMETRES = {
    "": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "\\u00b5m": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
"""Length units of OME-XML, OME-Zarr and ImageJ, in micrometres; "pixel" and "reference frame" are
no lengths."""

DECODING_ERRORS = (
    ValueError,  # TiffFileError, XML and shape problems
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,  # sizes of zero
    RuntimeError,  # every codec of imagecodecs
    OSError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What the decoders raise on a damaged or foreign file; anything else is a bug of ours."""


@dataclass(frozen=True)
class SlideImage:
    """One image in memory, at its own full resolution."""

    pixels: RGBImage
    """uint8 (H, W, 3), sRGB."""
    mpp: float
    """Micrometres per pixel."""
    mpp_source: str
    """Where ``mpp`` comes from: given, ome-xml, aperio, tiff, imagej, ome-zarr, zarr or assumed."""
    path: Path
    """The file or folder it was read from."""
    name: str
    """The path's stem, without double suffixes."""


@dataclass(frozen=True)
class _Decoded:
    """What a reader hands over: stored values, and how to understand them."""

    values: npt.NDArray[Any]  # (H, W) or (H, W, C)
    bits: int | None = None  # significant bits of integers, where recorded
    premultiplied: bool = False  # colours already multiplied by opacity
    opaque: bool = False  # a fourth channel is not opacity
    inverted: bool = False  # 0 is white
    palette: npt.NDArray[Any] | None = None  # uint16 (3, n)


def slide_stem(path: str | PurePath) -> str:
    """Return the name of a slide without its suffix; ``.ome.tif`` and ``.ome.zarr`` are stripped
    whole.
    """
    name = PurePath(path).name
    for suffix in DOUBLE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return PurePath(name).stem


def read_image(
    path: str | Path, *, mpp: float | None = None, allow_assumed: bool = True
) -> SlideImage:
    """Read an image or slide at full resolution.

    Parameters
    ----------
    path : path
        A file, or a Zarr folder.
    mpp : float, optional
        The user's micrometres per pixel; wins over what the file records.
    allow_assumed : bool
        Assume 0.25 um/px for PNG, JPEG, WebP and BMP, which record nothing. TIFF and Zarr are never
        guessed.

    Returns
    -------
    SlideImage
        uint8 RGB and the pixel size with its source.

    Raises
    ------
    InputNotFound
        There is no such file.
    UnsupportedSlide
        The file is empty, truncated, damaged, or of a kind that is not read.
    UnknownPixelSize
        No pixel size is recorded, given, or allowed to be assumed.
    OutOfResources
        The pixels do not fit in memory.
    """
    path = Path(path)
    kind = kind_of(path)
    try:
        if kind == "tiff":
            decoded, recorded = _read_tiff(path, strict=mpp is None)
        elif kind == "zarr":
            decoded, recorded = _read_zarr(path, strict=mpp is None)
        else:
            decoded, recorded = _read_raster(path, kind), None
    except HistosynthError:
        raise
    except MemoryError as error:
        raise OutOfResources(
            f"{path}: not enough memory for its pixels; give smaller images"
        ) from error
    except DECODING_ERRORS as error:
        raise UnsupportedSlide(
            f"{path}: cannot be decoded ({shortened(error)}); it is damaged, truncated or of an unusual kind; "
            "save it anew as TIFF or PNG"
        ) from error
    size, source = choose_mpp(
        path,
        given=mpp,
        recorded=recorded,
        may_assume=allow_assumed and kind not in ("tiff", "zarr"),
    )
    return SlideImage(
        pixels=_to_rgb(decoded, path), mpp=size, mpp_source=source, path=path, name=slide_stem(path)
    )


def read_pixel_size(
    path: str | Path, *, mpp: float | None = None, allow_assumed: bool = True
) -> tuple[float, str]:
    """Return micrometres per pixel and their source without decoding pixels; same rules and errors
    as ``read_image``.
    """
    path = Path(path)
    kind = kind_of(path)
    recorded: tuple[float, str] | None = None
    try:
        if kind == "tiff":
            with tifffile.TiffFile(path) as tiff:
                recorded = tiff_mpp(tiff, path, strict=mpp is None)
        elif kind == "zarr":
            recorded = _locate_zarr(path, strict=mpp is None)[2]
    except HistosynthError:
        raise
    except DECODING_ERRORS as error:
        raise UnsupportedSlide(
            f"{path}: cannot be read ({shortened(error)}); it is damaged or truncated"
        ) from error
    return choose_mpp(
        path,
        given=mpp,
        recorded=recorded,
        may_assume=allow_assumed and kind not in ("tiff", "zarr"),
    )


def resampled_shape(shape: tuple[int, int], from_mpp: float, to_mpp: float) -> tuple[int, int]:
    """Return height and width after ``resample``, at least one pixel each."""
    factor = from_mpp / to_mpp
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resample(image: RGBImage, from_mpp: float, to_mpp: float) -> RGBImage:
    """Bring pixels to another pixel size, phase-locked to the origin.

    Output pixel i covers exactly ``i * to_mpp .. (i + 1) * to_mpp`` micrometres from the outer
    corner of pixel (0, 0), whatever the image's size: the scale is never bent so that a whole
    number of pixels fits. Shrinking averages areas (no aliasing); enlarging is bicubic.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    from_mpp, to_mpp : float
        Micrometres per pixel before and after.

    Returns
    -------
    ndarray of uint8, shape ``resampled_shape(...) + (3,)``
        The same array when the pixel sizes are equal.
    """
    if from_mpp == to_mpp:
        return image
    height, width = resampled_shape(image.shape[:2], from_mpp, to_mpp)
    factor = from_mpp / to_mpp
    # less than one output pixel: extend by the edge until there is one
    down = (
        max(0, math.ceil(1 / factor) - image.shape[0]) if round(image.shape[0] * factor) < 1 else 0
    )
    right = (
        max(0, math.ceil(1 / factor) - image.shape[1]) if round(image.shape[1] * factor) < 1 else 0
    )
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    # fx and fy, not the size: OpenCV then keeps the exact scale, and with it the phase
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resampled = cv2.resize(
        np.ascontiguousarray(image), None, fx=factor, fy=factor, interpolation=method
    )
    return resampled.astype(np.uint8, copy=False)[:height, :width]


def resample_labels(
    labels: npt.NDArray[Any], from_mpp: float, to_mpp: float, shape: tuple[int, int] | None = None
) -> npt.NDArray[Any]:
    """Bring a label image to another pixel size by nearest neighbour: the inverse of ``resample``
    for what was found there.

    Parameters
    ----------
    labels : ndarray, shape (H, W)
        Any integer or bool type.
    from_mpp, to_mpp : float
        Micrometres per pixel before and after.
    shape : (int, int), optional
        Height and width of the result, such as the slide's own; pixels past the last label row or
        column repeat it.

    Returns
    -------
    ndarray of the same type, shape ``shape``
        A pixel takes the label of the input pixel that holds its centre.
    """
    height, width = shape or resampled_shape((labels.shape[0], labels.shape[1]), from_mpp, to_mpp)
    if from_mpp == to_mpp and labels.shape == (height, width):
        return labels
    rows, columns = (
        np.minimum(((np.arange(size) + 0.5) * (to_mpp / from_mpp)).astype(np.intp), last - 1)
        for size, last in zip((height, width), labels.shape, strict=True)
    )
    nearest: npt.NDArray[Any] = np.take(np.take(labels, rows, axis=0), columns, axis=1)
    return nearest


def sane_mpp(value: float | None) -> float | None:
    """Return ``value`` if a microscope scan can have it, else None: zero, NaN and screen
    resolutions count as missing.
    """
    if value is None or not math.isfinite(value) or not SANE_MPP[0] <= value <= SANE_MPP[1]:
        return None
    return float(value)


def kind_of(path: Path) -> str:
    """Tell the kind of file by its first bytes: tiff, zarr, png, jpeg, webp or bmp."""
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
            return "zarr"
        raise UnsupportedSlide(
            f"{path}: is a folder without Zarr metadata; give an image, or a complete .zarr store"
        )
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise InputNotFound(f"{path}: no such image; check the path") from error
    except OSError as error:
        raise UnsupportedSlide(
            f"{path}: cannot be opened ({error.strerror or error}); check its permissions"
        ) from error
    if not head:
        raise UnsupportedSlide(f"{path}: is empty (0 bytes); copy it again")
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if head[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] == b"BM":
        return "bmp"
    raise UnsupportedSlide(
        f"{path}: is no image of a known kind; PNG, JPEG, WebP, BMP, TIFF, OME-TIFF, SVS and Zarr are read"
    )


def choose_mpp(
    path: Path, *, given: float | None, recorded: tuple[float, str] | None, may_assume: bool
) -> tuple[float, str]:
    """Return micrometres per pixel and their source: given, recorded, or assumed where that is
    allowed.

    Raises
    ------
    UnknownPixelSize
        None of them.
    """
    if given is not None:
        return float(given), "given"
    if recorded is not None:
        return recorded
    if may_assume:
        return ASSUMED_MPP, "assumed"
    raise UnknownPixelSize(
        f"{path}: records no usable pixel size (between {SANE_MPP[0]} and {SANE_MPP[1]} um/px); give it with --mpp, "
        "for example --mpp 0.25 for a 40x scan"
    )


def _check_memory(path: Path, n_bytes: int) -> None:
    free = psutil.virtual_memory().available
    if n_bytes > MEMORY_SHARE * free:
        raise OutOfResources(
            f"{path}: its pixels take {n_bytes / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free; "
            "images must fit in memory: give a region of it, or a coarser copy"
        )


def _to_rgb(decoded: _Decoded, path: Path) -> RGBImage:
    """Apply the rules of this module's docstring."""
    values = decoded.values
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UnsupportedSlide(
            f"{path}: has shape {values.shape}; an image needs a height and a width of at least one pixel"
        )
    if decoded.palette is not None:
        palette = np.asarray(decoded.palette).T
        if palette.max(initial=0) > 255:  # TIFF palettes have 16 bits; some writers fill only 8
            palette = (palette.astype(np.uint32) + 128) // 257
        image: RGBImage = palette.astype(np.uint8)[values]
    else:
        image = _to_8_bits(values, decoded.bits, path)
    if decoded.inverted:
        image = 255 - image
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[2]
    if channels not in (1, 2, 3, 4):
        raise UnsupportedSlide(
            f"{path}: has {channels} channels; brightfield images have 1 (grey), 3 (RGB) or 4 (RGB and opacity)"
        )
    if channels in (2, 4):
        colour = image[..., :-1]
        image = (
            colour if decoded.opaque else _on_white(colour, image[..., -1:], decoded.premultiplied)
        )
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image, dtype=np.uint8)


def _to_8_bits(values: npt.NDArray[Any], bits: int | None, path: Path) -> npt.NDArray[np.uint8]:
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype == np.uint8 and bits in (None, 8):
        return values
    if values.dtype in (np.uint8, np.uint16):
        top = 2 ** (bits or 8 * values.dtype.itemsize) - 1
        # a table, because there are at most 65536 values and images have millions
        table = np.arange(2 ** (8 * values.dtype.itemsize), dtype=np.int64)
        shades = np.minimum((table * 510 + top) // (2 * top), 255).astype(np.uint8)
        return np.asarray(shades[values], dtype=np.uint8)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 255):  # also NaN
            raise UnsupportedSlide(
                f"{path}: holds floats from {low:.4g} to {high:.4g}; brightness must lie in 0..1 or 0..255; save it as 8-bit RGB"
            )
        return np.rint(values * 255.0 if high <= 1 else values).astype(np.uint8)
    raise UnsupportedSlide(
        f"{path}: holds {values.dtype} values, whose white is unknown; save it as 8-bit or 16-bit RGB"
    )


def _on_white(
    colour: npt.NDArray[np.uint8], opacity: npt.NDArray[np.uint8], premultiplied: bool
) -> npt.NDArray[np.uint8]:
    alpha = opacity.astype(np.uint32)
    if alpha.min(initial=255) == 255:
        return colour
    light = colour.astype(np.uint32) * (np.uint32(255) if premultiplied else alpha)
    composite = (light + (255 - alpha) * 255 + 127) // 255
    return np.asarray(np.minimum(composite, 255), dtype=np.uint8)


def _read_raster(path: Path, kind: str) -> _Decoded:
    data = path.read_bytes()
    if kind == "png":
        return _Decoded(imagecodecs.png_decode(data))
    if kind == "webp":
        return _Decoded(imagecodecs.webp_decode(data))
    if kind == "bmp":
        return _Decoded(imagecodecs.bmp_decode(data))
    # the codec fills a missing end with grey; the end-of-image mark after the last scan says that
    # all is there
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise UnsupportedSlide(
            f"{path}: is truncated (no end-of-image mark after {len(data)} bytes); copy it again"
        )
    values = imagecodecs.jpeg8_decode(data)
    if values.ndim == 3 and values.shape[2] == 4:
        raise UnsupportedSlide(f"{path}: is a CMYK image, made for print; convert it to RGB")
    return _Decoded(values)


def _read_tiff(path: Path, *, strict: bool) -> tuple[_Decoded, tuple[float, str] | None]:
    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise UnsupportedSlide(f"{path}: holds no image; it is damaged or truncated")
        series = main_series(tiff)
        page = series.keyframe
        _check_memory(path, int(np.prod(series.shape)) * series.dtype.itemsize)
        end = tiff.filehandle.size
        for part in series.pages:
            if part is not None and any(
                offset + count > end
                for offset, count in zip(part.dataoffsets, part.databytecounts, strict=True)
            ):
                raise UnsupportedSlide(
                    f"{path}: is truncated (pixel data should go on after its end at {end} bytes); copy it again"
                )
        check_colours(path, page)
        values = to_channels_last(series.asarray(), series.axes, path)
        recorded = tiff_mpp(tiff, path, strict=strict)
        return _decoded_page(values, page, tiff_bits(tiff, page)), recorded


def check_colours(path: Path, page: Any) -> None:
    """Refuse a TIFF page whose values are not brightness, RGB or a palette."""
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    # their decoders turn YCbCr into RGB
    jpeg = page.compression in (6, 7, 33003, 33005, 33007, 34892)
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not (
        photometric == "YCBCR" and jpeg
    ):
        raise UnsupportedSlide(f"{path}: has {photometric} colours; convert it to RGB")


def tiff_bits(tiff: Any, page: Any) -> int | None:
    """Return the significant bits of a TIFF's integers where they are fewer than those of their
    type.
    """
    significant = _ome_pixels(tiff).get("SignificantBits", "") if tiff.is_ome else ""
    bits = int(significant) if significant.isdigit() else page.bitspersample
    return bits if isinstance(bits, int) and 1 < bits < 8 * page.dtype.itemsize else None


def _decoded_page(values: npt.NDArray[Any], page: Any, bits: int | None) -> _Decoded:
    extra = tuple(int(sample) for sample in page.extrasamples)
    photometric = tifffile.PHOTOMETRIC(page.photometric).name
    return _Decoded(
        values,
        bits=bits,
        premultiplied=extra[-1:] == (1,),
        opaque=extra[-1:] == (0,),
        inverted=photometric == "MINISWHITE",
        palette=page.colormap if photometric == "PALETTE" else None,
    )


def tiff_to_rgb(values: npt.NDArray[Any], page: Any, bits: int | None, path: Path) -> RGBImage:
    """Turn the stored values of a region of a TIFF page, shape (H, W, C), into RGB by the rules of
    this module.
    """
    return _to_rgb(
        _decoded_page(values[..., 0] if values.shape[2] == 1 else values, page, bits), path
    )


def plain_to_rgb(values: npt.NDArray[Any], path: Path) -> RGBImage:
    """Turn stored values, shape (H, W) or (H, W, C), into RGB by the rules of this module."""
    return _to_rgb(_Decoded(values), path)


def main_series(tiff: Any) -> Any:
    """Return the slide itself: the first series, but the largest where no format says which one it
    is.
    """
    if tiff.is_ome or tiff.is_svs:
        return tiff.series[0]
    return max(tiff.series, key=lambda series: int(np.prod(series.shape)))  # the first of equals


def to_channels_last(values: npt.NDArray[Any], axes: str, path: Path) -> npt.NDArray[Any]:
    """Return (H, W) or (H, W, C) of an array whose axes are named by one letter each."""
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


def _ome_pixels(tiff: Any) -> dict[str, str]:
    """Return the attributes of the first Pixels element of the OME-XML; empty where there is
    none.
    """
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    except ElementTree.ParseError:
        return {}
    return next(
        (dict(element.attrib) for element in root.iter() if element.tag.endswith("}Pixels")), {}
    )


def square(path: Path, y: float | None, x: float | None, *, strict: bool) -> float | None:
    """Return the side of a square pixel, None where it is missing; refuse pixels that are not
    square.
    """
    y, x = sane_mpp(y), sane_mpp(x)
    if x is None or y is None:
        return x or y
    if abs(x - y) > SQUARE_TOLERANCE * max(x, y):
        if not strict:
            return None
        raise UnknownPixelSize(
            f"{path}: its pixels are not square ({y:.4g} um high, {x:.4g} um wide); resample the image, "
            "or give --mpp to use it as it is"
        )
    return x


def length_um(value: str | float | None, unit: str) -> float | None:
    """Return a length in micrometres, None where number or unit is missing."""
    factor = MICROMETRES.get(unit.strip().lower())
    try:
        return None if value is None or factor is None else float(value) * factor
    except ValueError:
        return None


def tiff_mpp(tiff: Any, path: Path, *, strict: bool) -> tuple[float, str] | None:
    """Return the recorded pixel size: OME-XML, then the vendor's property, then the resolution
    tags.
    """
    page = main_series(tiff).keyframe
    if tiff.is_ome:
        pixels = _ome_pixels(tiff)
        sides = [
            length_um(
                pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
            )
            for axis in "YX"
        ]
        if size := square(path, *sides, strict=strict):
            return size, "ome-xml"
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description or "")
    if found and (size := sane_mpp(length_um(found[1], "um"))):
        return size, "aperio"
    unit, source = {2: ("inch", "tiff"), 3: ("cm", "tiff")}.get(
        int(page.tags.valueof(296, default=2)), ("", "")
    )
    if tiff.is_imagej:
        recorded_unit = str((tiff.imagej_metadata or {}).get("unit", ""))
        unit, source = (recorded_unit, "imagej") if recorded_unit else (unit, source)
    if source:
        sides = [_per_pixel(page.tags.valueof(tag), unit) for tag in (283, 282)]
        if size := square(path, *sides, strict=strict):
            return size, source
    return None


def _per_pixel(resolution: Any, unit: str) -> float | None:
    """Return micrometres per pixel of a TIFF rational (pixels, per units)."""
    if (
        not isinstance(resolution, tuple)
        or len(resolution) != 2
        or not resolution[0]
        or not resolution[1]
    ):
        return None
    return length_um(resolution[1] / resolution[0], unit)


def _locate_zarr(
    path: Path, *, strict: bool
) -> tuple[zarr.Array[Any], str, tuple[float, str] | None]:
    """Return the full-resolution array of a Zarr image, one letter per axis, and the recorded pixel
    size.
    """
    arrays, axes, recorded = locate_zarr_levels(path, strict=strict)
    return arrays[0], axes, recorded


def locate_zarr_levels(
    path: Path, *, strict: bool
) -> tuple[list[zarr.Array[Any]], str, tuple[float, str] | None]:
    """Return the arrays of a Zarr image from full resolution down, one letter per axis, and the
    recorded pixel size.
    """
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Group) and "histosynth" in node.attrs:
        record = node.attrs["histosynth"]
        contract = record.get("contract", "?") if isinstance(record, dict) else "?"
        raise UnsupportedSlide(
            f"{path}: is a {contract} store and not an image; give the slide itself"
        )
    if isinstance(node, zarr.Group) and "bioformats2raw.layout" in _ome_attributes(node):
        node = node["0"]
    attributes = _ome_attributes(node)
    if isinstance(node, zarr.Array):
        axes = {
            2: "YX",
            3: "SYX" if node.shape[0] in (1, 3, 4) and node.shape[-1] not in (3, 4) else "YXS",
        }.get(node.ndim, "")
        size = attributes.get("mpp")
        found = sane_mpp(float(size)) if isinstance(size, int | float) else None
        return [node], axes or "?" * node.ndim, (found, "zarr") if found else None
    multiscales = attributes.get("multiscales")
    if not isinstance(node, zarr.Group) or not multiscales:
        raise UnsupportedSlide(
            f"{path}: is a Zarr group without OME-Zarr multiscales; give an OME-Zarr image or one of its arrays"
        )
    image = multiscales[0]
    level = image["datasets"][0]
    arrays: list[zarr.Array[Any]] = []
    for dataset in image["datasets"]:
        name = str(dataset["path"])
        if name.startswith(("/", "\\")) or ".." in PurePath(name).parts:
            raise UnsupportedSlide(
                f"{path}: its level {name!r} leads out of the store, which is not followed"
            )
        child = node[name]
        if not isinstance(child, zarr.Array):
            raise UnsupportedSlide(
                f"{path}: its level {name} is not an array; the store is damaged"
            )
        if arrays and (child.ndim != arrays[0].ndim or child.dtype != arrays[0].dtype):
            break
        arrays.append(child)
    array = arrays[0]
    # axes are objects since 0.4 and plain names before
    axes_found = [
        axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])
    ]
    names = "".join(str(axis["name"])[:1].upper() for axis in axes_found) or "TCZYX"[-array.ndim :]
    scale = np.ones(array.ndim)
    for transform in [
        *image.get("coordinateTransformations", []),
        *level.get("coordinateTransformations", []),
    ]:
        if transform.get("type") == "scale":
            scale = scale * np.asarray(transform["scale"], dtype=float)
    sides = [
        length_um(float(scale[index]), str(axes_found[index]["unit"]))
        for index in (names.find("Y"), names.find("X"))
        if 0 <= index < len(axes_found) and "unit" in axes_found[index]
    ]
    side = square(path, *sides, strict=strict) if len(sides) == 2 else None
    return arrays, names, (side, "ome-zarr") if side else None


def _ome_attributes(node: Any) -> dict[str, Any]:
    """Return OME-Zarr metadata wherever its version puts them: under ``ome`` since 0.5, at the root
    before.
    """
    attributes = dict(node.attrs)
    nested = attributes.get("ome")
    return nested if isinstance(nested, dict) else attributes


def _read_zarr(path: Path, *, strict: bool) -> tuple[_Decoded, tuple[float, str] | None]:
    array, axes, recorded = _locate_zarr(path, strict=strict)
    _check_memory(path, int(np.prod(array.shape)) * array.dtype.itemsize)
    return _Decoded(to_channels_last(np.asarray(array[...]), axes, path)), recorded
