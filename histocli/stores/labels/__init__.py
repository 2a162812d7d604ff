"""Label store: the nuclei of one slide, as an OME-Zarr 0.5 image of the slide with labels over it.

``histosynth-labels/1``, layout ``slide``::

    slide.ome.zarr
    ├── 0, 1, ...          uint8   (c, y, x)     overviews of the slide in RGB, each half as fine
    │                                            as the one before; 0 has at most 8 um a pixel
    ├── labels
    │   └── nuclei
    │       └── 0, 1, ...  uint32  (y, x)        0 = background, k = nucleus k; level 0 has a
    │                                            pixel for each slide pixel, a coarser pixel has
    │                                            the label at the centre of its block
    ├── tables
    │   └── nuclei                               a row for each nucleus, ordered by id
    │       ├── id         uint32  (nucleus,)    1..n in the order of anchors, y then x
    │       ├── y_um, x_um float64 (nucleus,)    centroid; y_px, x_px: centroid in slide pixels
    │       ├── box        int32   (nucleus, 4)  y0, x0, y1, x1, half open, in slide pixels
    │       ├── area_um2   float32 (nucleus,)
    │       └── ...        float32 (nucleus,)    probability, hematoxylin (mean concentration),
    │                                            eccentricity, elongation, orientation_rad,
    │                                            major_um, minor_um
    ├── tissue             uint8   (y, x)        1 where the slide was segmented; one value per
    │                                            pixel of overview 0
    ├── tiles_done         uint8   (y, x)        1 once a shard of labels/nuclei/0 is finished
    └── attributes
        ├── ome            OME-Zarr 0.5 metadata
        └── histosynth     contract, command, config, config_hash, ..., complete; layout, mpp,
                           mpp_source, shape, n_nuclei, n_cut, mm2; source {name, sha256}; model
                           {name, sha256, backend}: backend ran it, such as openvino-int8;
                           glass_level (of empty glass, 64..256); contrast {mean, spread,
                           spreads}: stain of the slide; stain_distance to what the model has
                           seen; far, whether that is further than usual; blurred_share of
                           the tissue; ink_mm2 of a pen; files {<array>: [number of files,
                           bytes]}

A shard is a file that holds several chunks. The anchor of a nucleus is the pixel that stands for
its place (:mod:`histocli.instances.anchors`). Positions in micrometres, in the table and in the
OME-Zarr metadata, count from the centre of the slide's first pixel. A pixel of a coarser level is a
block of slide pixels; the translation of a level is the centre of its first block, as viewers
expect. Other tools may add labels and tables.

``n_cut`` counts nuclei that may be cut: they touch a border of the window in which they were found,
and the slide goes on behind it. While a store is being made, its folder ``work`` holds the objects
found so far, so that a later run segments only the remaining windows.

Layout ``patches``, for the patches of a patch store::

    patches.labels.zarr
    ├── instance_labels    uint32  (patch, y, x) in each patch 0 = background, 1..n in the order of
    │                                            anchors
    ├── n_nuclei           uint32  (patch,)
    ├── batches_done       uint8   (batch,)      1 once that shard of instance_labels is written
    └── attributes         histosynth: as above, with layout, mpp, source, model and n_nuclei
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
