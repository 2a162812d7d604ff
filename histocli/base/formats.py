"""The list of formats that ``segment`` and ``export`` write; importing it loads no library."""

from collections.abc import Sequence
from dataclasses import dataclass

from histocli.base.errors import InvalidOption

ATTRIBUTE = "histosynth"
"""The key under which every output of this program records how it was made."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file or store."""

    suffix: str
    contract: str  # name and version of its layout
    bytes_per_px: float = 0.0
    """Expected bytes per slide pixel of tissue, measured at 3,000 nuclei a square millimetre."""
    commands: tuple[str, ...] = ("segment", "export")  # which write it
    needs_pixels: bool = False
    """Whether writing needs the pixels of the slide."""
    takes_region: bool = False
    """Whether a part of the slide can be written."""
    package: str = ""
    """The optional package that writes it, or empty."""


FORMATS = {
    "ome-zarr": Format(
        suffix=".ome.zarr", contract="histosynth-labels/1", bytes_per_px=0.09, commands=("segment",)
    ),
    "ome-zarr-0.4": Format(
        suffix=".ome04.zarr", contract="histosynth-labels-0.4/1", commands=("export",)
    ),
    "tiff": Format(
        suffix=".tif", contract="histosynth-label-image/1", bytes_per_px=0.12, takes_region=True
    ),
    "geojson": Format(suffix=".geojson.gz", contract="histosynth-outlines/1", bytes_per_px=0.02),
    "parquet": Format(
        suffix=".parquet", contract="histosynth-table/1", bytes_per_px=0.015, package="pyarrow"
    ),
    "csv": Format(suffix=".csv", contract="histosynth-table/1", bytes_per_px=0.03),
    "overlay": Format(
        suffix=".overlay.png",
        contract="histosynth-overlay/1",
        bytes_per_px=1.9,
        needs_pixels=True,
        takes_region=True,
    ),
    # The name ends like that of an overlay, so that ``evaluate`` skips this picture too.
    "qc": Format(suffix=".qc.overlay.png", contract="histosynth-qc/1", needs_pixels=True),
}


def format_names(command: str) -> tuple[str, ...]:
    """Return the names of the formats that a command writes."""
    return tuple(name for name, form in FORMATS.items() if command in form.commands)


def check_formats(names: Sequence[str], command: str) -> None:
    """Raise ``InvalidOption`` if there is no name, or one that the command does not write."""
    known = format_names(command)
    if not names:
        raise InvalidOption(f"--format must name at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise InvalidOption(f"--format must be among {', '.join(known)}, got {name!r}")
