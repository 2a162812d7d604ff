"""Patch store: patches with nucleus labels, synthetic or a person's own, as one sharded Zarr 3
group.

``histosynth-patches/1``::

    patches.zarr
    ├── image            uint8    (patch, y, x, channel)  sRGB; a chunk is a patch, a shard a batch of patches
    ├── instance_labels  int32    (patch, y, x)           ids 1..n in depth order, 0 background, -1 ignored (no loss, no score)
    ├── weight           float32  (patch,)                how often training draws the patch, >= 0
    ├── reference        int32    (patch,)                which item of ``references`` the patch follows
    ├── batches_done     uint8    (batch,)                1 once a shard of every array is on disk
    ├── networks/<name>/<parameter>  float32              of a refined store: what repainted it, and its critics
    └── attributes       histosynth: {contract, command, config, config_hash, seed, package_version, created, complete,
                                      files: {<array>: [number of files, bytes]}}
                         mpp         micrometres per pixel of all patches
                         origin      initial (drawn), refined (after the GAN) or labelled (by a person)
                         shippable   false when a licence forbids giving away weights that learned from it
                         references  [{name, sha256, mpp, mpp_source, statistics, path}, ...]
                         initial, refinement  of a refined store: the store it came from, and how it went

Two writers in one shard would lose data silently. So work is cut along the shards
(:meth:`PatchStoreWriter.pending`), and all metadata is made up front by one process. ``files`` is
recorded at the end, because Zarr reads a missing shard as zeros.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from histocli.base import files
from histocli.base.errors import InvalidStore, StoreExists
from histocli.base.files import disk_errors, partial_path
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line, plain_json
from histocli.base.types import Json
from histocli.base.units import MPP_RANGE
from histocli.stores import provenance as records
from histocli.stores.provenance import DAMAGED, OutputLock, Provenance

CONTRACT = "histosynth-patches/1"
NETWORKS = "networks"
ORIGINS = ("initial", "refined", "labelled")
SHARD_PATCHES = 32
SHARD_PIXELS = SHARD_PATCHES * 256 * 256  # a shard is held in memory while it is written
# One quick level for images, whose noise does not compress; one thorough level for labels, which
# do.
IMAGE_COMPRESSOR = ZstdCodec(level=1)
LABEL_COMPRESSOR = ZstdCodec(level=3)

_ARRAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "image": ("uint8", ("patch", "y", "x", "channel")),
    "instance_labels": ("int32", ("patch", "y", "x")),
    "weight": ("float32", ("patch",)),
    "reference": ("int32", ("patch",)),
    "batches_done": ("uint8", ("batch",)),
}


@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """A reference image as a store remembers it: what it was, and what was measured on it."""

    name: str
    """File name, without folders."""
    sha256: str
    """Hash of the file's bytes."""
    mpp: float
    """Its own pixel size, in micrometres per pixel."""
    mpp_source: str
    """Where that came from, such as ``given``, ``ome-xml`` or ``assumed``."""
    statistics: Json = field(default_factory=dict)
    """Everything measured on it: nested objects, lists and numbers."""
    path: str = ""
    """Where it lay; empty when unknown. ``sha256`` says whether it still is the same."""

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "mpp": float(self.mpp),
            "mpp_source": self.mpp_source,
            "statistics": plain_json(self.statistics),
            "path": self.path,
        }

    @classmethod
    def from_json(cls, values: Any, where: Path) -> ReferenceRecord:
        """Check and take up one item of ``references``.

        Raises
        ------
        InvalidStore
            A key is missing or of the wrong kind.
        """
        kinds: dict[str, type | tuple[type, ...]] = {
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
    """Return how many patches of side ``patch_px`` share a shard: at most 32, and no more pixels
    than 32 of side 256.
    """
    return max(1, min(SHARD_PATCHES, SHARD_PIXELS // patch_px**2))


class PatchStoreWriter:
    """Writes a patch store, one shard-aligned batch after the other, in any order and from several
    threads.

    Made by :meth:`create`; use as a context manager::

        with PatchStoreWriter.create(target, n=2000, ...) as writer:
            for batch in writer.pending():
                writer.write(batch, image, instance_labels, weight, reference)
            writer.finish()

    Leaving the context without :meth:`finish` keeps the partial store for ``--resume``.
    """

    def __init__(
        self,
        target: Path,
        group: zarr.Group,
        lock: OutputLock,
        *,
        n: int,
        patch_px: int,
        n_references: int,
    ) -> None:
        """Use :meth:`create`."""
        self.target = target
        self.n = n
        self.patch_px = patch_px
        self._partial = partial_path(target)
        self._group = group
        self._lock = lock
        self._n_references = n_references
        self._batch_patches = shard_patches(patch_px)
        self._arrays: dict[str, zarr.Array[Any]] = {name: _array(group, name) for name in _ARRAYS}
        self._marks = np.asarray(self._arrays["batches_done"][:])
        self._marks_lock = threading.Lock()

    @classmethod
    def create(
        cls,
        target: Path,
        *,
        n: int,
        patch_px: int,
        mpp: float,
        origin: str,
        references: Sequence[ReferenceRecord],
        provenance: Provenance,
        resume: bool,
        shippable: bool = True,
    ) -> PatchStoreWriter:
        """Make all metadata of a store of ``n`` patches, or take up the partial one.

        Call :func:`histocli.stores.provenance.prepare_output` before; ``resume`` is true when it
        returned ``"resume"``.

        Parameters
        ----------
        target : Path
            Where the finished store will be.
        n : int
            Number of patches, >= 1.
        patch_px : int
            Side of a patch, in pixels.
        mpp : float
            Pixel size of the patches, in micrometres per pixel.
        origin : {"initial", "refined", "labelled"}
        references : sequence of ReferenceRecord
            At least one.
        provenance : Provenance
            Its contract must be :data:`CONTRACT`.
        resume : bool
            Go on with the partial store beside the target; where there is none, one is begun.
        shippable : bool
            False when a licence forbids giving away weights that learned from it.

        Raises
        ------
        StoreExists
            Another process writes the same output, or the partial store is of another make.
        OutOfResources
            The disk is full or the place cannot be written.
        """
        assert n >= 1, n
        assert origin in ORIGINS, origin
        assert references, "a store without references"
        assert provenance.contract == CONTRACT, provenance.contract
        partial = partial_path(target)
        lock = OutputLock(target)
        try:
            with disk_errors(target):
                found = records.peek(partial) if resume else None
                if found is None:
                    records.remove_ours(partial, CONTRACT)
                    attributes = {
                        ATTRIBUTE: provenance.to_json(),
                        "mpp": float(mpp),
                        "origin": origin,
                        "shippable": shippable,
                        "references": [record.to_json() for record in references],
                    }
                    group = zarr.create_group(partial, zarr_format=3, attributes=attributes)
                else:
                    if (found.contract, found.config_hash) != (CONTRACT, provenance.config_hash):
                        raise StoreExists(
                            f"{target}: an unfinished one was begun with other settings or inputs; start anew with --overwrite"
                        )
                    group = zarr.open_group(
                        partial, mode="r+", zarr_format=3, use_consolidated=False
                    )
                _create_arrays(group, partial, n, patch_px)
                return cls(
                    target, group, lock, n=n, patch_px=patch_px, n_references=len(references)
                )
        except BaseException:
            lock.release()
            raise

    def batches(self) -> list[range]:
        """Return the patches of every shard."""
        step = self._batch_patches
        return [range(start, min(start + step, self.n)) for start in range(0, self.n, step)]

    def pending(self) -> list[range]:
        """Return the batches that are not on disk yet."""
        return [batch for batch, done in zip(self.batches(), self._marks, strict=True) if not done]

    def write(
        self,
        batch: range,
        image: npt.NDArray[np.uint8],
        instance_labels: npt.NDArray[np.int32],
        weight: npt.NDArray[np.float32],
        reference: npt.NDArray[np.int32],
    ) -> None:
        """Write one of the :meth:`batches`. Several threads may write different batches at a time.

        Parameters
        ----------
        batch : range
            One of :meth:`pending`.
        image : ndarray of uint8, shape (len(batch), patch_px, patch_px, 3)
        instance_labels : ndarray of int32, shape (len(batch), patch_px, patch_px)
            In each patch the ids 1..n without gaps, 0 and -1.
        weight : ndarray of float32, shape (len(batch),)
            Finite, >= 0.
        reference : ndarray of int32, shape (len(batch),)
            Indices into the references.

        Raises
        ------
        ValueError
            The content breaks the contract: a mistake of the caller.
        OutOfResources
            The disk is full; what was written before stays, and the batch stays pending.
        """
        number, misaligned = divmod(batch.start, self._batch_patches)
        if misaligned or batch != range(
            batch.start, min(batch.start + self._batch_patches, self.n)
        ):
            raise ValueError(
                f"{batch} is not one of the shards of {self._batch_patches} patches; two writers in one shard lose data"
            )
        side = self.patch_px
        values: dict[str, npt.NDArray[Any]] = {
            "image": image,
            "instance_labels": instance_labels,
            "weight": weight,
            "reference": reference,
        }
        shapes = {
            "image": (side, side, 3),
            "instance_labels": (side, side),
            "weight": (),
            "reference": (),
        }
        for name, value in values.items():
            expected = (len(batch), *shapes[name])
            if value.shape != expected or value.dtype != _ARRAYS[name][0]:
                raise ValueError(
                    f"{name} must be {_ARRAYS[name][0]} {expected}, got {value.dtype} {value.shape}"
                )
        for index, labels in zip(batch, instance_labels, strict=True):
            check_ids(labels, f"patch {index}")
        if not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError("weight must be finite and not negative")
        if not ((reference >= 0) & (reference < self._n_references)).all():
            raise ValueError(f"reference must index the {self._n_references} references")
        where = slice(batch.start, batch.stop)
        with disk_errors(self.target):
            for name, value in values.items():
                self._arrays[name][where] = value
                files.sync_file(_chunk_file(self._partial, self._arrays[name], number))
            with self._marks_lock:
                self._marks[number] = 1
                self._arrays["batches_done"][:] = self._marks

    def read_back(self, batch: range) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Return images and labels of a batch that was written."""
        where = slice(batch.start, batch.stop)
        with readable(self.target):
            return np.asarray(self._arrays["image"][where]), np.asarray(
                self._arrays["instance_labels"][where]
            )

    def weights(self) -> npt.NDArray[np.float32]:
        """Return the weights written so far."""
        with readable(self.target):
            return np.asarray(self._arrays["weight"][:], np.float32)

    def replace_weights(self, weight: npt.NDArray[np.float32]) -> None:
        """Write the weights of all patches anew, once they are known.

        Parameters
        ----------
        weight : ndarray of float32, shape (n,)
            Finite, >= 0.
        """
        if weight.shape != (self.n,) or not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError(f"weight must be finite, not negative and of shape ({self.n},)")
        with disk_errors(self.target):
            self._arrays["weight"][:] = weight.astype(np.float32)

    def add_attributes(self, values: Json) -> None:
        """Add attributes beside ``references``; keys of the contract are not to be changed."""
        with disk_errors(self.target):
            self._group.update_attributes(plain_json(values))

    def write_networks(self, networks: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]) -> None:
        """Write networks under ``networks/<name>/<parameter>``; those of an interrupted run are
        replaced.

        Parameters
        ----------
        networks : mapping of name to mapping of parameter to array
        """
        with disk_errors(self.target):
            root = self._group.require_group(NETWORKS)
            for name, parameters in networks.items():
                group = root.create_group(name, overwrite=True)
                for parameter, value in parameters.items():
                    array = group.create_array(
                        parameter, shape=value.shape, dtype="float32", chunks=tuple(max(1, side) for side in value.shape),
                        fill_value=0, config={"write_empty_chunks": True},
                    )  # fmt: skip
                    array[...] = value

    def finish(self) -> None:
        """Mark the store complete and put it in its place.

        Raises
        ------
        ValueError
            A batch is missing: a mistake of the caller.
        StoreExists, OutOfResources
            As :func:`histocli.stores.provenance.finish`.
        """
        if missing := self.pending():
            raise ValueError(
                f"{len(missing)} batches are not written yet, the first is {missing[0]}"
            )
        with disk_errors(self.target):
            records.remove_temporaries(self._partial)
            names = [*_ARRAYS, *_network_arrays(self._partial)]
            records.update_attribute(
                self._partial,
                {"files": {name: _count_files(self._partial / name) for name in names}},
            )
        records.finish(self._partial, self.target)
        self.close()

    def close(self) -> None:
        """Let go of the output without finishing it; the partial store stays for ``--resume``."""
        self._lock.release()

    def __enter__(self) -> PatchStoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PatchStore:
    """A complete patch store, opened for reading and checked.

    Attributes
    ----------
    path : Path
    image : zarr.Array of uint8, shape (n, patch_px, patch_px, 3)
        Slices as a NumPy array does.
    instance_labels : zarr.Array of int32, shape (n, patch_px, patch_px)
    weight : ndarray of float32, shape (n,)
    reference : ndarray of int32, shape (n,)
    references : list of ReferenceRecord
    mpp : float
    patch_px : int
    origin : str
    shippable : bool
    provenance : Provenance
    variation : dict or None
        How parameters vary from patch to patch, where they were re-sampled.
    """

    def __init__(self, path: Path, group: zarr.Group, provenance: Provenance) -> None:
        """Use :meth:`open`."""
        attributes = group.attrs.asdict()
        _check_arrays(path, group)
        _check_agreement(path, group)
        _check_pixel_size(path, attributes)
        _check_origin(path, attributes)
        _check_files(path, attributes)
        self.path = path
        self._group = group
        self.provenance = provenance
        self.references = _check_references(path, attributes)
        self.image = _array(group, "image")
        self.instance_labels = _array(group, "instance_labels")
        with readable(path):
            self.weight: npt.NDArray[np.float32] = np.asarray(_array(group, "weight")[:])
            self.reference: npt.NDArray[np.int32] = np.asarray(_array(group, "reference")[:])
            marks = np.asarray(_array(group, "batches_done")[:])
        _check_values(path, self.weight, self.reference, len(self.references))
        _check_marks(path, marks)
        self.mpp = float(attributes["mpp"])  # type: ignore[arg-type]  # checked above
        self.origin = str(attributes["origin"])
        self.shippable = bool(attributes["shippable"])
        self.patch_px = int(self.image.shape[1])
        varied = attributes.get("variation")
        self.variation: Json | None = varied if isinstance(varied, dict) else None

    @classmethod
    def open(cls, path: Path | str) -> PatchStore:
        """Open a store and check everything that does not need the pixels.

        Raises
        ------
        StoreNotFound
            There is none.
        InvalidStore
            It breaks a rule of the contract; the message names it.
        """
        path = Path(path)
        group, provenance = records.open_group(path, CONTRACT)
        return cls(path, group, provenance)

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def batch_patches(self) -> int:
        """Patches in a shard: reading along them opens each file once."""
        shards = self.image.shards or self.image.chunks
        return int(shards[0])

    def batches(self) -> list[range]:
        """Return the patches of every shard."""
        return [
            range(start, min(start + self.batch_patches, len(self)))
            for start in range(0, len(self), self.batch_patches)
        ]

    def read(self, patches: range | slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Read images and labels of consecutive patches.

        Returns
        -------
        image : ndarray of uint8, shape (n, patch_px, patch_px, 3)
        instance_labels : ndarray of int32, shape (n, patch_px, patch_px)

        Raises
        ------
        InvalidStore
            A shard is damaged.
        """
        where = slice(patches.start, patches.stop)
        with readable(self.path):
            return np.asarray(self.image[where]), np.asarray(self.instance_labels[where])

    def networks(self) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
        """Return the networks that refinement left in the store, by name and parameter; empty in
        other stores.
        """
        found: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
        with readable(self.path):
            for path in _network_arrays(self.path):
                _, name, parameter = path.split("/")
                array = self._group[path]
                assert isinstance(array, zarr.Array)
                found.setdefault(name, {})[parameter] = np.asarray(array[...], np.float32)
        return found

    @property
    def attributes(self) -> Json:
        """All attributes of the store."""
        return dict(self._group.attrs.asdict())

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256()
        identity = {
            "mpp": self.mpp,
            "origin": self.origin,
            "shippable": self.shippable,
            # where they lay does not count
            "references": [record.to_json() | {"path": ""} for record in self.references],
            "shape": list(self.image.shape),
        }
        digest.update(json.dumps(identity, sort_keys=True).encode())
        for name in ("image", "instance_labels", "weight", "reference"):
            for file in _chunk_files(self.path / name):
                digest.update(file.relative_to(self.path).as_posix().encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def content_hash(self) -> str:
        """Return the SHA-256 of what the store holds, whenever and wherever it was made."""
        return self._hash


class readable:  # noqa: N801 - reads as a statement: with readable(path)
    """Turn what Zarr raises over damaged chunks into ``InvalidStore``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, (OSError, ValueError, RuntimeError, KeyError)) and not isinstance(
            error, InvalidStore
        ):
            raise InvalidStore(
                f"{self._path}: a chunk cannot be read ({first_line(error)}); {DAMAGED}"
            ) from error


def check_ids(instance_labels: npt.NDArray[np.int32], where: str) -> None:
    """Raise ``ValueError`` unless the ids of a patch are 1..n without gaps, beside 0 and -1."""
    if int(instance_labels.min()) < -1:
        raise ValueError(
            f"{where}: instance_labels must be -1 or larger, got {instance_labels.min()}"
        )
    top = int(instance_labels.max())
    if top <= 0:
        return
    counts = (
        np.bincount(instance_labels[instance_labels > 0])
        if top <= instance_labels.size
        else np.zeros(2, int)
    )
    if not counts[1:].all():
        raise ValueError(
            f"{where}: ids of instance_labels must be 1..n without gaps, but the largest is {top} and some are missing"
        )


def _create_arrays(group: zarr.Group, partial: Path, n: int, patch_px: int) -> None:
    """Create the arrays that a partial store lacks: an interruption may have come between two of
    them.
    """
    batch = shard_patches(patch_px)
    n_batches = -(-n // batch)
    pixels = (patch_px, patch_px)
    plans: dict[str, dict[str, Any]] = {
        "image": {
            "shape": (n, *pixels, 3),
            "chunks": (1, *pixels, 3),
            "shards": (batch, *pixels, 3),
            "compressors": IMAGE_COMPRESSOR,
        },
        "instance_labels": {
            "shape": (n, *pixels),
            "chunks": (1, *pixels),
            "shards": (batch, *pixels),
            "compressors": LABEL_COMPRESSOR,
        },
        "weight": {"shape": (n,), "chunks": (batch,), "compressors": LABEL_COMPRESSOR},
        "reference": {"shape": (n,), "chunks": (batch,), "compressors": LABEL_COMPRESSOR},
        "batches_done": {
            "shape": (n_batches,),
            "chunks": (n_batches,),
            "compressors": LABEL_COMPRESSOR,
        },
    }
    for name, plan in plans.items():
        dtype, dimensions = _ARRAYS[name]
        if (partial / name / records.METADATA_FILE).exists():
            found = _array(group, name)
            if (
                found.shape != plan["shape"]
                or found.dtype != dtype
                or found.chunks != plan["chunks"]
            ):
                raise StoreExists(
                    f"{partial}: {name} is of another make; start anew with --overwrite"
                )
        else:
            # Empty chunks are written, so that a missing file is a missing file.
            group.create_array(
                name,
                dtype=dtype,
                fill_value=0,
                dimension_names=dimensions,
                config={"write_empty_chunks": True},
                **plan,
            )


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise InvalidStore(f"{group.store_path}: {name} is a group and must be an array; {DAMAGED}")
    return array.with_config({"write_empty_chunks": True})


def _chunk_file(store: Path, array: zarr.Array[Any], number: int) -> Path:
    """Return the file of the ``number``-th shard or chunk along the first axis."""
    return store.joinpath(array.basename, "c", str(number), *["0"] * (array.ndim - 1))


def _chunk_files(array: Path) -> Iterator[Path]:
    """Yield the files of an array's shards or chunks, in the order of their paths."""
    folder = array / "c"
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def _network_arrays(store: Path) -> list[str]:
    """Return the arrays of a store's networks, as paths within it."""
    folder = store / NETWORKS
    return sorted(
        file.parent.relative_to(store).as_posix()
        for file in folder.glob(f"*/*/{records.METADATA_FILE}")
    )


def _count_files(array: Path) -> list[int]:
    sizes = [file.stat().st_size for file in _chunk_files(array)]
    return [len(sizes), sum(sizes)]


def _check_arrays(path: Path, group: zarr.Group) -> None:
    """Every array is there, with its dtype and number of axes."""
    for name, (dtype, dimensions) in _ARRAYS.items():
        try:
            array = _array(group, name)
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise InvalidStore(
                f"{path}: array {name} is missing or its metadata is damaged; {DAMAGED}"
            ) from error
        if array.dtype != dtype or array.ndim != len(dimensions):
            raise InvalidStore(
                f"{path}: {name} is {array.dtype} with {array.ndim} axes, but must be {dtype} ({', '.join(dimensions)}); "
                f"{DAMAGED}"
            )


def _check_agreement(path: Path, group: zarr.Group) -> None:
    """Patches are square and RGB, at least one, and every array has one item for each."""
    image = _array(group, "image").shape
    n, height, width, channels = image
    if n < 1 or height != width or channels != 3:
        raise InvalidStore(
            f"{path}: image has shape {image}, but must be (patch, y, x, 3) with y = x and at least one patch; {DAMAGED}"
        )
    for name, expected in {
        "instance_labels": (n, height, width),
        "weight": (n,),
        "reference": (n,),
    }.items():
        found = _array(group, name).shape
        if found != expected:
            raise InvalidStore(
                f"{path}: {name} has shape {found} but image has {image}; patches must agree; {DAMAGED}"
            )


def _check_pixel_size(path: Path, attributes: Json) -> None:
    """``mpp`` is a pixel size that a microscope can have."""
    mpp = attributes.get("mpp")
    if (
        isinstance(mpp, bool)
        or not isinstance(mpp, (int, float))
        or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]
    ):
        raise InvalidStore(
            f"{path}: attribute mpp must lie between {MPP_RANGE[0]} and {MPP_RANGE[1]} micrometres per pixel, got {mpp!r}; "
            f"{DAMAGED}"
        )


def _check_origin(path: Path, attributes: Json) -> None:
    """``origin`` is a known word, and ``shippable`` says yes or no."""
    if attributes.get("origin") not in ORIGINS:
        raise InvalidStore(
            f"{path}: attribute origin must be one of {', '.join(ORIGINS)}, got {attributes.get('origin')!r}; {DAMAGED}"
        )
    if not isinstance(attributes.get("shippable"), bool):
        raise InvalidStore(
            f"{path}: attribute shippable must be true or false, got {attributes.get('shippable')!r}; {DAMAGED}"
        )


def _check_references(path: Path, attributes: Json) -> list[ReferenceRecord]:
    """``references`` is a list of records, not empty."""
    values = attributes.get("references")
    if not isinstance(values, list) or not values:
        raise InvalidStore(
            f"{path}: attribute references must be a list with at least one item; {DAMAGED}"
        )
    return [ReferenceRecord.from_json(value, path) for value in values]


def _check_files(path: Path, attributes: Json) -> None:
    """No shard is missing or cut short; Zarr would read zeros."""
    files = attributes[ATTRIBUTE].get("files")
    if not isinstance(files, dict):
        raise InvalidStore(f"{path}: {ATTRIBUTE}.files is missing; {DAMAGED}")
    for name in [*_ARRAYS, *(name for name in files if name.startswith(f"{NETWORKS}/"))]:
        found = _count_files(path / name)
        if found != files.get(name):
            expected = files.get(name) or [0, 0]
            raise InvalidStore(
                f"{path}: {name} has {found[0]} files of {found[1]} bytes, but {expected[0]} of {expected[1]} were written; "
                "copy the store again, or make it again with --overwrite"
            )


def _check_values(
    path: Path, weight: npt.NDArray[np.float32], reference: npt.NDArray[np.int32], n_references: int
) -> None:
    """Weights can be drawn by, and every patch follows a reference that is recorded."""
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise InvalidStore(f"{path}: weight must be finite and not negative; {DAMAGED}")
    if not ((reference >= 0) & (reference < n_references)).all():
        raise InvalidStore(
            f"{path}: reference must index the {n_references} items of references; {DAMAGED}"
        )


def _check_marks(path: Path, marks: npt.NDArray[np.uint8]) -> None:
    """A store that calls itself complete has written all its batches."""
    if not marks.all():
        raise InvalidStore(
            f"{path}: {int((marks == 0).sum())} of {marks.size} batches were never written; {DAMAGED}"
        )
