"""Label store: the nuclei of one slide, as an OME-Zarr 0.5 image of the slide with labels over it.

``histosynth-labels/1``, layout ``slide``::

    slide.ome.zarr
    ├── 0, 1, ...          uint8   (c, y, x)     overview of the slide in RGB, at most 8 um a pixel
    ├── labels
    │   └── nuclei
    │       └── 0, 1, ...  uint32  (y, x)        0 = background, k = nucleus k; level 0 has the
    │                                            slide's own pixels, the others show the nearest
    │                                            of them (never a mean)
    ├── tables
    │   └── nuclei                               a row for each nucleus, in the order of ids
    │       ├── id         uint32  (nucleus,)    1..n in the order of anchors, y then x
    │       ├── y_um, x_um float64 (nucleus,)    centroid; y_px, x_px: the same in slide pixels
    │       ├── box        int32   (nucleus, 4)  y0, x0, y1, x1, half open, in slide pixels
    │       ├── area_um2   float32 (nucleus,)
    │       └── ...        float32 (nucleus,)    probability, hematoxylin (mean concentration),
    │                                            eccentricity, elongation, orientation_rad,
    │                                            major_um, minor_um
    ├── tissue             uint8   (y, x)        1 where nuclei were looked for; on the grid of
    │                                            the finest overview
    ├── tiles_done         uint8   (y, x)        1 once that shard of labels/nuclei/0 is on disk
    └── attributes
        ├── ome            OME-Zarr 0.5 metadata
        └── histosynth     contract, command, config, config_hash, ..., complete; layout, mpp,
                           mpp_source, shape, n_nuclei, n_cut, mm2; source and model {name, sha256};
                           glass_level; contrast {mean, spread}, null where the model does not ask
                           for it; files {<array>: [number of files, bytes]}

Micrometres count from the centre of the slide's first pixel, in every scale and translation and in
the table. Viewers put the centre of a pixel at its coordinate, so slide, overview, labels and table
lie over each other. A coarser pixel is a block of fine ones, and a translation says where the
centre of the first block is. Other tools may add labels and tables of their own.

``n_cut`` counts nuclei that reach further than any window looks. While the store of a slide is
being made, its folder ``work`` holds what was found so far, so that a run that was stopped or
killed goes on.

Layout ``patches``, for the patches of a patch store::

    patches.labels.zarr
    ├── instance_labels    uint32  (patch, y, x) in each patch 0 = background, 1..n in the order of
    │                                            anchors
    ├── n_nuclei           uint32  (patch,)
    ├── batches_done       uint8   (batch,)      1 once that shard of instance_labels is on disk
    └── attributes         histosynth: as above, with layout, mpp, source and model
"""

from histocli.stores.labels.layout import CONTRACT, looked_at_mm2, overview_factor
from histocli.stores.labels.patches import PatchLabelsWriter
from histocli.stores.labels.reader import LabelStore, open_labels
from histocli.stores.labels.slide import FirstLook, TiledLabelsWriter, save_found

__all__ = [
    "CONTRACT",
    "FirstLook",
    "LabelStore",
    "PatchLabelsWriter",
    "TiledLabelsWriter",
    "looked_at_mm2",
    "open_labels",
    "overview_factor",
    "save_found",
]
