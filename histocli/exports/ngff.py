"""OME-Zarr 0.4 (Zarr format 2), for programs that cannot read OME-Zarr 0.5.

The record of how the folder was made is the attribute ``histosynth`` of its root.
"""

import shutil
from pathlib import Path

import zarr

from histocli.base.files import disk_errors, partial_path
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json
from histocli.exports.content import Content

VALUES_AT_ONCE = 1 << 24  # most pixels of a plane that are held in memory


def write_ngff_04(path: Path, content: Content, record: Json) -> None:
    """Copy the OME-Zarr 0.5 image and its labels as 0.4; a folder at ``path`` is replaced.

    Format 2 has no shards, so each chunk is a file. Whole rows of chunks are copied at a time.
    """
    source = zarr.open_group(content.nuclei.path, mode="r", zarr_format=3, use_consolidated=False)
    partial = partial_path(path)
    with disk_errors(path):
        if partial.exists():
            shutil.rmtree(partial)
        root = zarr.create_group(partial, zarr_format=2, attributes=_attributes_04(source))
        _copy_levels(source, root)
        ome = source["labels"].attrs["ome"]
        names = list(ome["labels"])  # type: ignore[index, call-overload, arg-type]
        folder = root.create_group("labels", attributes={"labels": names})
        for name in names:
            nuclei = source[f"labels/{name}"]
            assert isinstance(nuclei, zarr.Group)
            _copy_levels(nuclei, folder.create_group(str(name), attributes=_attributes_04(nuclei)))
        root.attrs[ATTRIBUTE] = record
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)


def _attributes_04(group: zarr.Group) -> Json:
    """Return the attributes of an OME-Zarr 0.5 group in the form of version 0.4."""
    ome = group.attrs["ome"]
    assert isinstance(ome, dict)
    values: Json = {
        key: value for key, value in ome.items() if key not in ("version", "image-label")
    }
    values["multiscales"] = [dict(image) | {"version": "0.4"} for image in values["multiscales"]]
    if "image-label" in ome:
        values["image-label"] = dict(ome["image-label"]) | {"version": "0.4"}
    return values


def _copy_levels(source: zarr.Group, target: zarr.Group) -> None:
    multiscales = source.attrs["ome"]["multiscales"]  # type: ignore[index, call-overload]
    for dataset in multiscales[0]["datasets"]:  # type: ignore[index, call-overload, union-attr]
        array = source[dataset["path"]]  # type: ignore[index, call-overload]
        assert isinstance(array, zarr.Array)
        copy = target.create_array(
            dataset["path"],  # type: ignore[index, call-overload, arg-type]
            shape=array.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        chunk_rows = array.chunks[-2]
        step = max(1, VALUES_AT_ONCE // max(1, array.shape[-1]) // chunk_rows) * chunk_rows
        for top in range(0, array.shape[-2], step):
            where = (..., slice(top, top + step), slice(None))
            copy[where] = array[where]
