"""Which function writes which format, and how a file of any format says how it was made."""

import importlib.util
import json
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from histocli.base.errors import InvalidOption
from histocli.base.formats import ATTRIBUTE, FORMATS
from histocli.base.types import Json
from histocli.exports.content import Content
from histocli.exports.geojson import read_geojson_record, write_outlines
from histocli.exports.ngff import write_ngff_04
from histocli.exports.pictures import read_png_record, write_overlay, write_qc
from histocli.exports.tables import read_csv_record, read_parquet_record, write_csv, write_parquet
from histocli.exports.tiff import read_tiff_record, write_label_tiff

WRITERS: dict[str, Callable[[Path, Content, Json], None]] = {
    "ome-zarr-0.4": write_ngff_04,
    "tiff": write_label_tiff,
    "geojson": write_outlines,
    "parquet": write_parquet,
    "csv": write_csv,
    "overlay": write_overlay,
    "qc": write_qc,
}
"""For each format of ``export`` the function that writes a file of it: its place, what it is made
of, and how it was made."""

BEGINNINGS: dict[bytes, Callable[[Path], Any]] = {
    b"\x89PNG\r\n\x1a\n": read_png_record,
    b"\x1f\x8b": read_geojson_record,
    b"PAR1": read_parquet_record,
}
"""How files of some kinds begin, and what reads how they were made. These functions, and those for
the other kinds, raise whatever a foreign file leads to."""

FOREIGN = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, ImportError),
    *(struct.error, zlib.error),
)
"""Raised over files of other programs."""


def check_packages(names: Iterable[str]) -> None:
    """Raise ``InvalidOption`` where the optional package for a format is not installed."""
    for name in names:
        package = FORMATS[name].package
        if package and importlib.util.find_spec(package) is None:
            raise InvalidOption(
                f"{name} needs the optional package {package}: "
                "pip install 'histosynth[export]', or choose csv"
            )


def read_record(path: Path) -> Json | None:
    """Return how a file of ours was made, or None for anything else."""
    try:
        if path.is_dir():
            record = json.loads((path / ".zattrs").read_bytes())[ATTRIBUTE]
        else:
            with path.open("rb") as file:
                start = file.read(8)
            readers = (read for begin, read in BEGINNINGS.items() if start.startswith(begin))
            other = read_csv_record if path.suffix == FORMATS["csv"].suffix else read_tiff_record
            record = next(readers, other)(path)
    except FOREIGN:
        return None
    return record if isinstance(record, dict) else None
