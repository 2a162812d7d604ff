"""Label store: the nuclei of one slide, as an OME-Zarr 0.5 image of the slide with labels that lie
over it.

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
    │       ├── y_um, x_um  float64  (nucleus,)     centroid; y_px, x_px the same in the slide's pixels
    │       ├── box         int32    (nucleus, 4)   y0, x0, y1, x1, half open, in the slide's pixels
    │       ├── area_um2    float32  (nucleus,)
    │       └── ...         float32  (nucleus,)     probability, hematoxylin (mean concentration), eccentricity, elongation,
    │                                               orientation_rad, major_um, minor_um
    ├── tissue              uint8    (y, x)         1 where nuclei were looked for; on the grid of the finest overview
    ├── tiles_done          uint8    (y, x)         1 once that shard of ``labels/nuclei/0`` is on disk
    └── attributes          ome          OME-Zarr 0.5 metadata
                            histosynth   {contract, command, config, config_hash, ..., complete, layout, mpp, mpp_source, shape,
                                          n_nuclei, n_cut, mm2, source: {name, sha256}, model:
                                          {name, sha256}, glass_level, contrast: {mean, spread} or
                                          null where the model does not ask, files: {<array>:
                                          [number of files, bytes]}}

Micrometres count from the centre of the slide's first pixel, in every scale and translation and in
the table: so slide, overview, labels and table lie over each other in viewers, which put the centre
of a pixel at its coordinate. A coarser pixel is a block of fine ones, whose centre a translation
tells. Other tools may add labels and tables of their own.

Layout ``patches``, for the patches of a patch store::

    patches.labels.zarr
    ├── instance_labels     uint32   (patch, y, x)  per patch 0 = background, 1..n in the order of anchors
    ├── n_nuclei            uint32   (patch,)
    ├── batches_done        uint8    (batch,)       1 once that shard of ``instance_labels`` is on disk
    └── attributes          histosynth   as above, with layout, mpp, source and model

``n_cut`` counts nuclei that reach further than any window looks. While a slide's store is being
made, its folder ``work`` holds what was found so far, so that a run that was stopped or killed goes
on.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.errors import InvalidStore
from histocli.base.files import disk_errors, partial_path
from histocli.base.formats import ATTRIBUTE, FORMATS
from histocli.base.pyramid import nearest_level, shrink
from histocli.base.text import first_line
from histocli.base.types import Json, RGBImage
from histocli.stores import provenance as records
from histocli.stores.provenance import DAMAGED, OutputLock, Provenance

CONTRACT = FORMATS["ome-zarr"].contract
LAYOUTS = ("slide", "patches")
LABEL_NAME = "nuclei"
OVERVIEW_MPP = 8.0  # coarsest finest level of the overview, in um/px
OVERVIEW_PX = 1024  # an overview's longer side is not made smaller than this
SMALLEST_LEVEL_PX = 256  # no further level below
CHUNK_PX = 512
SHARD_PX = 2048
SHARD_PATCHES = 32
CHUNK_ROWS = 1 << 16  # of the table
COMPRESSOR = ZstdCodec(level=3)
WORK = "work"  # folder of a partial store: what was found so far
OME_VERSION = "0.5"

TableColumns = Mapping[str, npt.NDArray[Any]]
COLUMN_TYPES = {
    "id": "uint32",
    "y_px": "float64",
    "x_px": "float64",
    "y_um": "float64",
    "x_um": "float64",
    "box": "int32",
}
"""What the others are, float32, is enough for a measurement."""
REQUIRED_COLUMNS = ("id", "y_um", "x_um", "box", "area_um2")


def overview_factor(shape: tuple[int, int], mpp: float) -> int:
    """Return how many slide pixels go along one side of an overview pixel.

    The largest power of two that keeps the overview at ``OVERVIEW_MPP`` or finer and its longer
    side at ``OVERVIEW_PX`` or more.
    """
    factor = 1
    while 2 * factor * mpp <= OVERVIEW_MPP and max(shape) >= 2 * factor * OVERVIEW_PX:
        factor *= 2
    return factor


class TiledLabelsWriter:
    """Writes the label store of one slide, piece by piece and in bounded memory; use as a context
    manager.

    Work goes through three phases, and a run that was stopped or killed goes on where it was:

    1. ``save_found`` keeps what was found in each window of the slide, in any order, in ``work/``;
    2. ``append_rows`` writes the table, in the order of ids;
    3. ``write_shard`` writes the labels, a shard at a time, in the order of ``shards``; coarser
    levels are filled on the way.

    ``finish`` removes ``work/`` and puts the store in its place. Leaving the context without it
    keeps the partial store.
    """

    def __init__(
        self,
        target: Path,
        *,
        shape: tuple[int, int],
        mpp: float,
        mpp_source: str,
        look: Callable[[int], tuple[RGBImage, npt.NDArray[np.bool_]]],
        source: Json,
        model: Json,
        provenance: Provenance,
        note: Callable[[], Json] = dict,
    ) -> None:
        """Make the store beside its place, all metadata included, or take up the partial one of the
        same settings.

        Call :func:`histocli.stores.provenance.prepare_output` before.

        Parameters
        ----------
        target : Path
            Where the store will be, ``<stem>.ome.zarr``.
        shape : (int, int)
            Height and width of the slide.
        mpp, mpp_source : float, str
            Micrometres per pixel of the slide, and where they come from.
        look : callable
            Given how many slide pixels go along one side of an overview pixel, returns the
            overview, uint8 (h, w, 3), and where nuclei are looked for, bool (h, w). Only called for
            a new store.
        source, model : dict
            Name and content hash of the slide and of the model file.
        provenance : Provenance
            Its contract must be :data:`CONTRACT`.
        note : callable
            Returns what else the store is to say about itself, once ``look`` has looked.

        Raises
        ------
        StoreExists
            Another process writes the same output.
        OutOfResources
            The disk is full or the place cannot be written.
        """
        assert provenance.contract == CONTRACT, provenance.contract
        self.target = target
        self._partial = partial_path(target)
        self._work = self._partial / WORK
        self._shape = shape
        self._factors = _factors(shape)
        self._marks_lock = threading.Lock()
        self._lock = OutputLock(target)
        try:
            with disk_errors(target):
                found = records.peek(self._partial)
                alike = found is not None and (found.contract, found.config_hash) == (
                    CONTRACT,
                    provenance.config_hash,
                )
                if alike and self._work.is_dir():
                    self._root = zarr.open_group(
                        self._partial, mode="r+", zarr_format=3, use_consolidated=False
                    )
                else:
                    records.remove_ours(self._partial, CONTRACT)
                    factor = overview_factor(shape, mpp)
                    overview, tissue = look(factor)
                    facts = {
                        "layout": "slide",
                        "mpp": mpp,
                        "mpp_source": mpp_source,
                        "shape": list(shape),
                        "mm2": looked_at_mm2(tissue, shape, mpp),
                        "source": source,
                        "model": model,
                    } | note()
                    self._create(overview, tissue, factor, mpp, provenance, facts)
                self._done = self._root["tiles_done"]
                self._levels = [
                    self._root[f"labels/{LABEL_NAME}/{level}"]
                    for level in range(len(self._factors))
                ]
                tissue = np.asarray(self._root["tissue"][...])  # type: ignore[index]
                self.tissue: npt.NDArray[np.bool_] = tissue.astype(bool)
        except BaseException:
            self._lock.release()
            raise
        self._canvases: dict[int, tuple[tuple[int, int], npt.NDArray[np.uint32]]] = {}

    def _create(
        self,
        overview: RGBImage,
        tissue: npt.NDArray[np.bool_],
        factor: int,
        mpp: float,
        provenance: Provenance,
        facts: Json,
    ) -> None:
        attributes = {
            ATTRIBUTE: provenance.to_json() | facts,
            "ome": {
                "version": OME_VERSION,
                "multiscales": [
                    _multiscale(
                        self.target.name, "cyx", [factor * level for level in self._factors], mpp
                    )
                ],
                "omero": _colours(),
            },
        }
        self._root = zarr.create_group(self._partial, zarr_format=3, attributes=attributes)
        for number, level in enumerate(self._factors):
            planes = np.ascontiguousarray(np.moveaxis(shrink(overview, level), 2, 0))
            _write(self._root, str(number), planes, "cyx")
        _write(self._root, "tissue", tissue.astype(np.uint8), "yx")
        _create_pyramid(self._root, self._shape, self._factors, mpp)
        self._root.create_group("tables").create_group(LABEL_NAME)
        self._work.mkdir()  # last: where it is, all metadata are

    @property
    def facts(self) -> Json:
        """What the store says about itself so far."""
        found = json.loads((self._partial / records.METADATA_FILE).read_bytes())["attributes"][
            ATTRIBUTE
        ]
        assert isinstance(found, dict)
        return found

    @property
    def work(self) -> Path:
        """Folder of what was found so far; other processes may put files there."""
        return self._work

    def has_found(self, window: int) -> bool:
        """Tell whether what was found in a window is kept, and whole."""
        return has_found(self._work, window)

    def save_found(self, window: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep what was found in a window; several threads may save different ones at a time."""
        with disk_errors(self.target):
            save_found(self._work, window, arrays)

    def load_found(self, window: int, kind: str = "found") -> dict[str, npt.NDArray[Any]]:
        """Return what was found in a window."""
        return load_found(self._work, window, kind)

    def save_settled(self, window: int, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep what is left of a window's objects beside its neighbours'."""
        with disk_errors(self.target):
            save_found(self._work, window, arrays, "settled")

    def begin_table(self, n_nuclei: int, columns: TableColumns) -> None:
        """Make the columns of the table, named and shaped like ``columns``; call ``append_rows``
        next, until all are there.
        """
        with disk_errors(self.target):
            folder = self._partial / "tables" / LABEL_NAME
            for child in folder.iterdir():  # of an earlier start
                if child.is_dir():
                    shutil.rmtree(child)
            rows = self._root[f"tables/{LABEL_NAME}"]
            assert isinstance(rows, zarr.Group)
            self._columns = {}
            for name, column in columns.items():
                shape = (n_nuclei, *np.asarray(column).shape[1:])
                self._columns[name] = _create(
                    rows,
                    name,
                    shape=shape,
                    dtype=COLUMN_TYPES.get(name, "float32"),
                    axes=("nucleus", "edge")[: len(shape)],
                    chunks=(max(1, min(n_nuclei, CHUNK_ROWS)), *shape[1:]),
                )
            self._waiting: list[dict[str, npt.NDArray[Any]]] = []
            self._written = 0
            self._n_nuclei = n_nuclei

    def append_rows(self, columns: TableColumns) -> None:
        """Add rows to the table; whole chunks go to the disk."""
        self._waiting.append({name: np.asarray(column) for name, column in columns.items()})
        n = sum(len(rows["id"]) for rows in self._waiting)
        if n < CHUNK_ROWS and self._written + n < self._n_nuclei:
            return
        rows = {
            name: np.concatenate([part[name] for part in self._waiting]) for name in self._columns
        }
        whole = n if self._written + n == self._n_nuclei else n // CHUNK_ROWS * CHUNK_ROWS
        with disk_errors(self.target):
            for name, array in self._columns.items():
                if whole:
                    array[self._written : self._written + whole] = rows[name][:whole].astype(
                        array.dtype
                    )
        self._written += whole
        self._waiting = (
            [{name: column[whole:] for name, column in rows.items()}] if whole < n else []
        )

    def end_table(self, facts: Json) -> None:
        """Check that all rows are there and record what the store says about its nuclei."""
        assert self._written == self._n_nuclei, (self._written, self._n_nuclei)
        with disk_errors(self.target):
            records.update_attribute(self._partial, {"n_nuclei": self._n_nuclei} | facts)

    def shards(self) -> list[tuple[int, int]]:
        """Return row and column of the shards of the labels, such that those of every square of
        two, four, ... follow each other.
        """
        down, across = (-(-side // SHARD_PX) for side in self._shape)
        return sorted(
            ((row, column) for row in range(down) for column in range(across)), key=_morton
        )

    def shard_region(self, shard: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of a shard."""
        rows, columns = (
            slice(index * SHARD_PX, min((index + 1) * SHARD_PX, side))
            for index, side in zip(shard, self._shape, strict=True)
        )
        return rows, columns

    def is_written(self, shard: tuple[int, int]) -> bool:
        """Tell whether a shard is on disk."""
        return bool(np.asarray(self._done[shard]))  # type: ignore[index]

    def read_shard(self, shard: tuple[int, int]) -> npt.NDArray[np.uint32]:
        """Read back a shard of an earlier start."""
        return np.asarray(self._levels[0][self.shard_region(shard)])  # type: ignore[index]

    def write_shard(self, shard: tuple[int, int], labels: npt.NDArray[np.uint32]) -> None:
        """Write one shard of level 0; several threads may write different ones at a time."""
        with disk_errors(self.target):
            if labels.any():
                _fill(self._levels[0], self.shard_region(shard), labels)
            with self._marks_lock:  # one chunk
                self._done[shard] = 1  # type: ignore[index]

    def write_coarser(self, shard: tuple[int, int], labels: npt.NDArray[np.uint32]) -> None:
        """Fill the coarser levels from a shard of level 0; call in the order of ``shards``, in one
        thread.
        """
        with disk_errors(self.target):
            for level, factor in enumerate(self._factors[1:], start=1):
                coarse = nearest_level(labels, factor) if factor <= SHARD_PX else labels[:1, :1]
                step = SHARD_PX // factor if factor <= SHARD_PX else 0
                owner = (shard[0] // factor, shard[1] // factor)
                self._canvas(level, owner)
                _, canvas = self._canvases[level]
                y, x = (index % factor * step for index in shard)
                canvas[y : y + coarse.shape[0], x : x + coarse.shape[1]] = coarse

    def end_labels(self) -> None:
        """Write what is left of the coarser levels."""
        with disk_errors(self.target):
            for level in list(self._canvases):
                self._flush(level)

    def _canvas(self, level: int, owner: tuple[int, int]) -> None:
        if level in self._canvases and self._canvases[level][0] == owner:
            return
        self._flush(level)
        shape = [
            min(SHARD_PX, side - index * SHARD_PX)
            for index, side in zip(owner, self._levels[level].shape, strict=True)  # type: ignore[union-attr]
        ]
        self._canvases[level] = (owner, np.zeros(shape, np.uint32))

    def _flush(self, level: int) -> None:
        if level not in self._canvases:
            return
        (row, column), canvas = self._canvases.pop(level)
        top, left = row * SHARD_PX, column * SHARD_PX
        self._levels[level][top : top + canvas.shape[0], left : left + canvas.shape[1]] = canvas  # type: ignore[index]

    def finish(self, *, keep_hidden: bool = False) -> Path:
        """Mark the store complete and put it in its place; return where it is.

        Parameters
        ----------
        keep_hidden : bool
            Leave it beside its place: only files are wanted that are made from it, and
            :meth:`discard` comes next.

        Raises
        ------
        StoreExists
            Something else has taken its place.
        OutOfResources
            The disk is full.
        """
        with disk_errors(self.target):
            shutil.rmtree(self._work)
            if keep_hidden:
                records.update_attribute(
                    self._partial, {"files": _count_files(self._partial), "complete": True}
                )
                return self._partial
            _finish(self._partial, self.target)
        return self.target

    def discard(self) -> None:
        """Remove the partial store."""
        if records.peek(self._partial) is not None:
            records.remove_ours(self._partial, CONTRACT)

    def close(self) -> None:
        """Let go of the output; a partial store stays for the next run, unless nothing was found
        for it yet.
        """
        try:
            if self._lock.is_held and self._work.is_dir() and not any(self._work.iterdir()):
                # something still writes to it after an error; the next run begins anew
                with suppress(OSError):
                    self.discard()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(array: Any, region: tuple[slice, slice], labels: npt.NDArray[np.uint32]) -> None:
    array[region] = labels


def has_found(work: Path, window: int) -> bool:
    """Tell whether what was found in a window is kept, and whole."""
    return zipfile.is_zipfile(_found_path(work, window, "found"))  # its end is written last


def save_found(
    work: Path, window: int, arrays: Mapping[str, npt.NDArray[Any]], kind: str = "found"
) -> None:
    """Keep what was found in a window; the file is whole or not there, whoever writes it and
    however often.
    """
    path = _found_path(work, window, kind)
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
    with np.load(_found_path(work, window, kind), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _found_path(work: Path, window: int, kind: str) -> Path:
    # folders of a thousand: no file system is slow with those
    return work / f"{kind}{window // 1000:05d}" / f"{window}.npz"


def looked_at_mm2(tissue: npt.NDArray[np.bool_], shape: tuple[int, int], mpp: float) -> float:
    """Return the area of a slide that is tissue, in square millimetres."""
    return float(tissue.mean()) * shape[0] * shape[1] * mpp * mpp / 1e6


def _morton(shard: tuple[int, int]) -> int:
    """Interleave the bits of row and column."""
    return sum(
        (shard[0] >> bit & 1) << (2 * bit + 1) | (shard[1] >> bit & 1) << (2 * bit)
        for bit in range(32)
    )


class SlideLabelsWriter(TiledLabelsWriter):
    """Writes the label store of a slide whose pixels and labels are in memory::

        with SlideLabelsWriter(target, image=pixels, ...) as writer:
            writer.write(labels, measure_them)
            writer.finish()

    Leaving the context without :meth:`finish` removes the work again: a slide in memory is quickly
    begun anew.
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

        Parameters and errors are those of :class:`TiledLabelsWriter`, but for two.

        Parameters
        ----------
        image : ndarray of uint8, shape (H, W, 3)
            The slide at full resolution.
        tissue : ndarray of bool, shape of the finest overview, optional
            Where nuclei were looked for; everywhere by default.
        """

        def look(factor: int) -> tuple[RGBImage, npt.NDArray[np.bool_]]:
            overview = shrink(image, factor)
            return overview, np.ones(overview.shape[:2], bool) if tissue is None else tissue

        with OutputLock(target), disk_errors(target):
            records.remove_ours(partial_path(target), CONTRACT)
        facts = {
            "mpp": mpp,
            "mpp_source": mpp_source,
            "source": source,
            "model": model,
            "provenance": provenance,
        }
        super().__init__(target, shape=(image.shape[0], image.shape[1]), look=look, **facts)  # type: ignore[arg-type]
        self._finished = False

    def write(
        self, labels: npt.NDArray[np.integer[Any]], table: Callable[[], TableColumns]
    ) -> None:
        """Write the labels and their table.

        Parameters
        ----------
        labels : ndarray of int, shape (H, W)
            0 = background, 1..n without gaps.
        table : callable
            Returns the columns of the layout above, n rows.
        """
        assert labels.shape == self._shape, (labels.shape, self._shape)
        columns = table()
        n_nuclei = len(columns["id"])
        assert set(REQUIRED_COLUMNS) <= set(columns), sorted(columns)
        assert all(len(column) == n_nuclei for column in columns.values())
        self.begin_table(n_nuclei, columns)
        self.append_rows(columns)
        self.end_table({})
        for shard in self.shards():
            part = labels[self.shard_region(shard)].astype(np.uint32, copy=False)
            self.write_shard(shard, part)
            self.write_coarser(shard, part)
        self.end_labels()

    def finish(self, *, keep_hidden: bool = False) -> Path:
        """Mark the store complete and put it in its place; errors as in
        :meth:`TiledLabelsWriter.finish`.
        """
        path = super().finish(keep_hidden=keep_hidden)
        self._finished = True
        return path

    def close(self) -> None:
        """Let go of the output, and remove it if it is not finished."""
        try:
            if not self._finished:
                self.discard()
        finally:
            self._lock.release()


class PatchLabelsWriter:
    """Writes the labels of a patch store's patches, a shard-aligned batch at a time; use as a
    context manager.

    Leaving the context without :meth:`finish` keeps the partial store, and a later run goes on with
    it.
    """

    def __init__(
        self,
        target: Path,
        *,
        n: int,
        shape: tuple[int, int],
        mpp: float,
        source: Json,
        model: Json,
        provenance: Provenance,
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
        self._partial = partial_path(target)
        self._marks_lock = threading.Lock()
        self._lock = OutputLock(target)
        try:
            with disk_errors(target):
                found = records.peek(self._partial)
                if found is not None and (found.contract, found.config_hash) == (
                    CONTRACT,
                    provenance.config_hash,
                ):
                    root = zarr.open_group(
                        self._partial, mode="r+", zarr_format=3, use_consolidated=False
                    )
                else:
                    records.remove_ours(self._partial, CONTRACT)
                    facts = {"layout": "patches", "mpp": mpp, "source": source, "model": model}
                    attributes = {ATTRIBUTE: provenance.to_json() | facts}
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
                self._counts = _create(
                    root, "n_nuclei", shape=(n,), dtype="uint32", axes=("patch",), chunks=(n,)
                )
                self._done = _create(
                    root,
                    "batches_done",
                    shape=(batches,),
                    dtype="uint8",
                    axes=("batch",),
                    chunks=(batches,),
                )
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
        """Mark the store complete, put it in its place and return the number of nuclei in all
        patches.
        """
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
        facts = group.attrs[ATTRIBUTE]
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

    def level(self, number: int) -> zarr.Array[Any]:
        """Return the labels of a level of a slide, to be read by regions."""
        return self._levels[number]

    @property
    def tissue(self) -> npt.NDArray[np.bool_]:
        """Where nuclei were looked for in a slide, on the grid of the finest overview."""
        return self._read(self._array("tissue")).astype(bool)

    @property
    def columns(self) -> dict[str, zarr.Array[Any]]:
        """The columns of the table of a slide, to be read by rows."""
        rows = self._group[f"tables/{LABEL_NAME}"]
        assert isinstance(rows, zarr.Group)
        return dict(sorted(rows.arrays()))

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
        """The columns of the nuclei of a slide, in the order of ids; empty for patches, whose
        labels say all.
        """
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
            raise InvalidStore(
                f"{self.path}: a chunk of {array.path} cannot be read ({first_line(error)}); {DAMAGED}"
            ) from error

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
        return [
            self._checked_labels(self._array(f"{folder}/{level}"), 2) for level in range(levels)
        ]

    def _checked_labels(self, array: zarr.Array[Any], ndim: int) -> zarr.Array[Any]:
        if array.ndim != ndim or array.dtype != np.uint32:
            raise InvalidStore(
                f"{self.path}: {array.path} must be uint32 with {ndim} axes, got {array.dtype} with {array.ndim}; {DAMAGED}"
            )
        return array

    def _checked_count(self) -> int:
        count = self.facts.get("n_nuclei")
        if not isinstance(count, int) or count < 0:
            raise InvalidStore(
                f"{self.path}: histosynth.n_nuclei must be a count, got {count!r}; {DAMAGED}"
            )
        if self.layout == "slide":
            for name in REQUIRED_COLUMNS:
                rows = self._array(f"tables/{LABEL_NAME}/{name}").shape[0]
                if rows != count:
                    raise InvalidStore(
                        f"{self.path}: tables/{LABEL_NAME}/{name} has {rows} rows for {count} nuclei; {DAMAGED}"
                    )
        return count


def open_labels(path: Path | str) -> LabelStore:
    """Open a label store of either layout and check everything that does not need the pixels.

    Its methods ``level`` and ``columns`` read by pieces, the others at once.

    Raises
    ------
    StoreNotFound
        There is none.
    InvalidStore
        It is not a label store of ours, of an unknown version, unfinished, or breaks a rule; the
        message names it.
    """
    path = Path(path)
    group, provenance = records.open_group(path, CONTRACT)
    return LabelStore(path, group, provenance)


def _factors(shape: tuple[int, ...]) -> list[int]:
    """Return 1, 2, 4, ... down to the first level of the labels whose longer side is at most
    ``SMALLEST_LEVEL_PX``.

    The overview has as many levels, because the specification asks for that, though its last ones
    are tiny.
    """
    factors = [1]
    while -(-max(shape) // factors[-1]) > SMALLEST_LEVEL_PX:
        factors.append(2 * factors[-1])
    return factors


def _multiscale(name: str, axes: str, factors: list[int], mpp: float) -> Json:
    """Return one OME-Zarr 0.5 multiscale; ``factors`` are slide pixels along a side of a pixel of
    each level.
    """
    space = [axis in "yx" for axis in axes]
    return {
        "name": name,
        "type": "nearest" if axes == "yx" else "mean",
        "axes": [
            {"name": axis, "type": "space", "unit": "micrometer"}
            if is_space
            else {"name": axis, "type": "channel"}
            for axis, is_space in zip(axes, space, strict=True)
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [factor * mpp if is_space else 1.0 for is_space in space],
                    },
                    # the centre of a block of pixels, from the centre of its first one
                    {
                        "type": "translation",
                        "translation": [
                            (factor - 1) / 2 * mpp if is_space else 0.0 for is_space in space
                        ],
                    },
                ],
            }
            for level, factor in enumerate(factors)
        ],
    }


def _colours() -> Json:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    names = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
    return {
        "channels": [
            {"label": label, "color": colour, "window": window, "active": True}
            for label, colour in names
        ],
        "rdefs": {"model": "color"},
    }


def _create_pyramid(
    root: zarr.Group, shape: tuple[int, int], factors: list[int], mpp: float
) -> None:
    """Make the arrays of the labels, without any label."""
    folder = root.create_group(
        "labels", attributes={"ome": {"version": OME_VERSION, "labels": [LABEL_NAME]}}
    )
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
    chunks = tuple(min(side, CHUNK_PX) for side in shape)
    grid = tuple(-(-side // SHARD_PX) for side in shape)
    _create(root, "tiles_done", shape=grid, dtype="uint8", axes="yx", chunks=grid)
    for level, factor in enumerate(factors):
        size = tuple(-(-side // factor) for side in shape)
        sides = tuple(min(side, chunk) for side, chunk in zip(size, chunks, strict=True))
        shards = tuple(
            min(SHARD_PX // side, -(-length // side)) * side
            for side, length in zip(sides, size, strict=True)
        )
        _create(
            nuclei, str(level), shape=size, dtype="uint32", axes="yx", chunks=sides, shards=shards
        )


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


def _write(
    group: zarr.Group, name: str, values: npt.NDArray[Any], axes: tuple[str, ...] | str
) -> None:
    """Make and fill an array that is read as a whole or in chunks of ``CHUNK_PX``."""
    limit = (
        CHUNK_PX
        if values.ndim > 1 and len(axes) == values.ndim and axes[-1] == "x"
        else max(len(values), 1)
    )
    chunks = tuple(max(1, min(side, limit)) for side in values.shape)
    array = _create(
        group, name, shape=values.shape, dtype=str(values.dtype), axes=axes, chunks=chunks
    )
    if values.size:
        array[...] = values


def _finish(partial: Path, target: Path) -> None:
    records.remove_temporaries(partial)
    records.update_attribute(partial, {"files": _count_files(partial)})
    records.finish(partial, target)


def _count_files(store: Path) -> dict[str, list[int]]:
    """Return the number and the total bytes of the files of each array, by its path in the
    store.
    """
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
        raise InvalidStore(
            f"{path}: histosynth.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}; {DAMAGED}"
        )
    return str(layout)


def _checked_mpp(path: Path, facts: Json) -> float:
    mpp = facts.get("mpp")
    if not isinstance(mpp, int | float) or not mpp > 0:
        raise InvalidStore(
            f"{path}: histosynth.mpp must be a pixel size in micrometres, got {mpp!r}; {DAMAGED}"
        )
    return float(mpp)


def _check_files(path: Path, facts: Json) -> None:
    """Zarr reads a missing shard as background, so the files of every array are counted."""
    recorded = facts.get("files")
    if not isinstance(recorded, dict):
        raise InvalidStore(
            f"{path}: histosynth.files must list the arrays, got {recorded!r}; {DAMAGED}"
        )
    for name, expected in recorded.items():
        if (found := _count_array(path / name)) != expected:
            raise InvalidStore(
                f"{path}: array {name} holds {found[0]} files of {found[1]} bytes, but {expected} were written; "
                "some are missing or truncated; make it again with --overwrite"
            )
