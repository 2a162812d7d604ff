"""Writing a patch store in batches; a batch is the patches of one shard, which is one file."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base import files
from histocli.base.files import disk_errors
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import plain_json
from histocli.base.types import FloatArray, InstanceLabels, Json, RGBImage
from histocli.stores.arrays import StoreWriter, batches_of, readable
from histocli.stores.patches.checks import check_batch
from histocli.stores.patches.layout import (
    ARRAYS,
    NETWORKS,
    WRITE_ALL,
    ReferenceRecord,
    are_weights,
    create_arrays,
    network_arrays,
    shard_patches,
)
from histocli.stores.provenance import Provenance


class PatchStoreWriter(StoreWriter):
    """Writes a store of ``n`` patches, or opens the partial store with the same settings.

    Threads may write batches in any order. Use as a context manager::

        with PatchStoreWriter(target, n=2000, ...) as writer:
            for batch in writer.pending():
                writer.write(batch, image, instance_labels, weight, reference)
            writer.finish()

    Leaving the context without :meth:`finish` keeps the partial store (the unfinished store beside
    ``target``) for a later command. Call :func:`histocli.stores.rerun.prepare_output` first.

    ``references`` has at least one record; ``origin`` is ``initial``, ``refined`` or ``labelled``.
    Raises ``StoreExists`` if another process writes the same output, or if an array of the partial
    store has another shape or type.
    """

    def __init__(
        self,
        target: Path,
        *,
        n: int,
        patch_px: int,
        mpp: float,
        origin: str,
        references: Sequence[ReferenceRecord],
        provenance: Provenance,
        shippable: bool = True,
    ) -> None:
        self.n = n
        self.patch_px = patch_px
        self._n_references = len(references)
        self._batch_patches = shard_patches(patch_px)
        self._marks_lock = threading.Lock()
        super().__init__(target)
        with self._beginning():
            group = self._take_up(provenance)
            if group is None:
                attributes = {
                    ATTRIBUTE: provenance.to_json(),
                    "mpp": float(mpp),
                    "origin": origin,
                    "shippable": shippable,
                    "references": [record.to_json() for record in references],
                }
                group = zarr.create_group(self._partial, zarr_format=3, attributes=attributes)
            self._group = group
            self._arrays = create_arrays(group, self._partial, n, patch_px)
            self._marks = np.asarray(self._arrays["batches_done"][:])

    def batches(self) -> list[range]:
        """Return a range of patches for each shard."""
        return batches_of(self.n, self._batch_patches)

    def pending(self) -> list[range]:
        """Return the batches that are not written yet."""
        return [batch for batch, done in zip(self.batches(), self._marks, strict=True) if not done]

    def write(
        self,
        batch: range,
        image: RGBImage,
        instance_labels: InstanceLabels,
        weight: FloatArray,
        reference: npt.NDArray[np.int32],
    ) -> None:
        """Write one of the :meth:`batches`; threads may write different batches at a time.

        Shapes are (b, patch_px, patch_px, 3), (b, patch_px, patch_px), (b,) and (b,) for b =
        len(batch). The ids of a patch are 1..k without gaps, beside 0 and -1; weights are finite
        and >= 0. Raises ``ValueError`` where a value breaks these rules.
        """
        number = batch.start // self._batch_patches
        values: dict[str, npt.NDArray[Any]] = {
            "image": image,
            "instance_labels": instance_labels,
            "weight": weight,
            "reference": reference,
        }
        if batch not in self.batches():
            raise ValueError(
                f"{batch} is not one of the shards of {self._batch_patches} patches; "
                "two writers in one shard lose data"
            )
        check_batch(batch, values, self.patch_px, self._n_references)
        where = slice(batch.start, batch.stop)
        with disk_errors(self.target):
            for name, value in values.items():
                array = self._arrays[name]
                array[where] = value
                shard = [str(number), *["0"] * (array.ndim - 1)]
                files.sync_file(self._partial.joinpath(name, "c", *shard))
            with self._marks_lock:
                self._marks[number] = 1
                self._arrays["batches_done"][:] = self._marks

    def read_back(self, batch: range) -> tuple[RGBImage, InstanceLabels]:
        """Return images and labels of a batch that was written before."""
        where = slice(batch.start, batch.stop)
        with readable(self.target):
            images, labels = (self._arrays[name][where] for name in ("image", "instance_labels"))
            return np.asarray(images), np.asarray(labels)

    def weights(self) -> FloatArray:
        """Return the weights of all patches, float32; 0 for patches that are not written yet."""
        with readable(self.target):
            return np.asarray(self._arrays["weight"][:], np.float32)

    def replace_weights(self, weight: FloatArray) -> None:
        """Replace the weights of all patches, shape (n,); ``ValueError`` if one is invalid."""
        if weight.shape != (self.n,) or not are_weights(weight):
            raise ValueError(f"weight must be finite, not negative and of shape ({self.n},)")
        with disk_errors(self.target):
            self._arrays["weight"][:] = weight.astype(np.float32)

    def add_attributes(self, values: Json) -> None:
        """Add attributes to the root group; do not change the keys that ``__init__`` sets."""
        with disk_errors(self.target):
            self._group.update_attributes(plain_json(values))

    def write_networks(self, networks: Mapping[str, Mapping[str, FloatArray]]) -> None:
        """Write network parameters by network and name; replaces networks of these names."""
        with disk_errors(self.target):
            root = self._group.require_group(NETWORKS)
            for name, parameters in networks.items():
                group = root.create_group(name, overwrite=True)
                for parameter, value in parameters.items():
                    array = group.create_array(
                        parameter,
                        shape=value.shape,
                        dtype="float32",
                        chunks=tuple(max(1, side) for side in value.shape),
                        fill_value=0,
                        config=WRITE_ALL,
                    )
                    array[...] = value

    def finish(self) -> None:
        """Mark the store complete and rename it to ``target``; every batch must be written."""
        if missing := self.pending():
            raise ValueError(
                f"{len(missing)} batches are not written yet, the first is {missing[0]}"
            )
        self._put_in_place([*ARRAYS, *network_arrays(self._partial)])
