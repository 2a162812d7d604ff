"""Micrometres per pixel as files record them: one function for each source.

A value that the user gives comes first, then the recorded one (in a TIFF: OME-XML, then Aperio's
description, then Philips' XML, then the resolution tags), then an assumed one, for PNG, JPEG, WebP
and BMP only. A recorded size that no microscope scan has, such as zero, NaN or 72 dpi, counts as
missing.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from histocli.base.errors import UnknownPixelSize
from histocli.base.units import sane_mpp

logger = logging.getLogger(__name__)

CONTRADICTION = 1.5  # factor from which two recorded pixel sizes contradict each other
MICROMETRES = {
    unit: size
    for size, units in {
        1.0: ["", "µm", "μm", "\\u00b5m", "um", "micron", "microns", "micrometer", "micrometre"],
        1e-6: ["pm"],
        1e-4: ["å", "angstrom"],
        1e-3: ["nm", "nanometer"],
        1e3: ["mm", "millimeter"],
        1e4: ["cm", "centimeter"],
        1e5: ["dm"],
        1e6: ["m", "meter"],
        25400.0: ["in", "inch"],
    }.items()
    for unit in units
}
"""Micrometres in each unit of length; "pixel" and "reference frame" of OME-XML are no lengths."""


class PixelSize(NamedTuple):
    """Micrometres per pixel, and the source of this number."""

    mpp: float
    source: str
    """given, ome-xml, aperio, philips, tiff, imagej, ome-zarr, zarr, assumed, or the name of
    openslide's vendor."""


def of_ome_xml(pixels: Mapping[str, str], path: Path) -> PixelSize | None:
    """Return the pixel size in the attributes of a Pixels element of OME-XML."""
    sides = (
        length_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "YX"
    )
    return _of_square(path, *sides, source="ome-xml")


def of_aperio(description: str, path: Path) -> PixelSize | None:
    """Return the pixel size that an Aperio scanner wrote into an image description (``MPP = ``)."""
    found = re.search(r"\bMPP\s*=\s*([0-9]*[.,]?[0-9]+(?:[eE][-+]?[0-9]+)?)", description)
    # some scanners write numbers in the language of their computer
    side = length_um(found[1].replace(",", "."), "um") if found else None
    return _of_square(path, side, source="aperio")


def of_philips(description: str, path: Path) -> PixelSize | None:
    """Return the pixel size in the XML that Philips scanners write into a TIFF.

    It holds the spacing of rows and columns in millimetres for each picture of the file and each of
    its levels; that of the first level of the slide (``WSI``) is the smallest.
    """
    if "DICOM_PIXEL_SPACING" not in description:
        return None
    try:
        root = ElementTree.fromstring(description.strip())
    except ElementTree.ParseError:
        return None
    sides = []
    for picture in root.iter("DataObject"):
        kinds = {(each.get("Name"), (each.text or "").strip()) for each in picture}
        if ("PIM_DP_IMAGE_TYPE", "WSI") in kinds:
            for attribute in picture.iter("Attribute"):
                if attribute.get("Name") == "DICOM_PIXEL_SPACING":
                    numbers = re.findall(r"[0-9.]+(?:[eE][-+]?[0-9]+)?", attribute.text or "")
                    sides.append([length_um(number, "mm") or 0.0 for number in numbers[:2]])
    known = [side for side in sides if len(side) == 2 and all(side)]
    return _of_square(path, *min(known), source="philips") if known else None


def first_known(sizes: Sequence[PixelSize | None], path: Path) -> PixelSize | None:
    """Return the first pixel size that is known; warn if another source contradicts it."""
    known = [size for size in sizes if size is not None]
    for other in known[1:]:
        ratio = known[0].mpp / other.mpp
        if max(ratio, 1 / ratio) > CONTRADICTION:
            text = "%s: its pixel size is %.4g um by %s, but %.4g um by %s; the first is used, "
            logger.warning(text + "--mpp gives another", path, *known[0], *other)
            break
    return known[0] if known else None


def of_resolution_tags(page: Any, path: Path, imagej_unit: str = "") -> PixelSize | None:
    """Return the pixel size in the resolution tags of a TIFF page, in ImageJ's unit if given."""
    # 296 is ResolutionUnit, 283 and 282 are YResolution and XResolution
    unit = imagej_unit or {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, default=2)))
    if unit is None:
        return None
    sides = (_per_pixel(page.tags.valueof(tag), unit) for tag in (283, 282))
    return _of_square(path, *sides, source="imagej" if imagej_unit else "tiff")


def of_ome_zarr(image: Mapping[str, Any], path: Path, n_axes: int) -> PixelSize | None:
    """Return the pixel size of the first dataset in one entry of OME-Zarr ``multiscales``."""
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])]
    names = [str(axis["name"])[:1].upper() for axis in axes]
    scale = np.ones(n_axes)
    for holder in (image, image["datasets"][0]):
        for transform in holder.get("coordinateTransformations", []):
            if transform.get("type") == "scale":
                scale = scale * np.asarray(transform["scale"], dtype=float)
    sides = [
        length_um(float(scale[names.index(name)]), str(axes[names.index(name)]["unit"]))
        for name in "YX"
        if name in names and "unit" in axes[names.index(name)]
    ]
    return _of_square(path, *sides, source="ome-zarr") if len(sides) == 2 else None


def of_zarr_array(attributes: Mapping[str, Any], path: Path) -> PixelSize | None:
    """Return the pixel size in the attribute ``mpp`` of a plain Zarr array."""
    value = attributes.get("mpp")
    return _of_square(path, value if isinstance(value, int | float) else None, source="zarr")


def of_openslide(properties: Mapping[str, str], path: Path) -> PixelSize | None:
    """Return the pixel size in openslide's properties; its source is the vendor's name."""
    sides = (length_um(properties.get(f"openslide.mpp-{axis}"), "um") for axis in "yx")
    return _of_square(path, *sides, source=str(properties.get("openslide.vendor", "openslide")))


def length_um(value: str | float | None, unit: str) -> float | None:
    """Return a length in micrometres, None where the number or unit is missing or not known."""
    factor = MICROMETRES.get(unit.strip().lower())
    try:
        return None if value is None or factor is None else float(value) * factor
    except ValueError:
        return None


def _of_square(
    path: Path, y: float | None, x: float | None = None, *, source: str
) -> PixelSize | None:
    """Return the side of a pixel from its height and width; one of them may be missing."""
    y, x = sane_mpp(y), sane_mpp(x)
    # sides that differ by more than 2 % are not rounded squares: no number fits both axes
    if x and y and abs(x - y) > 0.02 * max(x, y):
        raise UnknownPixelSize(
            f"{path}: its pixels are not square ({y:.4g} um high, {x:.4g} um wide); "
            "resample the image, or give --mpp to use it as it is"
        )
    side = x or y
    return PixelSize(side, source) if side else None


def _per_pixel(resolution: Any, unit: str) -> float | None:
    """Return micrometres per pixel of a TIFF rational (n, m), which means n pixels in m units."""
    if not isinstance(resolution, tuple) or len(resolution) != 2 or not all(resolution):
        return None
    return length_um(resolution[1] / resolution[0], unit)
