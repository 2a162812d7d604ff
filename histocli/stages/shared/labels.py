"""Label images that a user names: files of other programs, and this program's own stores."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.annotations.labels import OpenLabels
from histocli.annotations.sources import LabelFinder, LabelSource, Probabilities, label_stem
from histocli.exports.registry import read_record
from histocli.stores.labels import LabelStore, open_labels
from histocli.stores.patches import PatchStore
from histocli.stores.provenance import peek


def _own_store(path: Path, prefix: str) -> list[LabelSource] | None:
    """Return the label images of a label store or patch store; None for any other folder."""
    known = peek(path)
    if known is None:
        return None
    is_patches = known.contract_name == "histosynth-patches"
    store = PatchStore.open(path) if is_patches else open_labels(path)
    if isinstance(store, LabelStore) and store.layout == "slide":
        name, source, probabilities = label_stem(path), str(path), partial(_probabilities, store)
        shape, read, mpp = store.shape, store.window, store.mpp
        opened = partial(OpenLabels, source=source, shape=shape, read=read, mpp=mpp)
        return [LabelSource(name=name, source=source, open=opened, probabilities=probabilities)]
    return [
        LabelSource(
            name=f"{prefix}{i:06d}",
            source=f"{path}, patch {i}",
            open=partial(_open_patch, store, i),
            image=partial(_read, store, i, 0) if isinstance(store, PatchStore) else None,
        )
        for i in range(len(store))
    ]


def _read(store: PatchStore, index: int, which: int) -> npt.NDArray[Any]:
    """Read the image (0) or the labels (1) of a patch."""
    return np.asarray(store.read(range(index, index + 1))[which][0])


def _open_patch(store: PatchStore | LabelStore, index: int) -> OpenLabels:
    labels = store.label_image(index) if isinstance(store, LabelStore) else _read(store, index, 1)
    return OpenLabels.in_memory(labels, f"{store.path}, patch {index}", store.mpp)


def _probabilities(store: LabelStore) -> Probabilities | None:
    table = store.table
    if "probability" not in table:
        return None
    return table["id"].astype(np.int64), table["probability"].astype(np.float64)


def _recorded_mpp(path: Path) -> float | None:
    mpp = (read_record(path) or {}).get("mpp")
    return mpp if isinstance(mpp, int | float) else None


LABEL_FINDER = LabelFinder(own_store=_own_store, recorded_mpp=_recorded_mpp)
