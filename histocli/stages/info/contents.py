"""Descriptions of slides, models and label stores."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histocli.base.errors import UnknownPixelSize
from histocli.base.pyramid import nearest_level
from histocli.base.types import Json, RGBImage
from histocli.config.info import InfoConfig
from histocli.figures.sheets import patch_sheet
from histocli.instances.histograms import distribution
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stores import labels as label_stores
from histocli.stores import models
from histocli.stores.patches import ReferenceRecord
from histocli.stores.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Description:
    """Facts about a store, model or slide, and how to draw it."""

    kind: str
    """``patches``, ``labels``, ``model`` or ``slide``."""
    contents: Json
    provenance: Provenance | None = None
    """Record of how the store or model was made; None for a slide."""
    references: Sequence[ReferenceRecord] = ()
    draw: Callable[[InfoConfig], RGBImage] | None = None
    """Draws a sheet of patches or of the slide; None where the store holds no pixels."""


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files of a store, in megabytes (10^6 bytes)."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 3)


def describe_slide(path: Path) -> Description:
    """Describe a slide; where it records no pixel size, ``mpp`` and ``mm2`` are None."""
    known = True
    try:
        slide = open_slide(path)
    except UnknownPixelSize:
        known, slide = False, open_slide(path, mpp=1.0)
    with closing(slide):
        height, width = shape_of(slide)
        mpp = slide.mpp
        contents = {
            "backend": slide.backend,
            "height_px": height,
            "width_px": width,
            "megapixels": round(height * width / 1e6, 2),
            "mpp": mpp if known else None,
            "mpp_source": slide.mpp_source if known else "none",
            "mm2": round(height * width * mpp**2 / 1e6, 4) if known else None,
            "levels": [
                {
                    "height_px": level.shape[0],
                    "width_px": level.shape[1],
                    "downsample": round(level.downsample, 4),
                    "mpp": round(mpp * level.downsample, 5) if known else None,
                }
                for level in slide.levels
            ],
            "megabytes": megabytes(path),
        }
    return Description(kind="slide", contents=contents)


def describe_model(path: Path) -> Description:
    """Describe a model by the header of its file."""
    header = models.read_model_header(path)
    contents = {
        "kind": header.kind,
        "architecture": header.architecture,
        "parameters": models.count_parameters(path),
        "mpp": header.mpp,
        "shippable": header.shippable,
        "normalisation": header.normalisation,
        "thresholds": header.thresholds,
        "training": header.training,
        "data": header.data,
        "megabytes": megabytes(path),
    }
    return Description(kind="model", provenance=header.provenance, contents=contents)


def describe_labels(path: Path) -> Description:
    """Describe a label store by its facts, counts and distributions of measurements."""
    store = label_stores.open_labels(path)
    known = (
        *("mpp_source", "mm2", "source", "model"),
        *("n_cut", "stain_distance", "far", "blurred_share", "ink_mm2"),
    )
    facts = {key: store.facts[key] for key in known if key in store.facts}
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
    """Draw the overview of a slide, and the labels at the resolution nearest to the overview."""
    overview = store.overview()
    factor = max(1, round(max(store.shape) / max(overview.shape[:2])))
    level = factor.bit_length() - 1  # each level halves the resolution
    has_level = level < store.n_levels
    labels = store.labels(level) if has_level else nearest_level(store.labels(), factor)
    height, width = map(min, overview.shape, labels.shape)
    mpp = store.mpp * max(store.shape) / max(overview.shape[:2])
    cut = labels[:height, :width].astype(np.int64)
    return patch_sheet([overview[:height, :width]], [cut], mpp=mpp)
