"""What is in a label store, of a slide or of patches."""

from pathlib import Path

import numpy as np

from histocli.base.pyramid import nearest_level
from histocli.base.types import Json, RGBImage
from histocli.figures.sheets import patch_sheet
from histocli.instances.histograms import distribution
from histocli.stages.info.description import Description, megabytes
from histocli.stores import labels as label_stores


def describe_labels(path: Path) -> Description:
    """Count what is in a label store."""
    store = label_stores.open_labels(path)
    facts: Json = {
        key: store.facts[key]
        for key in ("mpp_source", "mm2", "source", "model")
        if key in store.facts
    }
    height, width = store.shape
    contents: Json = {
        "layout": store.layout,
        "label_images": len(store),
        "height_px": height,
        "width_px": width,
        "mpp": store.mpp,
        "nuclei": store.n_nuclei,
        **facts,
    }
    if store.layout == "patches":
        per_patch = np.array([int(store.label_image(index).max()) for index in range(len(store))])
        contents["nuclei_per_patch"] = distribution(per_patch)
        return Description(kind="labels", provenance=store.provenance, contents=contents)
    if facts.get("mm2"):
        contents["nuclei_per_mm2"] = store.n_nuclei / facts["mm2"]
    for name, column in store.table.items():
        if column.ndim == 1 and name not in ("id", "y_um", "x_um"):
            contents[name] = distribution(column)
    contents["megabytes"] = megabytes(path)
    return Description(
        kind="labels",
        provenance=store.provenance,
        contents=contents,
        draw=lambda config: _draw_labels(store),
    )


def _draw_labels(store: label_stores.LabelStore) -> RGBImage:
    """Return the overview of a slide beside its outlines; the labels come from the level of the
    same size.
    """
    overview = store.overview()
    factor = max(1, round(max(store.shape) / max(overview.shape[:2])))
    level = factor.bit_length() - 1  # levels halve
    labels = (
        store.labels(level) if level < store.n_levels else nearest_level(store.labels(), factor)
    )
    height, width = (
        min(one, other) for one, other in zip(overview.shape, labels.shape, strict=False)
    )
    mpp = store.mpp * max(store.shape) / max(overview.shape[:2])
    return patch_sheet(
        [overview[:height, :width]], [labels[:height, :width].astype(np.int64)], mpp=mpp
    )
