"""Files that are made from a label store, during segmentation or later: which there are, what they
are called, how each is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histocli.base.errors import InvalidOption
from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.figures.overlays import add_scale_bar, outline_overlay
from histocli.figures.qc import CROP_PX, qc_picture
from histocli.slides.resampling import shrunk
from histocli.slides.slide import Slide, shape_of
from histocli.stores import exports
from histocli.stores.labels import LabelStore, nearest_level, shrink
from histocli.stores.provenance import Provenance

SUFFIXES = {
    "ome-zarr": ".ome.zarr",
    "tiff": ".tif",
    "geojson": ".geojson.gz",
    "parquet": ".parquet",
    "csv": ".csv",
    "overlay": ".overlay.png",
    "qc": ".qc.overlay.png",  # ends like an overlay, so that evaluate takes it for a picture
    "ome-zarr-0.4": ".ome04.zarr",
}
"""What the name of each format ends in."""
CONTRACTS = {
    "tiff": exports.LABEL_IMAGE,
    "geojson": exports.OUTLINES,
    "parquet": exports.TABLE,
    "csv": exports.TABLE,
    "overlay": exports.OVERLAY,
    "qc": exports.QC,
    "ome-zarr-0.4": exports.NGFF_04,
}
NEEDS_PIXELS = ("overlay", "qc")
OVERLAY_LINE_UM = 0.5  # width of outlines
OVERLAY_PX = 100_000_000  # larger slides are drawn smaller: no viewer opens larger pictures
QC_CROPS = 12
FACTS = ("mpp", "mpp_source", "n_nuclei", "n_cut", "mm2", "source", "model")


@dataclass(frozen=True)
class Region:
    """Part of a slide, in pixels of level 0, half open."""

    rows: slice
    columns: slice


def write_output(
    name: str,
    path: Path,
    store: LabelStore,
    open_pixels: Callable[[], Slide],
    provenance: Callable[[str], Provenance],
    *,
    region: Region | None = None,
    seed: int = 0,
) -> None:
    """Write one file.

    Parameters
    ----------
    name : str
        A key of :data:`CONTRACTS`.
    path : Path
    store : LabelStore
        Of a slide.
    open_pixels : callable
        Opens the slide; called for those that show it.
    provenance : callable
        Given a contract.
    region : Region, optional
        The part to write, for ``tiff`` and ``overlay``.
    seed : int
        Of the choice of crops.
    """
    facts: Json = {key: store.facts[key] for key in FACTS if key in store.facts}
    made_by = provenance(CONTRACTS[name])
    if region is not None:
        facts["region"] = [
            region.rows.start,
            region.columns.start,
            region.rows.stop,
            region.columns.stop,
        ]
    match name:
        case "tiff":
            labels: Any = store.level(0)
            if region is not None:
                labels = np.asarray(labels[region.rows, region.columns])
            exports.write_label_tiff(path, labels, mpp=store.mpp, provenance=made_by, facts=facts)
        case "overlay":
            exports.write_overlay(
                path, _overlay(store, open_pixels, region), provenance=made_by, facts=facts
            )
        case "qc":
            exports.write_overlay(
                path, _qc(store, open_pixels, seed), provenance=made_by, facts=facts
            )
        case "geojson":
            exports.write_outlines(path, store, provenance=made_by, facts=facts)
        case "csv":
            exports.write_csv(path, store, provenance=made_by, facts=facts)
        case "parquet":
            exports.write_parquet(path, store, provenance=made_by, facts=facts)
        case "ome-zarr-0.4":
            exports.write_ngff_04(path, store.path, provenance=made_by, facts=facts)
        case _:
            raise InvalidOption(f"--format must be among {', '.join(CONTRACTS)}, got {name!r}")


def _overlay(
    store: LabelStore, open_pixels: Callable[[], Slide], region: Region | None
) -> RGBImage:
    """Draw outlines over the slide, or over a coarser copy where it is larger than any viewer
    opens.
    """
    slide = open_pixels()
    try:
        height, width = shape_of(slide)
        rows, columns = (
            (region.rows, region.columns) if region else (slice(0, height), slice(0, width))
        )
        factor = 1
        while (rows.stop - rows.start) * (
            columns.stop - columns.start
        ) > OVERLAY_PX * factor * factor:
            factor *= 2
        if factor == 1:
            pixels, labels = slide.read(0, rows, columns), np.asarray(store.level(0)[rows, columns])
        else:
            pixels = shrunk(slide, factor, shrink)
            level = factor.bit_length() - 1
            whole = (
                store.level(level)[:, :]
                if level < store.n_levels
                else nearest_level(store.labels(), factor)
            )
            rows, columns = (
                slice(side.start // factor, -(-side.stop // factor)) for side in (rows, columns)
            )
            pixels, labels = pixels[rows, columns], np.asarray(whole)[rows, columns]
    finally:
        slide.close()
    drawn = outline_overlay(
        pixels, labels, thickness_px=max(1, round(OVERLAY_LINE_UM / (store.mpp * factor)))
    )
    return add_scale_bar(drawn, store.mpp * factor)


def _qc(store: LabelStore, open_pixels: Callable[[], Slide], seed: int) -> RGBImage:
    """Draw the quality picture; crops are taken where there is tissue, at random, from as many
    places as there are.
    """
    overview, tissue = store.overview(), store.tissue
    factor = max(1, round(max(store.shape) / max(overview.shape[:2])))
    centres = np.stack(
        [np.asarray(store.columns[name][...]) for name in ("y_um", "x_um")], axis=1
    ) / (store.mpp * factor)
    rng = rng_for(seed, "qc", 0)
    side = min(CROP_PX, *store.shape)
    slide = open_pixels()
    crops = []
    try:
        # around random nuclei, which shows what there is; where there are none, anywhere on tissue
        places = (
            centres * factor if len(centres) else np.argwhere(tissue) * float(factor) + factor / 2
        )
        chosen = (
            places[rng.choice(len(places), min(QC_CROPS, len(places)), replace=False)]
            if len(places)
            else places
        )
        for place in chosen[np.lexsort((chosen[:, 1], chosen[:, 0]))]:
            top, left = (
                int(np.clip(round(middle) - side // 2, 0, size - side))
                for middle, size in zip(place, store.shape, strict=True)
            )
            rows, columns = slice(top, top + side), slice(left, left + side)
            crops.append(
                (
                    slide.read(0, rows, columns),
                    np.asarray(store.level(0)[rows, columns]).astype(np.int64),
                )
            )
    finally:
        slide.close()
    mm2 = store.facts.get("mm2") or 0.0
    found = f"{store.n_nuclei} nuclei on {mm2:.3g} mm2 at {store.mpp:.4g} um/px"
    title = f"{store.path.name}: {found}; crops of {side * store.mpp:.0f} um"
    return qc_picture(overview, tissue, centres, store.mpp * factor, crops, title)
