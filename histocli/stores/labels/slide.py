"""Writing the label store of one slide, piece by piece and in bounded memory.

A *window* is a part of the slide that the network segments at once, given by its number; windows
overlap. A *shard* is a square of the label image that is one file; shards do not overlap. The array
``tiles_done`` has a *mark* for each shard of level 0 (slide resolution): 1 once it is finished. The
*partial store* is the unfinished store, under a temporary name beside ``target``.
"""

import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.files import disk_errors, remove_folder
from histocli.base.formats import ATTRIBUTE
from histocli.base.pyramid import shrink
from histocli.base.types import BoolMask, Json, RGBImage
from histocli.stores.arrays import StoreWriter, count_all_files
from histocli.stores.labels.layout import (
    CONTRACT,
    LABELS,
    TABLE,
    Labels,
    looked_at_mm2,
    overview_factor,
)
from histocli.stores.labels.pyramid import (
    CoarseLevels,
    Shard,
    create_pyramid,
    image_metadata,
    level_factors,
    region_of,
    shards_of,
    write_image,
)
from histocli.stores.labels.table import NamedArrays, TableWriter
from histocli.stores.provenance import Provenance, peek, read_metadata, update_attribute
from histocli.stores.rerun import remove_ours


@dataclass(frozen=True)
class FirstLook:
    """What is measured on a whole slide before it is segmented."""

    overview: RGBImage
    """The finest of the store's overviews, uint8, shape (H, W, 3)."""
    tissue: BoolMask
    """True where the slide is to be segmented, shape (H, W): one value per overview pixel."""
    facts: Json = field(default_factory=dict)
    """Attributes of the store that were measured on the slide: glass level and contrast."""


class TiledLabelsWriter(StoreWriter):
    """Writes the label store of one slide; use as a context manager.

    Work has three phases. A later run reuses the files of kind ``found`` and the finished shards:

    1. ``save_found`` saves named arrays in ``work/``, a file for each window and ``kind``, in any
       order: ``found`` (the objects of the window), later ``settled`` (the objects that it keeps
       where windows overlap) and ``ids`` (the numbers of the kept objects in the slide);
    2. ``begin_table``, ``append_rows`` and ``end_table`` write the table in the order of ids; every
       run writes the table from its first row;
    3. ``write_shard`` writes a shard of level 0, in any order; ``write_coarser`` takes all shards
       in the order of ``shards``, and ``end_labels`` writes the rest of the coarser levels.

    ``finish`` removes ``work/``, then renames the store; a kill in between loses all work.
    Leaving the context earlier keeps the partial store if ``work/`` holds a file and removes it
    otherwise. Call :func:`histocli.stores.rerun.prepare_output` first.

    Parameters
    ----------
    look : callable
        Gets the width of an overview pixel in slide pixels and returns the :class:`FirstLook`.
        Called only if no partial store with the same settings can be reused.
    source, model : dict
        Name and content hash of the slide and of the model file.
    """

    def __init__(
        self,
        target: Path,
        *,
        shape: tuple[int, int],
        mpp: float,
        mpp_source: str,
        look: Callable[[int], FirstLook],
        source: Json,
        model: Json,
        provenance: Provenance,
    ) -> None:
        self._shape = shape
        self._marks_lock = threading.Lock()
        super().__init__(target)
        self.work = self._partial / "work"
        """Folder of the files of ``save_found``; other processes may save files there."""
        with self._beginning():
            # work/ is made last, so a partial store without it may lack arrays and is not reused.
            root = self._take_up(provenance, is_whole=self.work.is_dir())
            if root is None:
                seen = look(overview_factor(shape, mpp))
                facts = {
                    "layout": "slide",
                    "mpp": mpp,
                    "mpp_source": mpp_source,
                    "shape": list(shape),
                    "mm2": looked_at_mm2(seen.tissue, shape, mpp),
                    "source": source,
                    "model": model,
                }
                about = provenance.to_json() | facts | seen.facts
                root = _create_store(self._partial, target.name, about, seen)
                self.work.mkdir()
            self._root = root
            self._done = self._array("tiles_done")
            factors = level_factors(shape)
            self._levels = [self._array(f"{LABELS}/{level}") for level in range(len(factors))]
            self.tissue: BoolMask = np.asarray(self._array("tissue")[...]).astype(bool)
        self._coarser = CoarseLevels(self._levels)

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._root[name]
        assert isinstance(array, zarr.Array), name
        return array

    @property
    def facts(self) -> Json:
        """The attribute ``histosynth`` of the partial store, as it is now."""
        return dict(read_metadata(self._partial)["attributes"][ATTRIBUTE])

    def has_found(self, window: int) -> bool:
        """Tell whether the file of kind ``found`` of a window exists and is not cut short."""
        # A zip file (.npz) has its directory at the end, so a file cut short has none.
        return zipfile.is_zipfile(_found_path(self.work, window, "found"))

    def save_found(self, window: int, arrays: NamedArrays, kind: str = "found") -> None:
        """Save arrays of a window; several threads may save different windows at a time."""
        with disk_errors(self.target):
            save_found(self.work, window, arrays, kind)

    def load_found(self, window: int, kind: str = "found") -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that :meth:`save_found` saved for a window and ``kind``."""
        with np.load(_found_path(self.work, window, kind), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def begin_table(self, n_nuclei: int, columns: NamedArrays) -> None:
        """Make the table for ``n_nuclei`` rows; ``columns`` gives names and shape of a row."""
        with disk_errors(self.target):
            for child in (self._partial / TABLE).iterdir():
                if child.is_dir():  # a column of an earlier run
                    shutil.rmtree(child)
            self._table = TableWriter(self._root.require_group(TABLE), n_nuclei, columns)

    def append_rows(self, columns: NamedArrays) -> None:
        """Append rows, which must follow in the order of ids."""
        with disk_errors(self.target):
            self._table.append(columns)

    def end_table(self, facts: Json) -> None:
        """Record the number of nuclei and ``facts`` as attributes; all rows must be appended."""
        assert self._table.n_written == self._table.n_nuclei
        with disk_errors(self.target):
            update_attribute(self._partial, {"n_nuclei": self._table.n_nuclei} | facts)

    def shards(self) -> list[Shard]:
        """Return row and column of all shards, in the order that :meth:`write_coarser` needs."""
        return shards_of(self._shape)

    def shard_region(self, shard: Shard) -> tuple[slice, slice]:
        """Return the slide's pixel rows and columns that a shard covers."""
        return region_of(shard, self._shape)

    def is_written(self, shard: Shard) -> bool:
        """Tell whether a shard of level 0 is marked as finished."""
        return bool(np.asarray(self._done[shard]))

    def read_shard(self, shard: Shard) -> Labels:
        """Read a finished shard of level 0."""
        return np.asarray(self._levels[0][self.shard_region(shard)])

    def write_shard(self, shard: Shard, labels: Labels) -> None:
        """Write a shard of level 0 and mark it; threads may write different shards at a time."""
        with disk_errors(self.target):
            if labels.any():  # an empty shard gets a mark, but no file
                self._levels[0][self.shard_region(shard)] = labels
            with self._marks_lock:  # all marks share one chunk, which is rewritten for each
                self._done[shard] = 1

    def write_coarser(self, shard: Shard, labels: Labels) -> None:
        """Fill the coarser levels from a shard of level 0; one thread, order of ``shards``."""
        with disk_errors(self.target):
            self._coarser.add(shard, labels)

    def end_labels(self) -> None:
        """Write the shards of coarser levels that are still in memory."""
        with disk_errors(self.target):
            self._coarser.flush()

    def finish(self, *, keep_hidden: bool = False) -> Path:
        """Remove ``work/``, mark the store complete, rename it to ``target``; return its path.

        ``keep_hidden`` leaves the complete store under its temporary name: the caller only exports
        files from it and then calls :meth:`discard`.
        """
        with disk_errors(self.target):
            shutil.rmtree(self.work)
            if keep_hidden:
                facts = {"files": count_all_files(self._partial), "complete": True}
                update_attribute(self._partial, facts)
                return self._partial
        self._put_in_place()
        return self.target

    def discard(self) -> None:
        """Remove the store under the temporary name, if there is one."""
        if peek(self._partial) is not None:
            # work/ marks a whole store, so it goes first: what a failed removal leaves behind must
            # not look like one that a later command can go on with.
            if self.work.is_dir():
                with disk_errors(self._partial):
                    remove_folder(self.work)
            remove_ours(self._partial, CONTRACT)

    def close(self) -> None:
        """Release the lock; a partial store without any file in ``work/`` is removed first."""
        try:
            if self._lock.is_held and self.work.is_dir() and not any(self.work.iterdir()):
                # After an error a thread may still be writing, so removal can fail.
                with suppress(OSError):
                    self.discard()
        finally:
            super().close()


def save_found(work: Path, window: int, arrays: NamedArrays, kind: str = "found") -> None:
    """Save arrays of a window in ``work``; threads and processes may save at the same time."""
    path = _found_path(work, window, kind)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _found_path(work: Path, window: int, kind: str) -> Path:
    # At most 1,000 files share a folder, because large folders are slow on some file systems.
    return work / f"{kind}{window // 1000:05d}" / f"{window}.npz"


def _create_store(path: Path, name: str, about: Json, seen: FirstLook) -> zarr.Group:
    """Make a store with the attribute ``about``, the overviews, the tissue and empty labels."""
    mpp, (height, width) = about["mpp"], about["shape"]
    finest, factors = overview_factor((height, width), mpp), level_factors((height, width))
    # OME-Zarr wants as many levels of the image as of its labels, so both halve equally often.
    steps = [finest * factor for factor in factors]
    attributes = {ATTRIBUTE: about, "ome": image_metadata(name, steps, mpp)}
    root = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for level, factor in enumerate(factors):
        planes = np.ascontiguousarray(np.moveaxis(shrink(seen.overview, factor), 2, 0))
        write_image(root, str(level), planes, "cyx")
    write_image(root, "tissue", seen.tissue.astype(np.uint8), "yx")
    create_pyramid(root, (height, width), factors, mpp)
    root.create_group(TABLE)
    return root
