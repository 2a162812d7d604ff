"""The writer of each format, and a reader of the record (how it was made) of any file."""

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
"""The function that writes each format of ``export``: gets the path, the content (the segmented
slide) and the record."""

BEGINNINGS: dict[bytes, Callable[[Path], Any]] = {
    b"\x89PNG\r\n\x1a\n": read_png_record,
    b"\x1f\x8b": read_geojson_record,
    b"PAR1": read_parquet_record,
}
"""First bytes of PNG, gzip and Parquet files, and the function that reads the record of such a
file. For a file of another program these functions raise one of ``FOREIGN``."""

FOREIGN = (
    *(OSError, ValueError, LookupError, TypeError, EOFError, ImportError),
    *(struct.error, zlib.error),
)
"""Errors of reading a record from a file of another program."""


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
    """Return the record of a file or folder that histosynth wrote, or None for any other."""
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
