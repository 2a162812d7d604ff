"""The table of the nuclei of a slide, an array for each column, written in chunks of rows."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr

from histocli.stores.labels.layout import make_array

CHUNK_ROWS = 1 << 16  # rows in a file

NamedArrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

COLUMN_TYPES = {
    "id": "uint32",
    "y_px": "float64",
    "x_px": "float64",
    "y_um": "float64",
    "x_um": "float64",
    "box": "int32",
}
"""Columns that are not float32; about seven digits are enough for the other measurements."""
REQUIRED_COLUMNS = ("id", "y_um", "x_um", "box", "area_um2")


class TableWriter:
    """Writes a table of ``n_nuclei`` rows, some rows at a time, in the order of ids.

    ``columns`` gives the names of the columns and the shape of a row, and may have no rows.
    """

    def __init__(self, group: zarr.Group, n_nuclei: int, columns: NamedArrays) -> None:
        self.n_nuclei = n_nuclei
        self._waiting: list[NamedArrays] = []
        self.n_written = 0
        self._columns = {}
        for name, column in columns.items():
            shape = (n_nuclei, *np.asarray(column).shape[1:])
            self._columns[name] = make_array(
                group,
                name,
                shape,
                COLUMN_TYPES.get(name, "float32"),
                axes=("nucleus", "edge")[: len(shape)],
                chunks=(max(1, min(n_nuclei, CHUNK_ROWS)), *shape[1:]),
            )

    def append(self, columns: NamedArrays) -> None:
        """Append rows. They are written in whole chunks; the rest waits in memory."""
        self._waiting.append({name: np.asarray(column) for name, column in columns.items()})
        n = sum(len(rows["id"]) for rows in self._waiting)
        is_end = self.n_written + n == self.n_nuclei
        if n < CHUNK_ROWS and not is_end:
            return
        rows = {
            name: np.concatenate([part[name] for part in self._waiting]) for name in self._columns
        }
        whole = n if is_end else n // CHUNK_ROWS * CHUNK_ROWS
        if whole:
            where = slice(self.n_written, self.n_written + whole)
            for name, array in self._columns.items():
                array[where] = rows[name][:whole].astype(array.dtype)
        self.n_written += whole
        rest = {name: column[whole:] for name, column in rows.items()}
        self._waiting = [rest] if whole < n else []
