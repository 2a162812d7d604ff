"""Label store: the nuclei of one slide, as an OME-Zarr 0.5 image of the slide with labels that lie over it.

``histosynth-labels/1``, layout ``slide``::

    slide.ome.zarr
    ├── 0, 1, ...           uint8    (c, y, x)      overview of the slide in RGB, at most 8 um per pixel
    ├── labels
    │   └── nuclei
    │       └── 0, 1, ...   uint32   (y, x)         0 = background, k = nucleus k; level 0 has the slide's own pixels, the others
    │                                               show the nearest of them (never a mean)
    ├── tables
    │   └── nuclei                                  a row per nucleus, in the order of ids
    │       ├── id          uint32   (nucleus,)     1..n in the order of anchors, y then x
    │       ├── y_um, x_um  float64  (nucleus,)     centroid
    │       ├── box         int32    (nucleus, 4)   y0, x0, y1, x1, half open, in the slide's pixels
    │       ├── area_um2    float32  (nucleus,)
    │       └── ...         float32  (nucleus,)     probability, elongation, orientation_rad, major_um, minor_um
    ├── tissue              uint8    (y, x)         1 where nuclei were looked for; on the grid of the finest overview
    ├── tiles_done          uint8    (y, x)         1 once that shard of ``labels/nuclei/0`` is on disk
    └── attributes          ome          OME-Zarr 0.5 metadata
                            histosynth   {contract, command, config, config_hash, ..., complete, layout, mpp, mpp_source, shape,
                                          n_nuclei, mm2, source: {name, sha256}, model: {name, sha256},
                                          files: {<array>: [number of files, bytes]}}

Micrometres count from the centre of the slide's first pixel, in every scale and translation and in the table: so slide,
overview, labels and table lie over each other in viewers, which put the centre of a pixel at its coordinate. A coarser pixel is a
block of fine ones, whose centre a translation tells. Other tools may add labels and tables of their own.

Layout ``patches``, for the patches of a patch store::

    patches.labels.zarr
    ├── instance_labels     uint32   (patch, y, x)  per patch 0 = background, 1..n in the order of anchors
    ├── n_nuclei            uint32   (patch,)
    ├── batches_done        uint8    (batch,)       1 once that shard of ``instance_labels`` is on disk
    └── attributes          histosynth   as above, with layout, mpp, source and model

A slide in memory is quickly begun anew, so its unfinished store is not continued; one of patches is.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.errors import InvalidStore
from histocli.base.types import Json, RGBImage
from histocli.stores import provenance as records
from histocli.stores.provenance import DAMAGED, OutputLock, Provenance, disk_errors, one_line

CONTRACT = "histosynth-labels/1"
LAYOUTS = ("slide", "patches")
LABEL_NAME = "nuclei"
OVERVIEW_MPP = 8.0  # coarsest finest level of the overview, in um/px
OVERVIEW_PX = 1024  # an overview's longer side is not made smaller than this
SMALLEST_LEVEL_PX = 256  # no further level below
CHUNK_PX = 512
SHARD_PX = 2048
SHARD_PATCHES = 32
COMPRESSOR = ZstdCodec(level=3)
OME_VERSION = "0.5"

TableColumns = Mapping[str, npt.NDArray[Any]]
COLUMN_TYPES = {"id": "uint32", "y_um": "float64", "x_um": "float64", "box": "int32"}
"""What the others are, float32, is enough for a measurement."""
REQUIRED_COLUMNS = ("id", "y_um", "x_um", "box", "area_um2")


def overview_factor(shape: tuple[int, int], mpp: float) -> int:
    """Return how many slide pixels go along one side of an overview pixel.

    The largest power of two that keeps the overview at ``OVERVIEW_MPP`` or finer and its longer side at ``OVERVIEW_PX`` or more.
    """
    factor = 1
    while 2 * factor * mpp <= OVERVIEW_MPP and max(shape) >= 2 * factor * OVERVIEW_PX:
        factor *= 2
    return factor


def shrink(image: RGBImage, factor: int) -> RGBImage:
    """Average blocks of ``factor`` by ``factor`` pixels; the last ones are filled up with the border pixel.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)

    Returns
    -------
    ndarray of uint8, shape (ceil(H / factor), ceil(W / factor), 3)
    """
    if factor == 1:
        return image
    down, right = (-side % factor for side in image.shape[:2])
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def nearest_level(labels: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    """Take the pixel nearest to the centre of each block of ``factor`` pixels, shape (ceil(H / factor), ceil(W / factor))."""
    for axis in (0, 1):
        side = labels.shape[axis]
        picked = labels[(slice(None),) * axis + (slice(factor // 2, None, factor),)]
        if picked.shape[axis] * factor < side:  # the last block is cut before its centre: its last pixel
            picked = np.concatenate([picked, np.take(labels, [side - 1], axis=axis)], axis=axis)
        labels = picked
    return np.ascontiguousarray(labels)


class SlideLabelsWriter:
    """Writes the label store of one slide; use as a context manager::

        with SlideLabelsWriter(target, image=pixels, ...) as writer:  # writes the overview
            writer.write(labels, measure_them)
            writer.finish()

    Leaving the context without :meth:`finish` removes the work again: a slide in memory is quickly begun anew.
    """

    def __init__(
        self,
        target: Path,
        *,
        image: RGBImage,
        mpp: float,
        mpp_source: str,
        source: Json,
        model: Json,
        provenance: Provenance,
        tissue: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Make the store beside its place and write what does not need the labels.

        Call :func:`histocli.stores.provenance.prepare_output` before.

        Parameters
        ----------
        target : Path
            Where the store will be, ``<stem>.ome.zarr``.
        image : ndarray of uint8, shape (H, W, 3)
            The slide at full resolution.
        mpp, mpp_source : float, str
            Micrometres per pixel of the slide, and where they come from.
        source, model : dict
            Name and content hash of the slide and of the model file.
        provenance : Provenance
            Its contract must be :data:`CONTRACT`.
        tissue : ndarray of bool, shape of the finest overview, optional
            Where nuclei were looked for; everywhere by default.

        Raises
        ------
        StoreExists
            Another process writes the same output.
        OutOfResources
            The disk is full or the place cannot be written.
        """
        assert provenance.contract == CONTRACT, provenance.contract
        self.target = target
        self._partial = records.partial_path(target)
        self._shape = height, width = image.shape[0], image.shape[1]
        self._mpp = mpp
        self._lock = OutputLock(target)
        factor = overview_factor(self._shape, mpp)
        try:
            with disk_errors(target):
                records.remove_ours(self._partial, CONTRACT)
                overview = shrink(image, factor)
                tissue = np.ones(overview.shape[:2], bool) if tissue is None else tissue
                levels = _factors(self._shape)
                facts = {
                    "layout": "slide",
                    "mpp": mpp,
                    "mpp_source": mpp_source,
                    "shape": [height, width],
                    "mm2": float(tissue.mean()) * height * width * mpp * mpp / 1e6,
                    "source": source,
                    "model": model,
                }
                attributes = {
                    records.ATTRIBUTE: provenance.to_json() | facts,
                    "ome": {
                        "version": OME_VERSION,
                        "multiscales": [_multiscale(target.name, "cyx", [factor * level for level in levels], mpp)],
                        "omero": _colours(),
                    },
                }
                self._root = zarr.create_group(self._partial, zarr_format=3, attributes=attributes)
                for number, level in enumerate(levels):
                    planes = np.ascontiguousarray(np.moveaxis(shrink(overview, level), 2, 0))
                    _write(self._root, str(number), planes, "cyx")
                _write(self._root, "tissue", tissue.astype(np.uint8), "yx")
        except BaseException:
            self.close()
            raise

    def write(self, labels: npt.NDArray[np.integer[Any]], table: Callable[[], TableColumns]) -> None:
        """Write the labels and, measured at the same time, their table.

        Parameters
        ----------
        labels : ndarray of int, shape (H, W)
            0 = background, 1..n without gaps.
        table : callable
            Returns the columns of the layout above, n rows; called in another thread.
        """
        assert labels.shape == self._shape, (labels.shape, self._shape)
        with ThreadPoolExecutor(1) as measuring, disk_errors(self.target):
            measured = measuring.submit(table)
            _write_pyramid(self._root, labels.astype(np.uint32, copy=False), self._mpp)
            columns = measured.result()
            n_nuclei = len(columns["id"])
            assert set(REQUIRED_COLUMNS) <= set(columns), sorted(columns)
            assert all(len(column) == n_nuclei for column in columns.values())
            rows = self._root.create_group("tables").create_group(LABEL_NAME)
            for name, column in columns.items():
                values = np.asarray(column).astype(COLUMN_TYPES.get(name, "float32"))
                _write(rows, name, values, ("nucleus", "edge")[: values.ndim])
            records.update_attribute(self._partial, {"n_nuclei": n_nuclei})

    def finish(self) -> None:
        """Mark the store complete and put it in its place.

        Raises
        ------
        StoreExists
            Something else has taken its place.
        OutOfResources
            The disk is full.
        """
        with disk_errors(self.target):
            _finish(self._partial, self.target)

    def close(self) -> None:
        """Let go of the output, and remove it if it is not finished."""
        try:
            if records.peek(self._partial) is not None:
                records.remove_ours(self._partial, CONTRACT)
        finally:
            self._lock.release()

    def __enter__(self) -> SlideLabelsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PatchLabelsWriter:
    """Writes the labels of a patch store's patches, a shard-aligned batch at a time; use as a context manager.

    Leaving the context without :meth:`finish` keeps the partial store, and a later run goes on with it.
    """

    def __init__(
        self, target: Path, *, n: int, shape: tuple[int, int], mpp: float, source: Json, model: Json, provenance: Provenance
    ):
        """Make all metadata, or take up the partial store of the same settings.

        Parameters
        ----------
        target : Path
            Where the store will be.
        n : int
            Number of patches, >= 1.
        shape : (int, int)
            Height and width of a patch.
        mpp : float
            Micrometres per pixel of the patches.
        source, model : dict
            Name and content hash of the patch store and of the model file.
        provenance : Provenance
            Its contract must be :data:`CONTRACT`.
        """
        assert provenance.contract == CONTRACT, provenance.contract
        self.target = target
        self._partial = records.partial_path(target)
        self._marks_lock = threading.Lock()
        self._lock = OutputLock(target)
        try:
            with disk_errors(target):
                found = records.peek(self._partial)
                if found is not None and (found.contract, found.config_hash) == (CONTRACT, provenance.config_hash):
                    root = zarr.open_group(self._partial, mode="r+", zarr_format=3, use_consolidated=False)
                else:
                    records.remove_ours(self._partial, CONTRACT)
                    facts = {"layout": "patches", "mpp": mpp, "source": source, "model": model}
                    attributes = {records.ATTRIBUTE: provenance.to_json() | facts}
                    root = zarr.create_group(self._partial, zarr_format=3, attributes=attributes)
                side = min(n, SHARD_PATCHES)
                side, batches = min(n, SHARD_PATCHES), -(-n // SHARD_PATCHES)
                self._labels = _create(
                    root,
                    "instance_labels",
                    shape=(n, *shape),
                    dtype="uint32",
                    axes=("patch", "y", "x"),
                    chunks=(1, *shape),
                    shards=(side, *shape),
                )
                self._counts = _create(root, "n_nuclei", shape=(n,), dtype="uint32", axes=("patch",), chunks=(n,))
                self._done = _create(root, "batches_done", shape=(batches,), dtype="uint8", axes=("batch",), chunks=(batches,))
        except BaseException:
            self._lock.release()
            raise
        self._n = n

    def pending(self) -> list[range]:
        """Return the batches that are not on disk yet."""
        marks = np.asarray(self._done[:])
        starts = np.flatnonzero(marks == 0) * SHARD_PATCHES
        return [range(int(start), min(int(start) + SHARD_PATCHES, self._n)) for start in starts]

    def write(self, batch: range, labels: npt.NDArray[np.integer[Any]]) -> None:
        """Write one of :meth:`pending`; several threads may write different ones at a time.

        Parameters
        ----------
        batch : range
        labels : ndarray of int, shape (len(batch), H, W)
            In each patch 0 = background, 1..n.
        """
        assert batch.start % SHARD_PATCHES == 0, batch
        assert len(labels) == len(batch), (labels.shape, batch)
        with disk_errors(self.target):
            self._labels[batch.start : batch.stop] = labels.astype(np.uint32, copy=False)
            with self._marks_lock:  # these arrays are one chunk each
                self._counts[batch.start : batch.stop] = labels.max(axis=(1, 2)).astype(np.uint32)
                self._done[batch.start // SHARD_PATCHES] = 1

    def finish(self) -> int:
        """Mark the store complete, put it in its place and return the number of nuclei in all patches."""
        assert not self.pending(), self.pending()
        total = int(np.asarray(self._counts[:]).sum())
        with disk_errors(self.target):
            records.update_attribute(self._partial, {"n_nuclei": total})
            _finish(self._partial, self.target)
        self._lock.release()
        return total

    def close(self) -> None:
        """Let go of the output; a partial store stays for the next run."""
        self._lock.release()

    def __enter__(self) -> PatchLabelsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class LabelStore:
    """A complete label store of either layout, opened for reading and checked.

    Attributes
    ----------
    path : Path
    layout : {"slide", "patches"}
    provenance : Provenance
    mpp : float
        Micrometres per pixel of level 0.
    n_nuclei : int
        In all.
    facts : dict
        What the store says about itself under ``histosynth`` (mpp_source, mm2, source, model, ...).
    """

    def __init__(self, path: Path, group: zarr.Group, provenance: Provenance) -> None:
        """Use :func:`open_labels`."""
        self.path = path
        self.provenance = provenance
        facts = group.attrs[records.ATTRIBUTE]
        assert isinstance(facts, dict)
        self.facts: Json = facts
        self.layout = _checked_layout(path, self.facts)
        self.mpp = _checked_mpp(path, self.facts)
        _check_files(path, self.facts)
        self._group = group
        self._levels = self._find_levels()
        self.n_nuclei = self._checked_count()

    def __len__(self) -> int:
        """Number of label images: 1 for a slide, the number of patches otherwise."""
        return 1 if self.layout == "slide" else int(self._levels[0].shape[0])

    @property
    def n_levels(self) -> int:
        """Number of resolutions; patches have one."""
        return len(self._levels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a label image at level 0."""
        return int(self._levels[0].shape[-2]), int(self._levels[0].shape[-1])

    def labels(self, level: int = 0) -> npt.NDArray[np.uint32]:
        """Read all labels of one level.

        Returns
        -------
        ndarray of uint32, shape (H, W), or (n, H, W) for patches
            0 = background.

        Raises
        ------
        InvalidStore
            A chunk is damaged.
        """
        return self._read(self._levels[level])

    def label_image(self, index: int = 0) -> npt.NDArray[np.uint32]:
        """Read one label image, uint32, shape (H, W): patch ``index``, or the slide (0)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.labels() if self.layout == "slide" else self._read(self._levels[0], index)

    def window(self, rows: slice, columns: slice) -> npt.NDArray[np.uint32]:
        """Read a part of a slide's labels, uint32; safe from several threads."""
        return self._read(self._levels[0], (rows, columns))

    @property
    def table(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the nuclei of a slide, in the order of ids; empty for patches, whose labels say all."""
        if self.layout == "patches":
            return {}
        rows = self._group[f"tables/{LABEL_NAME}"]
        assert isinstance(rows, zarr.Group)
        return {name: self._read(array) for name, array in sorted(rows.arrays())}

    def overview(self, level: int = 0) -> RGBImage:
        """Read the RGB overview of a slide, uint8, shape (H, W, 3)."""
        return np.ascontiguousarray(np.moveaxis(self._read(self._array(str(level))), 0, 2))

    def _read(self, array: zarr.Array[Any], where: Any = ...) -> npt.NDArray[Any]:
        try:
            return np.asarray(array[where])
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InvalidStore(f"{self.path}: a chunk of {array.path} cannot be read ({one_line(error)}); {DAMAGED}") from error

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            array = self._group[name]
        except (KeyError, ValueError, OSError) as error:
            raise InvalidStore(f"{self.path}: has no array {name}; {DAMAGED}") from error
        if not isinstance(array, zarr.Array):
            raise InvalidStore(f"{self.path}: {name} is not an array; {DAMAGED}")
        return array

    def _find_levels(self) -> list[zarr.Array[Any]]:
        if self.layout == "patches":
            return [self._checked_labels(self._array("instance_labels"), 3)]
        folder = f"labels/{LABEL_NAME}"
        self._array(f"{folder}/0")
        levels = 0
        while (self.path / folder / str(levels)).is_dir():
            levels += 1
        return [self._checked_labels(self._array(f"{folder}/{level}"), 2) for level in range(levels)]

    def _checked_labels(self, array: zarr.Array[Any], ndim: int) -> zarr.Array[Any]:
        if array.ndim != ndim or array.dtype != np.uint32:
            raise InvalidStore(
                f"{self.path}: {array.path} must be uint32 with {ndim} axes, got {array.dtype} with {array.ndim}; {DAMAGED}"
            )
        return array

    def _checked_count(self) -> int:
        count = self.facts.get("n_nuclei")
        if not isinstance(count, int) or count < 0:
            raise InvalidStore(f"{self.path}: histosynth.n_nuclei must be a count, got {count!r}; {DAMAGED}")
        if self.layout == "slide":
            for name in REQUIRED_COLUMNS:
                rows = self._array(f"tables/{LABEL_NAME}/{name}").shape[0]
                if rows != count:
                    raise InvalidStore(f"{self.path}: tables/{LABEL_NAME}/{name} has {rows} rows for {count} nuclei; {DAMAGED}")
        return count


def open_labels(path: Path | str) -> LabelStore:
    """Open a label store of either layout and check everything that does not need the pixels.

    Raises
    ------
    StoreNotFound
        There is none.
    InvalidStore
        It is not a label store of ours, of an unknown version, unfinished, or breaks a rule; the message names it.
    """
    path = Path(path)
    group, provenance = records.open_group(path, CONTRACT)
    return LabelStore(path, group, provenance)


def _factors(shape: tuple[int, ...]) -> list[int]:
    """Return 1, 2, 4, ... down to the first level of the labels whose longer side is at most ``SMALLEST_LEVEL_PX``.

    The overview has as many levels, because the specification asks for that, though its last ones are tiny.
    """
    factors = [1]
    while -(-max(shape) // factors[-1]) > SMALLEST_LEVEL_PX:
        factors.append(2 * factors[-1])
    return factors


def _multiscale(name: str, axes: str, factors: list[int], mpp: float) -> Json:
    """Return one OME-Zarr 0.5 multiscale; ``factors`` are slide pixels along a side of a pixel of each level."""
    space = [axis in "yx" for axis in axes]
    return {
        "name": name,
        "type": "nearest" if axes == "yx" else "mean",
        "axes": [
            {"name": axis, "type": "space", "unit": "micrometer"} if is_space else {"name": axis, "type": "channel"}
            for axis, is_space in zip(axes, space, strict=True)
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [factor * mpp if is_space else 1.0 for is_space in space]},
                    # the centre of a block of pixels, from the centre of its first one
                    {"type": "translation", "translation": [(factor - 1) / 2 * mpp if is_space else 0.0 for is_space in space]},
                ],
            }
            for level, factor in enumerate(factors)
        ],
    }


def _colours() -> Json:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    names = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
    return {
        "channels": [{"label": label, "color": colour, "window": window, "active": True} for label, colour in names],
        "rdefs": {"model": "color"},
    }


def _write_pyramid(root: zarr.Group, labels: npt.NDArray[np.uint32], mpp: float) -> None:
    factors = _factors(labels.shape)
    folder = root.create_group("labels", attributes={"ome": {"version": OME_VERSION, "labels": [LABEL_NAME]}})
    nuclei = folder.create_group(
        LABEL_NAME,
        attributes={
            "ome": {
                "version": OME_VERSION,
                "multiscales": [_multiscale(LABEL_NAME, "yx", factors, mpp)],
                "image-label": {"version": OME_VERSION, "source": {"image": "../../"}},
            }
        },
    )
    chunks = tuple(min(side, CHUNK_PX) for side in labels.shape)
    grid = tuple(-(-side // SHARD_PX) for side in labels.shape)
    done = _create(root, "tiles_done", shape=grid, dtype="uint8", axes="yx", chunks=grid)
    for level, factor in enumerate(factors):
        values = nearest_level(labels, factor) if factor > 1 else labels
        sides = tuple(min(side, chunk) for side, chunk in zip(values.shape, chunks, strict=True))
        shards = tuple(min(SHARD_PX // side, -(-length // side)) * side for side, length in zip(sides, values.shape, strict=True))
        array = _create(nuclei, str(level), shape=values.shape, dtype="uint32", axes="yx", chunks=sides, shards=shards)
        array[...] = values
    done[...] = 1


def _create(
    group: zarr.Group,
    name: str,
    *,
    shape: tuple[int, ...],
    dtype: str,
    axes: tuple[str, ...] | str,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """Make one array, or return the one of an earlier start."""
    if name in group:
        found = group[name]
        assert isinstance(found, zarr.Array), name
        assert found.shape == shape, (name, found.shape, shape)
        return found
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=None if shards == chunks else shards,
        compressors=COMPRESSOR,
        fill_value=0,
        dimension_names=list(axes),
    )


def _write(group: zarr.Group, name: str, values: npt.NDArray[Any], axes: tuple[str, ...] | str) -> None:
    """Make and fill an array that is read as a whole or in chunks of ``CHUNK_PX``."""
    limit = CHUNK_PX if values.ndim > 1 and len(axes) == values.ndim and axes[-1] == "x" else max(len(values), 1)
    chunks = tuple(max(1, min(side, limit)) for side in values.shape)
    array = _create(group, name, shape=values.shape, dtype=str(values.dtype), axes=axes, chunks=chunks)
    if values.size:
        array[...] = values


def _finish(partial: Path, target: Path) -> None:
    records.remove_temporaries(partial)
    records.update_attribute(partial, {"files": _count_files(partial)})
    records.finish(partial, target)


def _count_files(store: Path) -> dict[str, list[int]]:
    """Return the number and the total bytes of the files of each array, by its path in the store."""
    counts: dict[str, list[int]] = {}
    for folder, folders, names in os.walk(store):
        if (
            records.METADATA_FILE in names
            and json.loads(Path(folder, records.METADATA_FILE).read_bytes())["node_type"] == "array"
        ):
            folders.clear()
            counts[Path(folder).relative_to(store).as_posix()] = _count_array(Path(folder))
    return counts


def _count_array(array: Path) -> list[int]:
    sizes = [file.stat().st_size for file in (array / "c").rglob("*") if file.is_file()]
    return [len(sizes), sum(sizes)]


def _checked_layout(path: Path, facts: Json) -> str:
    layout = facts.get("layout")
    if layout not in LAYOUTS:
        raise InvalidStore(f"{path}: histosynth.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}; {DAMAGED}")
    return str(layout)


def _checked_mpp(path: Path, facts: Json) -> float:
    mpp = facts.get("mpp")
    if not isinstance(mpp, int | float) or not mpp > 0:
        raise InvalidStore(f"{path}: histosynth.mpp must be a pixel size in micrometres, got {mpp!r}; {DAMAGED}")
    return float(mpp)


def _check_files(path: Path, facts: Json) -> None:
    """Zarr reads a missing shard as background, so the files of every array are counted."""
    recorded = facts.get("files")
    if not isinstance(recorded, dict):
        raise InvalidStore(f"{path}: histosynth.files must list the arrays, got {recorded!r}; {DAMAGED}")
    for name, expected in recorded.items():
        if (found := _count_array(path / name)) != expected:
            raise InvalidStore(
                f"{path}: array {name} holds {found[0]} files of {found[1]} bytes, but {expected} were written; "
                "some are missing or truncated; make it again with --overwrite"
            )
