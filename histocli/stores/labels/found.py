"""What was found in the windows of a slide so far, in the folder ``work`` of a partial store.

Each window has a file of named arrays of each kind (what was found, what is left of that beside the
neighbours, ...). A file is whole or not there, whoever writes it and however often.
"""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WORK = "work"


def has_found(work: Path, window: int) -> bool:
    """Tell whether what was found in a window is kept, and whole."""
    return zipfile.is_zipfile(_path(work, window, "found"))  # the end of a zip is written last


def save_found(
    work: Path, window: int, arrays: Mapping[str, npt.NDArray[Any]], kind: str = "found"
) -> None:
    """Keep what was found in a window; several threads and processes may save at a time."""
    path = _path(work, window, kind)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_found(work: Path, window: int, kind: str = "found") -> dict[str, npt.NDArray[Any]]:
    """Return what was found in a window."""
    with np.load(_path(work, window, kind), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _path(work: Path, window: int, kind: str) -> Path:
    # folders of a thousand files: no file system is slow with those
    return work / f"{kind}{window // 1000:05d}" / f"{window}.npz"
