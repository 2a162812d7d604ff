"""Writing the labels of the patches of a patch store, a shard-aligned batch at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.files import disk_errors
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json
from histocli.stores.arrays import StoreWriter
from histocli.stores.labels.layout import CONTRACT, SHARD_PATCHES, make_array
from histocli.stores.lock import lock_unless_it_fails
from histocli.stores.provenance import Provenance, update_attribute


class PatchLabelsWriter(StoreWriter):
    """Makes all metadata of a store, or takes up the partial store of the same settings.

    Use as a context manager. Leaving the context without :meth:`finish` keeps the partial store,
    and a later run goes on with it.

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
    ) -> None:
        assert provenance.contract == CONTRACT, provenance.contract
        self._n = n
        self._marks_lock = threading.Lock()
        batch, batches = min(n, SHARD_PATCHES), -(-n // SHARD_PATCHES)
        with lock_unless_it_fails(target) as lock:
            super().__init__(target, lock)
            root = self._take_up(provenance)
            if root is None:
                facts = {"layout": "patches", "mpp": mpp, "source": source, "model": model}
                attributes = {ATTRIBUTE: provenance.to_json() | facts}
                root = zarr.create_group(self._partial, zarr_format=3, attributes=attributes)
            self._labels = make_array(
                root,
                "instance_labels",
                (n, *shape),
                "uint32",
                axes=("patch", "y", "x"),
                chunks=(1, *shape),
                shards=(batch, *shape),
            )
            self._counts = make_array(root, "n_nuclei", (n,), "uint32", ("patch",), (n,))
            self._done = make_array(
                root, "batches_done", (batches,), "uint8", ("batch",), (batches,)
            )

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
            with self._marks_lock:  # all counts are in one chunk, and all marks
                self._counts[batch.start : batch.stop] = labels.max(axis=(1, 2)).astype(np.uint32)
                self._done[batch.start // SHARD_PATCHES] = 1

    def finish(self) -> int:
        """Put the store in its place and return the number of nuclei in all patches."""
        assert not self.pending(), self.pending()
        total = int(np.asarray(self._counts[:]).sum())
        with disk_errors(self.target):
            update_attribute(self._partial, {"n_nuclei": total})
        self._put_in_place()
        return total
