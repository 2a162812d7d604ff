"""Patch store: patches with nucleus labels, synthetic or a person's own, as a sharded Zarr 3 group.

``histosynth-patches/1``::

    patches.zarr
    ├── image            uint8    (patch, y, x, channel)  sRGB; a chunk is a patch, a shard a batch
    ├── instance_labels  int32    (patch, y, x)           ids 1..n in depth order, 0 background,
    │                                                     -1 ignored (no loss, no score)
    ├── weight           float32  (patch,)                how often training draws the patch, >= 0
    ├── reference        int32    (patch,)                which of ``references`` it follows
    ├── batches_done     uint8    (batch,)                1 once a shard of every array is on disk
    ├── networks/<name>/<parameter>  float32              of a refined store: the network that
    │                                                     repainted it, and its critics
    └── attributes
        ├── histosynth   contract, command, config, config_hash, seed, package_version, created,
        │                complete, files {<array>: [number of files, bytes]}
        ├── mpp          micrometres per pixel of all patches
        ├── origin       initial (drawn), refined (after the GAN) or labelled (by a person)
        ├── shippable    false when a licence forbids giving away weights that learned from it
        ├── references   [{name, sha256, mpp, mpp_source, statistics, path}, ...]
        └── initial, refinement   of a refined store: the store it came from, and how it went

Two writers in one shard would lose data silently, so work is cut along the shards
(:meth:`PatchStoreWriter.pending`), and one process makes all metadata up front. ``files`` is
recorded at the end, because Zarr reads a missing shard as zeros.
"""

from histocli.stores.patches.layout import CONTRACT, ReferenceRecord
from histocli.stores.patches.reader import PatchStore
from histocli.stores.patches.writer import PatchStoreWriter

__all__ = ["CONTRACT", "PatchStore", "PatchStoreWriter", "ReferenceRecord"]
