"""Labels in Zarr folders of other programs: OME-Zarr 0.4 and 0.5, and plain arrays of integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histocli.annotations.labels import Labels, OpenLabels, checked_ids
from histocli.base.errors import InvalidInput
from histocli.base.text import first_line
from histocli.base.units import sane_mpp
from histocli.slides.zarr import ome_attributes

UM_PER_UNIT = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


@dataclass(frozen=True)
class ZarrLabels:
    """An array of labels, which is not read yet."""

    array: zarr.Array[Any]
    """(..., H, W), where all axes but the last two have length 1."""
    mpp: float | None

    def open(self, source: str) -> OpenLabels:
        """Make the labels ready to be read; messages name them ``source``."""
        array = self.array

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

        height, width = (int(side) for side in array.shape[-2:])
        return OpenLabels(source=source, shape=(height, width), read=read, mpp=self.mpp)


def find_ngff_labels(path: Path) -> ZarrLabels:
    """Find the labels of a Zarr folder: the only ones under ``labels``, or the folder's own image.

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
        return ZarrLabels(_checked(node, path), None)
    if "labels" in node:
        return find_ngff_labels(path / "labels" / _only_name(node["labels"], path))
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
    return ZarrLabels(_checked(array, path), _mpp_of(scale, dataset))


def _only_name(folder: Any, path: Path) -> str:
    """Return the name of the only label image in the group ``labels`` of an OME-Zarr."""
    assert isinstance(folder, zarr.Group)
    listed = ome_attributes(folder).get("labels")
    if isinstance(listed, list):
        names = [name for name in listed if isinstance(name, str)]
    else:
        names = sorted(folder.group_keys())
    if len(names) != 1:
        shown = ", ".join(str(path / "labels" / name) for name in names) or "none"
        raise InvalidInput(f"{path}: holds {len(names)} label images ({shown}); name one of them")
    return names[0]


def _checked(array: zarr.Array[Any], path: Path) -> zarr.Array[Any]:
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
    return array


def _mpp_of(scale: Mapping[str, Any], dataset: Mapping[str, Any]) -> float | None:
    """Return the micrometres per pixel of the first level, where they are given."""
    try:
        unit = UM_PER_UNIT[scale["axes"][-1]["unit"]]
        factors = [
            part["scale"][-1]
            for part in dataset["coordinateTransformations"]
            if part["type"] == "scale"
        ]
        return sane_mpp(factors[0] * unit)
    except (KeyError, IndexError, TypeError):
        return None
