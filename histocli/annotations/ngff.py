"""Labels in Zarr folders of other programs: OME-Zarr 0.4 and 0.5, and plain arrays of integers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histocli.annotations.labels import Labels, OpenLabels, checked_ids
from histocli.base.errors import InvalidInput
from histocli.base.text import first_line
from histocli.base.units import sane_mpp
from histocli.slides.zarr import ome_attributes


def open_ngff_labels(path: Path, source: str) -> OpenLabels:
    """Open the only label image under ``labels`` of a Zarr folder, or else the folder's own image.

    Pixels are not read yet; error messages about pixels name ``source``.

    Raises
    ------
    InvalidInput
        The folder is damaged, holds no labels, or holds several label images.
    """
    try:
        node = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"{path}: cannot be opened as Zarr ({first_line(error)}); is it damaged?"
        ) from error
    if isinstance(node, zarr.Array):
        return _opened(node, path, source, None)
    if "labels" in node:
        return open_ngff_labels(path / "labels" / _only_name(node["labels"], path), source)
    try:
        scale = ome_attributes(node)["multiscales"][0]
        dataset = scale["datasets"][0]
        array = node[dataset["path"]]
    except (KeyError, IndexError, TypeError):
        raise InvalidInput(
            f"{path}: is neither a store of this program nor an OME-Zarr with labels; "
            "labels lie under labels/<name>"
        ) from None
    if not isinstance(array, zarr.Array):
        raise InvalidInput(f"{path}: {dataset['path']} is no array")
    return _opened(array, path, source, _mpp_of(scale, dataset))


def _only_name(folder: Any, path: Path) -> str:
    """Return the name of the only label image in the group ``labels`` of an OME-Zarr."""
    listed = ome_attributes(folder).get("labels")
    if isinstance(listed, list):
        names = [name for name in listed if isinstance(name, str)]
    else:
        names = sorted(folder.group_keys())
    if len(names) != 1:
        shown = ", ".join(str(path / "labels" / name) for name in names) or "none"
        raise InvalidInput(f"{path}: holds {len(names)} label images ({shown}); name one of them")
    return names[0]


def _opened(array: zarr.Array[Any], path: Path, source: str, mpp: float | None) -> OpenLabels:
    if array.dtype.kind not in "iub":
        raise InvalidInput(
            f"{path}: labels must be integers, got {array.dtype}; "
            "is it a probability map or a picture?"
        )
    if array.ndim < 2 or any(side != 1 for side in array.shape[:-2]):
        raise InvalidInput(
            f"{path}: a label image has one integer a pixel, this has shape {array.shape}; "
            "is it a picture?"
        )

    def read(rows: slice, columns: slice) -> Labels:
        where: tuple[int | slice, ...] = (*(0,) * (array.ndim - 2), rows, columns)
        try:
            values = np.asarray(array[where])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InvalidInput(
                f"{source}: a chunk of {array.path} cannot be read ({first_line(error)}); "
                "is it damaged?"
            ) from error
        return checked_ids(values, source)

    height, width = map(int, array.shape[-2:])
    return OpenLabels(source=source, shape=(height, width), read=read, mpp=mpp)


def _mpp_of(scale: Mapping[str, Any], dataset: Mapping[str, Any]) -> float | None:
    """Return the micrometres per pixel of the first level, where they are given."""
    um_per_unit = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}
    try:
        unit = um_per_unit[scale["axes"][-1]["unit"]]
        changes = dataset["coordinateTransformations"]
        factors = [part["scale"][-1] for part in changes if part["type"] == "scale"]
        return sane_mpp(factors[0] * unit)
    except (KeyError, IndexError, TypeError):
        return None
