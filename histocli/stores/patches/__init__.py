"""Patch store: image patches with nucleus labels, synthetic or by a person, as a Zarr 3 group.

``histosynth-patches/1``::

    patches.zarr
    ├── image            uint8    (patch, y, x, channel)  sRGB; chunk = patch, shard (file) = batch
    ├── instance_labels  int32    (patch, y, x)           ids 1..n (synthetic: larger ones on top),
    │                                                     0 background, -1 ignored (no loss/score)
    ├── weight           float32  (patch,)                how often training draws the patch, >= 0
    ├── reference        int32    (patch,)                index of its item in ``references``
    ├── batches_done     uint8    (batch,)                1 once the batch is in every array
    ├── networks/<name>/<parameter>  float32              refined store: the network that repainted
    │                                                     the patches, and its critics
    └── attributes
        ├── histosynth   contract, command, config, config_hash, seed, package_version, created,
        │                complete, files {<array>: [number of files, bytes]}
        ├── mpp          micrometres per pixel of all patches
        ├── origin       initial (drawn), refined (after the GAN) or labelled (by a person)
        ├── shippable    false when a licence forbids giving away weights that learned from it
        ├── references   real images that patches imitate or come from:
        │                [{name, sha256, mpp, mpp_source, statistics, path}, ...]
        └── initial, refinement   refined store: its initial store, and results of the refinement

Two writers in one shard would lose data silently, so a batch is a whole shard
(:meth:`PatchStoreWriter.pending`), and one process makes all metadata first. ``files`` reveals a
missing shard, which Zarr would read as zeros.
"""

from histocli.stores.patches.layout import CONTRACT, ReferenceRecord
from histocli.stores.patches.reader import PatchStore
from histocli.stores.patches.writer import PatchStoreWriter

__all__ = ["CONTRACT", "PatchStore", "PatchStoreWriter", "ReferenceRecord"]
