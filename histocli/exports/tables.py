"""Tables of nuclei: CSV, and Parquet with an optional package.

The record of how a table was made is a JSON object: in Parquet the key ``histosynth`` of the schema
metadata; for CSV, which has no metadata, the file ``.<stem>.csv.histosynth.json`` beside the table.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json
from histocli.exports.content import Content

ROWS_AT_ONCE = 1 << 16  # rows held in memory, and rows of a row group of Parquet
LEADING = ("id", "y_px", "x_px", "y_um", "x_um", "box", "area_um2")  # others are sorted by name


def flat_columns(columns: Mapping[str, Any], rows: slice) -> dict[str, npt.NDArray[Any]]:
    """Return rows of a table, the columns of ``LEADING`` first and ``box`` as four columns."""
    flat: dict[str, npt.NDArray[Any]] = {}
    leading = [name for name in LEADING if name in columns]
    for name in [*leading, *sorted(set(columns).difference(leading))]:
        values = np.asarray(columns[name][rows])
        if name == "box":
            flat |= {f"box_{side}": values[:, i] for i, side in enumerate(("y0", "x0", "y1", "x1"))}
        else:
            flat[name] = values
    return flat


def _pieces(n: int) -> list[slice]:
    """Return slices of ``ROWS_AT_ONCE`` rows; one slice even if the table has no rows."""
    starts = range(0, max(n, 1), ROWS_AT_ONCE)
    return [slice(start, start + ROWS_AT_ONCE) for start in starts]


def write_csv(path: Path, content: Content, record: Json) -> None:
    """Write the table of nuclei as CSV, and its record into a file beside it."""
    with (
        replace_atomically(path) as partial,
        partial.open("w", encoding="ascii", newline="") as stream,
    ):
        for rows in _pieces(content.nuclei.n_nuclei):
            columns = flat_columns(content.nuclei.columns, rows)
            if rows.start == 0:
                csv.writer(stream).writerow(columns)
            text = [_as_text(values) for values in columns.values()]
            stream.writelines(",".join(row) + "\r\n" for row in zip(*text, strict=True))
    with replace_atomically(_beside(path)) as partial:
        partial.write_text(json.dumps({ATTRIBUTE: record}))


def _as_text(values: npt.NDArray[Any]) -> list[str]:
    """Return numbers as text: float64 (positions) with 3 decimals, float32 with 5 digits."""
    form = {"float64": "{:.3f}", "float32": "{:.5g}"}.get(str(values.dtype), "{}")
    return list(map(form.format, values.tolist()))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{ATTRIBUTE}.json")


def read_csv_record(path: Path) -> Any:
    """Return the record of a CSV file."""
    return json.loads(_beside(path).read_text())[ATTRIBUTE]


def write_parquet(path: Path, content: Content, record: Json) -> None:
    """Write the table of nuclei as Parquet, a row group at a time."""
    import pyarrow
    import pyarrow.parquet

    def table(rows: slice) -> Any:
        return pyarrow.table(flat_columns(content.nuclei.columns, rows))

    schema = table(slice(0, 0)).schema.with_metadata({ATTRIBUTE: json.dumps(record)})
    with (
        replace_atomically(path) as partial,
        pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for rows in _pieces(content.nuclei.n_nuclei):
            writer.write_table(table(rows).cast(schema))


def read_parquet_record(path: Path) -> Any:
    """Return the record of a Parquet file."""
    import pyarrow.parquet

    return json.loads(pyarrow.parquet.read_schema(path).metadata[ATTRIBUTE.encode()])
