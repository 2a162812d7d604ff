"""Description of a patch store, with histograms of its nuclei and those of its references."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.config.info import InfoConfig
from histocli.figures.sheets import patch_sheet
from histocli.instances.histograms import (
    AREA_EDGES_UM2,
    ELONGATION_EDGES,
    distribution,
    shares,
    weighted_shares,
)
from histocli.instances.measurements import Measurements, measure
from histocli.stages.info.contents import Description, megabytes
from histocli.stores.patches import PatchStore

# edges of the bins of a histogram, in nuclei per square millimetre
DENSITY_EDGES = (0, 250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 20000)


def describe_patches(path: Path) -> Description:
    """Describe a patch store: count patches and nuclei, and measure nuclei that touch no border."""
    store = PatchStore.open(path)
    counts: list[npt.NDArray[np.int64]] = []
    nuclei: list[Measurements] = []
    n_foreground = n_ignored = 0
    for batch in store.batches():
        _, labels = store.read(batch)
        counts.append(np.maximum(labels.max(axis=(1, 2)), 0).astype(np.int64))
        nuclei.extend(measure(patch, store.mpp) for patch in labels)
        n_foreground += int((labels > 0).sum())
        n_ignored += int((labels < 0).sum())
    per_patch = np.concatenate(counts)
    whole = np.concatenate([~one.touches_border for one in nuclei])
    area = np.concatenate([one.area_um2 for one in nuclei])[whole]
    elongation = np.concatenate([one.elongation for one in nuclei])[whole]
    n_pixels = len(store) * store.patch_px**2
    contents = {
        "patches": len(store),
        "patch_px": store.patch_px,
        "mpp": store.mpp,
        "origin": store.origin,
        "shippable": store.shippable,
        "references": len(store.references),
        "patches_per_reference": distribution(
            np.bincount(store.reference, minlength=len(store.references))
        ),
        "weight": distribution(store.weight),
        "nuclei": int(per_patch.sum()),
        "nuclei_per_patch": distribution(per_patch),
        "patches_without_nuclei": int((per_patch == 0).sum()),
        "area_um2": distribution(area),
        "share_nuclei": n_foreground / max(1, n_pixels - n_ignored),
        "share_ignored": n_ignored / n_pixels,
        "megabytes": megabytes(path),
        "content_hash": store.content_hash(),
        "histograms": _histograms(store, area, elongation, per_patch),
    }
    return Description(
        kind="patches",
        provenance=store.provenance,
        contents=contents,
        references=store.references,
        draw=lambda config: _draw_patches(store, config),
    )


def _histograms(
    store: PatchStore,
    area_um2: npt.NDArray[np.float64],
    elongation: npt.NDArray[np.float64],
    per_patch: npt.NDArray[np.int64],
) -> Json:
    """Return histograms of the nuclei of the references and of the patches, in the same bins.

    Each reference has the weight of the number of patches that were made after it.
    """
    followed = np.bincount(store.reference, minlength=len(store.references))
    morphologies = [record.statistics.get("morphology") or {} for record in store.references]
    counts = [found.get("n_nuclei", 0) for found in morphologies]
    weights = [times * count for times, count in zip(followed, counts, strict=False)]

    def both(
        edges: tuple[float, ...], references: Sequence[float], drawn: npt.NDArray[Any]
    ) -> Json:
        drawn_shares = list(shares(drawn, edges))
        return {"edges": list(edges), "references": list(references), "patches": drawn_shares}

    def measured(key: str) -> list[float]:
        return weighted_shares([found.get(key) for found in morphologies], weights)

    density = np.array([found.get("density_per_mm2", 0.0) for found in morphologies] or [0.0])
    drawn_density = per_patch / (store.patch_px * store.mpp / 1000) ** 2
    followed_density = shares(density[store.reference], DENSITY_EDGES)
    return {
        "area_um2": both(AREA_EDGES_UM2, measured("area_shares"), area_um2),
        "elongation": both(ELONGATION_EDGES, measured("elongation_shares"), elongation),
        "nuclei_per_mm2": both(DENSITY_EDGES, followed_density, drawn_density),
    }


def _draw_patches(store: PatchStore, config: InfoConfig) -> RGBImage:
    n = min(config.sheet_patches, len(store))
    chosen = np.sort(rng_for(config.seed, "info").choice(len(store), n, replace=False))
    pairs = [store.read(range(index, index + 1)) for index in chosen.tolist()]
    images, labels = [image[0] for image, _ in pairs], [labels[0] for _, labels in pairs]
    return patch_sheet(images, labels, mpp=store.mpp)
