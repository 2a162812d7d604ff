"""Arrays that workers of one command share through files: one writes them, all memory-map them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import Json

ABOUT = "about.json"
MAP_FROM_BYTES = 1 << 16  # smaller files are read whole: mapping them would take longer


def save_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], about: Json) -> None:
    """Write named arrays and a JSON object into a new folder."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / ABOUT).write_text(json.dumps(about))


def load_arrays(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], Json]:
    """Return the arrays and the JSON object of a folder; large arrays are memory-mapped."""
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        mapped = path.stat().st_size >= MAP_FROM_BYTES
        arrays[path.stem] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    about: Json = json.loads((folder / ABOUT).read_text())
    return arrays, about
