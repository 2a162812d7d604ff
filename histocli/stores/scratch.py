"""Arrays in a scratch folder of one command: written by one worker, memory-mapped by all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.types import Json

ABOUT = "about.json"
MAP_FROM_BYTES = 1 << 16  # smaller arrays are read at once: a mapping costs more


def save_arrays(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], about: Json) -> None:
    """Write named arrays and a JSON object into a new folder."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / ABOUT).write_text(json.dumps(about))


def load_arrays(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], Json]:
    """Open what ``save_arrays`` wrote; large arrays stay on disk until they are used."""
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        mapped = path.stat().st_size >= MAP_FROM_BYTES
        arrays[path.stem] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    about: Json = json.loads((folder / ABOUT).read_text())
    return arrays, about
