"""Checks of the rules of a patch store, listed in :mod:`histocli.stores.patches`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.errors import InvalidStore
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import FloatArray, InstanceLabels, Json
from histocli.base.units import MPP_RANGE
from histocli.stores.arrays import count_files, find_array
from histocli.stores.patches.layout import ARRAYS, NETWORKS, ORIGINS, ReferenceRecord, are_weights
from histocli.stores.provenance import DAMAGED


def check_store(path: Path, group: zarr.Group, attributes: Json) -> dict[str, zarr.Array[Any]]:
    """Check metadata, attributes and file counts, without reading values; return the arrays."""
    arrays = _checked_arrays(path, group)
    _check_agreement(path, arrays)
    _check_attributes(path, attributes)
    _check_files(path, attributes)
    return arrays


def _checked_arrays(path: Path, group: zarr.Group) -> dict[str, zarr.Array[Any]]:
    """Return the arrays; each must exist with its type and number of axes."""
    arrays = {}
    for name, (dtype, axes) in ARRAYS.items():
        array = find_array(group, name)
        if array is None:
            raise InvalidStore(
                f"{path}: array {name} is missing or its metadata is damaged; {DAMAGED}"
            )
        if array.dtype != dtype or array.ndim != len(axes):
            raise InvalidStore(
                f"{path}: {name} is {array.dtype} with {array.ndim} axes, "
                f"but must be {dtype} ({', '.join(axes)}); {DAMAGED}"
            )
        arrays[name] = array
    return arrays


def _check_agreement(path: Path, arrays: Mapping[str, zarr.Array[Any]]) -> None:
    """Check that there are square RGB patches, and one item per patch in every array."""
    image = arrays["image"].shape
    n, height, width, channels = image
    if n < 1 or height != width or channels != 3:
        raise InvalidStore(
            f"{path}: image has shape {image}, but must be (patch, y, x, 3) with y = x and at "
            f"least one patch; {DAMAGED}"
        )
    expected = {"instance_labels": (n, height, width), "weight": (n,), "reference": (n,)}
    for name, shape in expected.items():
        found = arrays[name].shape
        if found != shape:
            raise InvalidStore(
                f"{path}: {name} has shape {found} but image has {image}; "
                f"patches must agree; {DAMAGED}"
            )


def _check_attributes(path: Path, attributes: Json) -> None:
    """Check ``mpp`` (a pixel size), ``origin`` (one of ``ORIGINS``) and ``shippable`` (bool)."""
    mpp, origin, shippable = (attributes.get(name) for name in ("mpp", "origin", "shippable"))
    if (
        isinstance(mpp, bool)
        or not isinstance(mpp, (int, float))
        or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]
    ):
        raise InvalidStore(
            f"{path}: attribute mpp must lie between {MPP_RANGE[0]} and {MPP_RANGE[1]} micrometres "
            f"per pixel, got {mpp!r}; {DAMAGED}"
        )
    if origin not in ORIGINS:
        raise InvalidStore(
            f"{path}: attribute origin must be one of {', '.join(ORIGINS)}, "
            f"got {origin!r}; {DAMAGED}"
        )
    if not isinstance(shippable, bool):
        raise InvalidStore(
            f"{path}: attribute shippable must be true or false, got {shippable!r}; {DAMAGED}"
        )


def _check_files(path: Path, attributes: Json) -> None:
    """Check that no file of an array is missing or cut short: Zarr reads a missing one as 0."""
    recorded = attributes[ATTRIBUTE].get("files")
    if not isinstance(recorded, dict):
        raise InvalidStore(f"{path}: {ATTRIBUTE}.files is missing; {DAMAGED}")
    for name in [*ARRAYS, *(name for name in recorded if name.startswith(f"{NETWORKS}/"))]:
        found = count_files(path / name)
        if found != recorded.get(name):
            expected = recorded.get(name) or [0, 0]
            raise InvalidStore(
                f"{path}: {name} has {found[0]} files of {found[1]} bytes, but {expected[0]} of "
                f"{expected[1]} were written; copy the store again, or make it again with "
                "--overwrite"
            )


def checked_references(path: Path, attributes: Json) -> list[ReferenceRecord]:
    """Return the records of the attribute ``references``, which must have at least one."""
    values = attributes.get("references")
    if not isinstance(values, list) or not values:
        raise InvalidStore(
            f"{path}: attribute references must be a list with at least one item; {DAMAGED}"
        )
    return [ReferenceRecord.from_json(value, path) for value in values]


def check_values(
    path: Path,
    weight: FloatArray,
    reference: npt.NDArray[np.int32],
    marks: npt.NDArray[np.uint8],
    n_references: int,
) -> None:
    """Check weights and indices of references, and that the marks of all batches are set."""
    try:
        _check_drawing(weight, reference, n_references)
    except ValueError as error:
        raise InvalidStore(f"{path}: {error}; {DAMAGED}") from None
    if not marks.all():
        raise InvalidStore(
            f"{path}: {int((marks == 0).sum())} of {marks.size} batches were never written; "
            f"{DAMAGED}"
        )


def check_batch(
    batch: range, values: Mapping[str, npt.NDArray[Any]], patch_px: int, n_references: int
) -> None:
    """Raise ``ValueError`` where the arrays of a batch break the contract."""
    shapes = {"image": (patch_px, patch_px, 3), "instance_labels": (patch_px, patch_px)}
    for name, value in values.items():
        dtype, expected = ARRAYS[name][0], (len(batch), *shapes.get(name, ()))
        if value.shape != expected or value.dtype != dtype:
            raise ValueError(f"{name} must be {dtype} {expected}, got {value.dtype} {value.shape}")
    for index, labels in zip(batch, values["instance_labels"], strict=True):
        check_ids(labels, f"patch {index}")
    _check_drawing(values["weight"], values["reference"], n_references)


def _check_drawing(weight: FloatArray, reference: npt.NDArray[np.int32], n_references: int) -> None:
    if not are_weights(weight):
        raise ValueError("weight must be finite and not negative")
    if not ((reference >= 0) & (reference < n_references)).all():
        raise ValueError(f"reference must index the {n_references} items of references")


def check_ids(instance_labels: InstanceLabels, where: str) -> None:
    """Raise ``ValueError`` unless a patch has ids 1..n without gaps, beside 0 and -1."""
    if int(instance_labels.min()) < -1:
        raise ValueError(
            f"{where}: instance_labels must be -1 or larger, got {instance_labels.min()}"
        )
    top = int(instance_labels.max())
    if top > 0 and not (
        top <= instance_labels.size and np.bincount(instance_labels[instance_labels > 0])[1:].all()
    ):
        raise ValueError(
            f"{where}: ids of instance_labels must be 1..n without gaps, but the largest is {top} "
            "and some are missing"
        )
