"""Which function writes which format, and how a file of any format says how it was made."""

import importlib.util
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from histocli.base.errors import InvalidOption
from histocli.base.formats import FORMATS
from histocli.base.types import Json
from histocli.exports.content import Content
from histocli.exports.geojson import read_geojson_record, write_outlines
from histocli.exports.ngff import read_ngff_record, write_ngff_04
from histocli.exports.pictures import read_png_record, write_overlay, write_qc
from histocli.exports.tables import read_csv_record, read_parquet_record, write_csv, write_parquet
from histocli.exports.tiff import read_tiff_record, write_label_tiff


def _write_tiff(path: Path, content: Content, record: Json) -> None:
    labels = content.nuclei.level(0)
    if content.window is not None:
        labels = labels[content.window]
    write_label_tiff(path, labels, mpp=content.nuclei.mpp, record=record)


WRITERS: dict[str, Callable[[Path, Content, Json], None]] = {
    "ome-zarr-0.4": lambda path, content, record: write_ngff_04(path, content.nuclei.path, record),
    "tiff": _write_tiff,
    "geojson": lambda path, content, record: write_outlines(path, content.nuclei, record),
    "parquet": lambda path, content, record: write_parquet(path, content.nuclei, record),
    "csv": lambda path, content, record: write_csv(path, content.nuclei, record),
    "overlay": write_overlay,
    "qc": write_qc,
}
"""For each format of ``export`` the function that writes a file of it: its place, what it is made
of, and how it was made."""

BEGINNINGS: tuple[tuple[bytes, Callable[[Path], Json]], ...] = (
    (b"\x89PNG\r\n\x1a\n", read_png_record),
    (b"\x1f\x8b", read_geojson_record),
    (b"PAR1", read_parquet_record),
)
"""How files of some kinds begin, and what reads how they were made."""


FOREIGN = (struct.error, zlib.error)  # raised over files of other programs


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
            record = read_ngff_record(path)
        else:
            with path.open("rb") as file:
                start = file.read(8)
            readers = (reader for beginning, reader in BEGINNINGS if start.startswith(beginning))
            other = read_csv_record if path.suffix == FORMATS["csv"].suffix else read_tiff_record
            record = next(readers, other)(path)
    except (OSError, ValueError, LookupError, TypeError, EOFError, ImportError, *FOREIGN):
        return None
    return record if isinstance(record, dict) else None
