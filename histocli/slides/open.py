"""Open a slide or an image of any kind: the table of what is read, and by which part of this room.

The kind of a file is told from its first bytes, not from its name; only formats of openslide go by
their suffix, because some of them begin like a JPEG or a TIFF.
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
from histocli.slides.openslide import OpenSlideSlide
from histocli.slides.pixel_size import PixelSize
from histocli.slides.slide import UNUSUAL, Slide, decoding
from histocli.slides.tiff import open_tiff
from histocli.slides.zarr import ZarrSlide

DAMAGED = "it is damaged or truncated"


class RasterSlide(Slide):
    """PNG, JPEG, WebP and BMP: decoded at once by a codec of imagecodecs, of no recorded mpp."""

    backend = "imagecodecs"
    may_assume_mpp = True

    def __init__(self, path: Path, given_mpp: float | None = None, *, codec: str) -> None:
        super().__init__(path, given_mpp)
        self._codec = codec

    def _decode(self) -> RGBImage:
        data = self.path.read_bytes()
        # The JPEG codec fills a missing end with grey. The end-of-image mark after the last scan
        # says that all is there.
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
        return to_rgb(values, self.path)


@dataclass(frozen=True)
class FileKind:
    """A kind of file, and what opens it."""

    suffixes: tuple[str, ...]
    """Lower-case last suffixes of its names; ``.ome.tif`` ends in ``.tif``."""
    open: Callable[[Path, float | None], Slide]
    """Takes the path and the user's micrometres per pixel."""
    signature: bytes | None = None
    """Regular expression that the first bytes match; None where the suffix tells the kind."""
    in_folders: bool = True
    """Whether folders are searched for it; a DICOM slide has many files, one of which names it."""


ZARR = FileKind((".zarr",), ZarrSlide)
FILE_KINDS = (
    FileKind((".png",), partial(RasterSlide, codec="png"), rb"\x89PNG\r\n\x1a\n"),
    FileKind((".jpg", ".jpeg"), partial(RasterSlide, codec="jpeg8"), rb"\xff\xd8\xff"),
    FileKind((".webp",), partial(RasterSlide, codec="webp"), rb"(?s)RIFF....WEBP"),
    FileKind((".bmp",), partial(RasterSlide, codec="bmp"), rb"BM"),
    FileKind((".tif", ".tiff", ".btf", ".svs", ".ndpi"), open_tiff, rb"II[*+]\0|MM\0[*+]"),
    FileKind((".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi"), OpenSlideSlide),
    FileKind((".dcm",), OpenSlideSlide, in_folders=False),
    ZARR,
)
SLIDE_SUFFIXES = tuple(
    suffix for known in FILE_KINDS if known.in_folders for suffix in known.suffixes
)
"""What folders are searched for, by every command that takes images or slides."""


def is_slide_name(path: Path) -> bool:
    """Tell whether the name of a file says that it is a slide or an image."""
    return any(path.suffix.lower() in known.suffixes for known in FILE_KINDS)


@dataclass(frozen=True)
class SlideImage:
    """One image in memory, at full resolution."""

    pixels: RGBImage
    mpp: float
    mpp_source: str


def open_slide(path: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a slide or image for reading by regions; ``mpp`` wins over what the file records.

    Raises
    ------
    InputNotFound
        There is no such file.
    UnsupportedSlide
        The file is empty, truncated, damaged, or of a kind that is not read.
    UnknownPixelSize
        No pixel size is recorded, given, or allowed to be assumed.
    OutOfResources
        Pixels that can only be decoded at once do not fit in memory.
    """
    path = Path(path)
    with decoding(path, "cannot be read", DAMAGED):
        slide = _open(path, mpp)
        try:
            # looked at here, so that what cannot be read by regions is refused on opening
            _ = slide.levels, slide.mpp
        except BaseException:
            slide.close()
            raise
        return slide


def read_image(path: str | Path, *, mpp: float | None = None) -> SlideImage:
    """Read all pixels of an image or slide; errors are those of ``open_slide``."""
    path = Path(path)
    with decoding(path, "cannot be decoded", UNUSUAL), closing(_open(path, mpp)) as slide:
        return SlideImage(slide.whole(), slide.mpp, slide.mpp_source)


def read_pixel_size(path: str | Path, *, mpp: float | None = None) -> PixelSize:
    """Return micrometres per pixel and their source without decoding pixels."""
    path = Path(path)
    with decoding(path, "cannot be read", DAMAGED), closing(_open(path, mpp)) as slide:
        return slide.pixel_size


def _open(path: Path, mpp: float | None) -> Slide:
    """Tell the kind of a file and open it, without a look at its levels, pixels or pixel size."""
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
