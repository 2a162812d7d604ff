"""Names, types, axes and sizes of the arrays of a patch store, and its records of references."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.errors import InvalidStore, StoreExists
from histocli.base.text import plain_json
from histocli.base.types import FloatArray, Json
from histocli.stores.arrays import find_array
from histocli.stores.provenance import DAMAGED, METADATA_FILE

CONTRACT = "histosynth-patches/1"
NETWORKS = "networks"
ORIGINS = ("initial", "refined", "labelled")
SHARD_PATCHES = 32  # at most this many patches share a shard
SHARD_PIXELS = SHARD_PATCHES * 256 * 256  # at most, because a shard is written from memory
# The noise of images does not compress, so a fast level is enough; labels compress well.
IMAGE_COMPRESSOR = ZstdCodec(level=1)
LABEL_COMPRESSOR = ZstdCodec(level=3)
# Chunks of zeros are written too, so that a missing file is known to be an error.
WRITE_ALL: Any = {"write_empty_chunks": True}

ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "image": ("uint8", ("patch", "y", "x", "channel")),
    "instance_labels": ("int32", ("patch", "y", "x")),
    "weight": ("float32", ("patch",)),
    "reference": ("int32", ("patch",)),
    "batches_done": ("uint8", ("batch",)),
}
"""Type and axes of each array."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """The record of a reference: a real image that patches of the store imitate or come from."""

    name: str
    """File name, without folders."""
    sha256: str
    """Hash of the file's bytes."""
    mpp: float
    """Pixel size of the reference image, in micrometres per pixel."""
    mpp_source: str
    """Where the pixel size was read, such as ``given``, ``ome-xml`` or ``assumed``."""
    statistics: Json = field(default_factory=dict)
    """All measurements of the image: nested objects, lists and numbers."""
    path: str = ""
    """Path of the image when it was read; empty if unknown."""

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return dict(plain_json(dataclasses.asdict(self)), mpp=float(self.mpp))

    @classmethod
    def from_json(cls, values: Any, where: Path) -> Self:
        """Return the record in an item of ``references``; ``InvalidStore`` if it is damaged."""
        kinds: dict[str, Any] = {
            "name": str, "sha256": str, "mpp": (int, float), "mpp_source": str, "statistics": dict,
        }  # fmt: skip
        if not isinstance(values, dict) or not all(
            isinstance(values.get(name), kind) for name, kind in kinds.items()
        ):
            raise InvalidStore(
                f"{where}: an item of references lacks one of {', '.join(kinds)}; {DAMAGED}"
            )
        return cls(**{name: values[name] for name in kinds}, path=str(values.get("path") or ""))


def shard_patches(patch_px: int) -> int:
    """Return how many patches of side ``patch_px`` share a shard, at least one."""
    return max(1, min(SHARD_PATCHES, SHARD_PIXELS // patch_px**2))


def create_arrays(
    group: zarr.Group, partial: Path, n: int, patch_px: int
) -> dict[str, zarr.Array[Any]]:
    """Return all arrays of a partial store; arrays that do not exist yet are created.

    Raises ``StoreExists`` if an existing array has another shape, type or chunk shape.
    """
    batch = shard_patches(patch_px)
    batches = -(-n // batch)
    pixels = (patch_px, patch_px)
    plans: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]] = {
        "image": ((n, *pixels, 3), (1, *pixels, 3), (batch, *pixels, 3)),
        "instance_labels": ((n, *pixels), (1, *pixels), (batch, *pixels)),
        "weight": ((n,), (batch,), None),
        "reference": ((n,), (batch,), None),
        "batches_done": ((batches,), (batches,), None),
    }
    arrays = {}
    for name, (shape, chunks, shards) in plans.items():
        dtype, axes = ARRAYS[name]
        if (partial / name / METADATA_FILE).exists():
            found = find_array(group, name)
            wanted = (np.dtype(dtype), shape, chunks)
            if found is None or (found.dtype, found.shape, found.chunks) != wanted:
                raise StoreExists(
                    f"{partial}: {name} is of another make; start anew with --overwrite"
                )
            arrays[name] = found.with_config(WRITE_ALL)
        else:
            arrays[name] = group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                shards=shards,
                compressors=IMAGE_COMPRESSOR if name == "image" else LABEL_COMPRESSOR,
                fill_value=0,
                dimension_names=axes,
                config=WRITE_ALL,
            )
    return arrays


def network_arrays(store: Path) -> list[str]:
    """Return the paths, in the store, of the arrays with the parameters of networks."""
    return sorted(
        file.parent.relative_to(store).as_posix()
        for file in (store / NETWORKS).glob(f"*/*/{METADATA_FILE}")
    )


def are_weights(weight: FloatArray) -> bool:
    """Tell whether all weights are finite and not negative."""
    return bool(np.isfinite(weight).all() and (weight >= 0).all())
