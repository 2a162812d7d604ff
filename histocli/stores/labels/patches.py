"""Writing the labels of the patches of a patch store, a shard-aligned batch at a time."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.files import disk_errors
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json
from histocli.stores.arrays import StoreWriter, batches_of
from histocli.stores.labels.layout import SHARD_PATCHES, make_array
from histocli.stores.provenance import Provenance, update_attribute


class PatchLabelsWriter(StoreWriter):
    """Makes a label store of ``n`` patches, or opens the partial store with the same settings.

    Use as a context manager. Leaving the context without :meth:`finish` keeps the partial store,
    and a later run writes its pending batches. ``shape`` is (H, W) of a patch. ``source`` and
    ``model`` are name and content hash of the patch store and of the model file.
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
        self._marks_lock = threading.Lock()
        self._batches = batches_of(n, SHARD_PATCHES)
        marks = (len(self._batches),)
        super().__init__(target)
        with self._beginning():
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
                shards=(min(n, SHARD_PATCHES), *shape),
            )
            self._counts = make_array(root, "n_nuclei", (n,), "uint32", ("patch",), (n,))
            self._done = make_array(root, "batches_done", marks, "uint8", ("batch",), marks)

    def pending(self) -> list[range]:
        """Return the batches that are not written yet, as ranges of patches."""
        marks = np.asarray(self._done[:])
        return [batch for batch, done in zip(self._batches, marks, strict=True) if not done]

    def write(self, batch: range, labels: npt.NDArray[np.integer[Any]]) -> None:
        """Write a batch of :meth:`pending`; threads may write different batches at a time.

        Labels have the shape (len(batch), H, W), and in each patch 0 = background, 1..n.
        """
        with disk_errors(self.target):
            self._labels[batch.start : batch.stop] = labels.astype(np.uint32, copy=False)
            with self._marks_lock:  # all batches share one chunk of counts, one of marks
                self._counts[batch.start : batch.stop] = labels.max(axis=(1, 2)).astype(np.uint32)
                self._done[batch.start // SHARD_PATCHES] = 1

    def finish(self) -> int:
        """Mark the store complete, rename it to ``target``; return the nuclei in all patches."""
        assert not self.pending(), self.pending()
        total = int(np.asarray(self._counts[:]).sum())
        with disk_errors(self.target):
            update_attribute(self._partial, {"n_nuclei": total})
        self._put_in_place()
        return total
