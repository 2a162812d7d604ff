"""Writing the label store of one slide, piece by piece and in bounded memory."""

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

from histocli.base.files import disk_errors
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
    """What is seen of a slide before any nucleus is looked for."""

    overview: RGBImage
    """Pixels of the finest overview."""
    tissue: BoolMask
    """Where nuclei are to be looked for, on the same grid."""
    facts: Json = field(default_factory=dict)
    """What the store is to say about it."""


class TiledLabelsWriter(StoreWriter):
    """Writes the label store of one slide; use as a context manager.

    Work goes through three phases, and a run that was stopped or killed goes on where it was:

    1. ``save_found`` keeps what was found in each window of the slide, in any order, in ``work/``,
       and what was made of that: a file of named arrays for each window and kind, whole or absent;
    2. ``begin_table``, ``append_rows`` and ``end_table`` write the table, in the order of ids;
    3. ``write_shard`` and ``write_coarser`` write the labels, a shard at a time, in the order of
       ``shards``, and ``end_labels`` what is left of the coarser levels.

    ``finish`` removes ``work/`` and puts the store in its place. Leaving the context without it
    keeps the partial store. Call :func:`histocli.stores.rerun.prepare_output` before.

    Parameters
    ----------
    look : callable
        Given how many slide pixels go along one side of an overview pixel, looks at the slide. Only
        called where there is no partial store of the same settings.
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
        """Folder of what was found so far; other processes may put files there."""
        with self._beginning():
            # The folder is made last, so a store without it lacks some of its arrays.
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
        """What the store says about itself so far."""
        return dict(read_metadata(self._partial)["attributes"][ATTRIBUTE])

    def has_found(self, window: int) -> bool:
        """Tell whether what was found in a window is kept, and whole."""
        # the end of a zip is written last
        return zipfile.is_zipfile(_found_path(self.work, window, "found"))

    def save_found(self, window: int, arrays: NamedArrays, kind: str = "found") -> None:
        """Keep what was found in a window; several threads may save different windows at a time."""
        with disk_errors(self.target):
            save_found(self.work, window, arrays, kind)

    def load_found(self, window: int, kind: str = "found") -> dict[str, npt.NDArray[Any]]:
        """Return what was found in a window."""
        with np.load(_found_path(self.work, window, kind), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def begin_table(self, n_nuclei: int, columns: NamedArrays) -> None:
        """Make the columns of the table, named and shaped like ``columns``, without their rows."""
        with disk_errors(self.target):
            for child in (self._partial / TABLE).iterdir():
                if child.is_dir():  # a column of an earlier start
                    shutil.rmtree(child)
            self._table = TableWriter(self._root.require_group(TABLE), n_nuclei, columns)

    def append_rows(self, columns: NamedArrays) -> None:
        """Add rows to the table."""
        with disk_errors(self.target):
            self._table.append(columns)

    def end_table(self, facts: Json) -> None:
        """Check that all rows are there and record what the store says about its nuclei."""
        assert self._table.n_written == self._table.n_nuclei
        with disk_errors(self.target):
            update_attribute(self._partial, {"n_nuclei": self._table.n_nuclei} | facts)

    def shards(self) -> list[Shard]:
        """Return row and column of the shards of the labels, in the order of writing."""
        return shards_of(self._shape)

    def shard_region(self, shard: Shard) -> tuple[slice, slice]:
        """Return the rows and columns of a shard."""
        return region_of(shard, self._shape)

    def is_written(self, shard: Shard) -> bool:
        """Tell whether a shard is on disk."""
        return bool(np.asarray(self._done[shard]))

    def read_shard(self, shard: Shard) -> Labels:
        """Read back a shard of an earlier start."""
        return np.asarray(self._levels[0][self.shard_region(shard)])

    def write_shard(self, shard: Shard, labels: Labels) -> None:
        """Write one shard of level 0; several threads may write different ones at a time."""
        with disk_errors(self.target):
            if labels.any():
                self._levels[0][self.shard_region(shard)] = labels
            with self._marks_lock:  # all marks are in one chunk
                self._done[shard] = 1

    def write_coarser(self, shard: Shard, labels: Labels) -> None:
        """Fill the coarser levels from a shard; call in the order of ``shards``, in one thread."""
        with disk_errors(self.target):
            self._coarser.add(shard, labels)

    def end_labels(self) -> None:
        """Write what is left of the coarser levels."""
        with disk_errors(self.target):
            self._coarser.flush()

    def finish(self, *, keep_hidden: bool = False) -> Path:
        """Mark the store complete and put it in its place; return where it is.

        With ``keep_hidden`` it stays beside its place, for files that are made from it, until
        :meth:`discard`.
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
        """Remove the partial store."""
        if peek(self._partial) is not None:
            remove_ours(self._partial, CONTRACT)

    def close(self) -> None:
        """Let go of the output, and keep a partial store for which something was found."""
        try:
            if self._lock.is_held and self.work.is_dir() and not any(self.work.iterdir()):
                # something may still write to it after an error; the next run begins anew
                with suppress(OSError):
                    self.discard()
        finally:
            super().close()


def save_found(work: Path, window: int, arrays: NamedArrays, kind: str = "found") -> None:
    """Keep what was found in a window; several threads and processes may save at a time."""
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
    # folders of a thousand files: no file system is slow with those
    return work / f"{kind}{window // 1000:05d}" / f"{window}.npz"


def _create_store(path: Path, name: str, about: Json, seen: FirstLook) -> zarr.Group:
    """Make a store with all its metadata, which say ``about`` it, the overview and the tissue."""
    mpp, (height, width) = about["mpp"], about["shape"]
    factor, factors = overview_factor((height, width), mpp), level_factors((height, width))
    steps = [factor * level for level in factors]
    attributes = {ATTRIBUTE: about, "ome": image_metadata(name, steps, mpp)}
    root = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for number, level in enumerate(factors):
        planes = np.ascontiguousarray(np.moveaxis(shrink(seen.overview, level), 2, 0))
        write_image(root, str(number), planes, "cyx")
    write_image(root, "tissue", seen.tissue.astype(np.uint8), "yx")
    create_pyramid(root, (height, width), factors, mpp)
    root.create_group(TABLE)
    return root
