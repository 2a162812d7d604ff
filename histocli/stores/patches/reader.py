"""Reading patch stores."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.types import FloatArray, InstanceLabels, Json, RGBImage
from histocli.stores.arrays import array_files, batches_of, readable
from histocli.stores.patches.checks import check_store, check_values, checked_references
from histocli.stores.patches.layout import CONTRACT, network_arrays
from histocli.stores.provenance import open_group


class PatchStore:
    """A complete patch store, opened for reading and checked.

    Attributes
    ----------
    image : zarr.Array of uint8, shape (n, patch_px, patch_px, 3)
    instance_labels : zarr.Array of int32, shape (n, patch_px, patch_px)
    weight : ndarray of float32, shape (n,)
    reference : ndarray of int32, shape (n,)
    variation : dict or None
        How the parameters of drawing vary between patches; None if the store does not say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group, self.provenance = open_group(path, CONTRACT)
        self.attributes: Json = dict(self._group.attrs.asdict())
        arrays = check_store(path, self._group, self.attributes)
        self.references = checked_references(path, self.attributes)
        self.image = arrays["image"]
        self.instance_labels = arrays["instance_labels"]
        with readable(path):
            self.weight: FloatArray = np.asarray(arrays["weight"][:])
            self.reference: npt.NDArray[np.int32] = np.asarray(arrays["reference"][:])
            marks = np.asarray(arrays["batches_done"][:])
        check_values(path, self.weight, self.reference, marks, len(self.references))
        self.mpp = float(self.attributes["mpp"])
        self.origin = str(self.attributes["origin"])
        self.shippable = bool(self.attributes["shippable"])
        self.patch_px = int(self.image.shape[1])
        varied = self.attributes.get("variation")
        self.variation: Json | None = varied if isinstance(varied, dict) else None

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store and check everything that does not need the pixels.

        Raises ``StoreNotFound``, or ``InvalidStore`` naming the rule that is broken.
        """
        return cls(Path(path))

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def batch_patches(self) -> int:
        """Patches in a shard (file); reading whole shards opens each file once."""
        return int((self.image.shards or self.image.chunks)[0])

    def batches(self) -> list[range]:
        """Return a range of patches for each shard."""
        return batches_of(len(self), self.batch_patches)

    def read(self, patches: range | slice) -> tuple[RGBImage, InstanceLabels]:
        """Read images and labels of patches; ``InvalidStore`` where a shard is damaged."""
        where = slice(patches.start, patches.stop)
        with readable(self.path):
            return np.asarray(self.image[where]), np.asarray(self.instance_labels[where])

    def networks(self) -> dict[str, dict[str, FloatArray]]:
        """Return the parameters of the networks of a refined store, by network and name."""
        found: dict[str, dict[str, FloatArray]] = {}
        with readable(self.path):
            for path in network_arrays(self.path):
                _, name, parameter = path.split("/")
                array = self._group[path]
                assert isinstance(array, zarr.Array)
                found.setdefault(name, {})[parameter] = np.asarray(array[...], np.float32)
        return found

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        identity = {
            "mpp": self.mpp,
            "origin": self.origin,
            "shippable": self.shippable,
            # the path of a reference image may change
            "references": [record.to_json() | {"path": ""} for record in self.references],
            "shape": list(self.image.shape),
        }
        digest.update(json.dumps(identity, sort_keys=True).encode())
        for name in ("image", "instance_labels", "weight", "reference"):
            for file in array_files(self.path / name):
                digest.update(file.relative_to(self.path).as_posix().encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def content_hash(self) -> str:
        """Return the SHA-256 of the patches and their attributes; times and paths do not count."""
        return self._hash
