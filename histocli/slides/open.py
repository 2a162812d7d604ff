"""Open a slide or an image of any kind; the table ``FILE_KINDS`` says which class reads which kind.

The first bytes of a file tell its kind, not its name. Formats that openslide reads are told by
their suffix, because some begin like a JPEG or a TIFF; a Zarr folder is told by its metadata files.
"""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagecodecs

from histocli.base.errors import InputNotFound, UnsupportedSlide
from histocli.base.types import RGBImage
from histocli.slides.colours import to_rgb
from histocli.slides.metadata import upright
from histocli.slides.openslide import OpenSlideSlide
from histocli.slides.pixel_size import PixelSize
from histocli.slides.slide import UNUSUAL, Slide, decoding
from histocli.slides.tiff import open_tiff
from histocli.slides.zarr import ZarrSlide

DAMAGED = "it is damaged or truncated"


class RasterSlide(Slide):
    """A PNG, JPEG, WebP or BMP image, decoded as a whole; its pixel size is given or assumed."""

    backend = "imagecodecs"
    may_assume_mpp = True

    def __init__(self, path: Path, given_mpp: float | None = None, *, codec: str) -> None:
        super().__init__(path, given_mpp)
        self._codec = codec

    def _decode(self) -> RGBImage:
        data = self.path.read_bytes()
        # The JPEG codec fills a missing end with grey. A complete file has an end-of-image mark
        # (FF D9) after its last start-of-scan mark (FF DA).
        is_jpeg = self._codec == "jpeg8"
        if is_jpeg and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise UnsupportedSlide(
                f"{self.path}: is truncated "
                f"(no end-of-image mark after {len(data)} bytes); copy it again"
            )
        values = getattr(imagecodecs, f"{self._codec}_decode")(data)
        if is_jpeg and values.ndim == 3 and values.shape[2] == 4:
            raise UnsupportedSlide(
                f"{self.path}: is a CMYK image, made for print; convert it to RGB"
            )
        return upright(to_rgb(values, self.path), data, self.path)


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and the function that opens it."""

    suffixes: tuple[str, ...]
    """Last suffixes of such file names, in lower case; that of ``.ome.tif`` is ``.tif``."""
    open: Callable[[Path, float | None], Slide]
    """Takes the path and the micrometres per pixel that the user gave, or None."""
    signature: bytes | None = None
    """Regular expression for the first bytes; None for Zarr and where the suffix tells the kind."""
    in_folders: bool = True
    """Whether folders are searched for it. Of the many files of a DICOM slide, users name one."""


ZARR = FileKind((".zarr",), ZarrSlide)
FILE_KINDS = (
    FileKind((".png",), partial(RasterSlide, codec="png"), rb"\x89PNG\r\n\x1a\n"),
    FileKind((".jpg", ".jpeg"), partial(RasterSlide, codec="jpeg8"), rb"\xff\xd8\xff"),
    FileKind((".webp",), partial(RasterSlide, codec="webp"), rb"(?s)RIFF....WEBP"),
    FileKind((".bmp",), partial(RasterSlide, codec="bmp"), rb"BM"),
    FileKind((".tif", ".tiff", ".btf", ".svs", ".ndpi"), open_tiff, rb"II[*+]\0|MM\0[*+]"),
    FileKind((".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi"), OpenSlideSlide),
    FileKind((".dcm",), OpenSlideSlide, in_folders=False),
    FileKind((".zip",), ZarrSlide, rb"PK\x03\x04", in_folders=False),
    ZARR,
)
SLIDE_SUFFIXES = tuple(
    suffix for known in FILE_KINDS if known.in_folders for suffix in known.suffixes
)
"""Suffixes for which every command that takes images or slides searches folders."""


def is_slide_name(path: Path) -> bool:
    """Tell whether a file name has the suffix of a slide or an image."""
    return any(path.suffix.lower() in known.suffixes for known in FILE_KINDS)


@dataclass(frozen=True)
class SlideImage:
    """One image in memory, at full resolution."""

    pixels: RGBImage
    mpp: float  # micrometres per pixel
    mpp_source: str  # as in ``PixelSize``


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a slide or image for reading by regions.

    Parameters
    ----------
    path : str or Path
        A file, or a Zarr folder.
    mpp : float, optional
        Micrometres per pixel; replaces the recorded pixel size.

    Raises
    ------
    InputNotFound
        There is no such file.
    UnsupportedSlide
        The file is empty, truncated, damaged, or of a kind that is not read.
    UnknownPixelSize
        Pixels are not square, or their size is neither recorded, nor given, nor assumed.
    OutOfResources
        The file can only be decoded as a whole, and its pixels do not fit in memory.
    """
    path = Path(path)
    with decoding(path, "cannot be read", DAMAGED):
        slide = _open(path, mpp)
        try:
            # read here, so that a file without usable levels or pixel size is refused on opening
            _ = slide.levels, slide.mpp
        except BaseException:
            slide.close()
            raise
        return slide


def read_image(path: str | Path, *, mpp: float | None = None) -> SlideImage:
    """Read all pixels of an image or slide.

    Parameters
    ----------
    path, mpp
        As in :func:`open_slide`.

    Returns
    -------
    SlideImage
        uint8 sRGB, shape (H, W, 3), and the pixel size in micrometres with its source.

    Raises
    ------
    InputNotFound, UnsupportedSlide, UnknownPixelSize
        As :func:`open_slide`.
    OutOfResources
        The pixels do not fit in memory.
    """
    path = Path(path)
    with decoding(path, "cannot be decoded", UNUSUAL), closing(_open(path, mpp)) as slide:
        return SlideImage(slide.whole(), slide.mpp, slide.mpp_source)


def read_pixel_size(path: str | Path, *, mpp: float | None = None) -> PixelSize:
    """Return micrometres per pixel and their source without decoding pixels."""
    path = Path(path)
    with decoding(path, "cannot be read", DAMAGED), closing(_open(path, mpp)) as slide:
        return slide.pixel_size


def _open(path: Path, mpp: float | None) -> Slide:
    """Open a file by its kind, without reading its levels, pixels or pixel size."""
    suffix = path.suffix.lower()
    for known in FILE_KINDS:
        if known is not ZARR and known.signature is None and suffix in known.suffixes:
            return known.open(path, mpp)
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray")):
            return ZARR.open(path, mpp)
        raise UnsupportedSlide(
            f"{path}: is a folder without Zarr metadata; give an image, or a complete .zarr store"
        )
    head = _first_bytes(path)
    for known in FILE_KINDS:
        if known.signature is not None and re.match(known.signature, head):
            return known.open(path, mpp)
    raise UnsupportedSlide(
        f"{path}: is no image of a known kind; "
        "PNG, JPEG, WebP, BMP, TIFF, OME-TIFF, SVS and Zarr are read"
    )


def _first_bytes(path: Path) -> bytes:
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
    return head
