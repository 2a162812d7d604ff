"""Tables of nuclei: CSV, and Parquet with an optional package.

How a Parquet file was made is JSON under the key ``histosynth`` of the metadata of its schema. CSV
has no place for it, so it lies beside the table, in ``.<stem>.csv.histosynth.json``.
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

ROWS_AT_ONCE = 1 << 16  # rows in memory, and in a row group of Parquet
LEADING = ("id", "y_px", "x_px", "y_um", "x_um", "box", "area_um2")  # others follow by name


def flat_columns(columns: Mapping[str, Any], rows: slice) -> dict[str, npt.NDArray[Any]]:
    """Return some rows of a table with the box as four columns, ``id`` first."""
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
    """Return the rows of a table in pieces; one empty piece where there are none."""
    starts = range(0, max(n, 1), ROWS_AT_ONCE)
    return [slice(start, start + ROWS_AT_ONCE) for start in starts]


def write_csv(path: Path, content: Content, record: Json) -> None:
    """Write the table of nuclei as CSV, and how it was made into a file beside it."""
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
    """Write numbers, floats with the digits that a measurement has."""
    form = {"float64": "{:.3f}", "float32": "{:.5g}"}.get(str(values.dtype), "{}")
    return list(map(form.format, values.tolist()))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{ATTRIBUTE}.json")


def read_csv_record(path: Path) -> Any:
    """Return how a CSV file was made."""
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
    """Return how a Parquet file was made."""
    import pyarrow.parquet

    return json.loads(pyarrow.parquet.read_schema(path).metadata[ATTRIBUTE.encode()])
