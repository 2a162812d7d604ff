"""``histosynth info``: what a store, model file or slide is, what is in it, and where it comes
from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidOption, InvalidStore, StoreExists, UnknownPixelSize
from histocli.base.formats import ATTRIBUTE
from histocli.base.pyramid import nearest_level
from histocli.base.rng import rng_for
from histocli.base.types import Json, RGBImage
from histocli.config.common import Execution
from histocli.config.info import InfoConfig
from histocli.exports.pictures import png_bytes, write_png
from histocli.figures.sheets import patch_sheet
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES, bars, shares
from histocli.instances.measurements import Measurements, measure
from histocli.slides.open import SLIDE_SUFFIXES, open_slide
from histocli.slides.slide import Slide, shape_of
from histocli.stages.shared.results import StageResult, Status, Stopwatch
from histocli.stores import labels as label_stores
from histocli.stores import models, patches
from histocli.stores.patches import PatchStore, ReferenceRecord
from histocli.stores.provenance import Provenance, read_provenance

Rows: TypeAlias = list[tuple[str, str]]
"""Names and values, as text."""

PERCENTILES = (5, 25, 50, 75, 95)
DENSITY_EDGES = (0, 250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 20000)
_SUMMARY_KEYS = {"n", "mean", "min", *(f"p{percent}" for percent in PERCENTILES), "max"}
LINE_ITEMS = 8  # a longer list of numbers is summed up in the table; the JSON holds it whole


@dataclass(frozen=True, kw_only=True)
class InfoResult(StageResult):
    """What a store says about itself and what was counted in it."""

    schema: ClassVar[str] = "histosynth.info/1"

    kind: str
    """patches, labels, model or slide."""
    contract: str
    """Name and version of the layout; for a slide, the library that reads it."""
    contents: Json
    """What is in it: counts, sizes, distributions."""
    references: list[Json]
    """Each reference with everything measured on it; empty where there are none."""
    provenance: Json
    """Command, settings, seed, version, time."""
    sheet: str | None = None
    """PNG file that was written."""

    def describe(self) -> list[tuple[str, Rows]]:
        """Return titled tables of names and values for people: all numbers, the long lists summed
        up.
        """
        provenance = {key: value for key, value in self.provenance.items() if key != "config"}
        contents = {key: value for key, value in self.contents.items() if key != "histograms"}
        histograms = self.contents.get("histograms", {})
        sections = [
            (f"{self.kind} · {self.contract}", [("path", self.output), *flatten(contents)]),
            (
                "references beside patches",
                [row for name, both in histograms.items() for row in _bar_rows(name, both)],
            ),
            ("made by", list(flatten(provenance))),
            ("settings", list(flatten(self.provenance.get("config") or {}))),
        ]
        for number, reference in enumerate(self.references, 1):
            facts = {
                key: value for key, value in reference.items() if key not in ("name", "statistics")
            }
            rows = [*flatten(facts), *flatten(reference.get("statistics") or {})]
            sections.append(
                (f"reference {number} of {len(self.references)} · {reference['name']}", rows)
            )
        if self.sheet is not None:
            sections.append(("sheet", [("path", self.sheet)]))
        return [(title, rows) for title, rows in sections if rows]


def info(store: str, config: InfoConfig, execution: Execution) -> InfoResult:
    """Describe a patch store, a label store, a model file or a slide; draw a sheet of it when
    asked.

    Parameters
    ----------
    store : str
        Path of a store or model file that is complete, or of a slide or image.
    config : InfoConfig
    execution : Execution
        ``overwrite`` allows a sheet to replace another picture; a dry run draws none.

    Returns
    -------
    InfoResult

    Raises
    ------
    StoreNotFound
        There is nothing.
    InvalidStore
        It is not ours, of an unknown version, unfinished or damaged.
    InvalidOption
        A sheet of something that holds no pictures.
    StoreExists
        Another picture lies where the sheet would go.
    """
    watch = Stopwatch()
    path = Path(store)
    opened = _open(path)
    sheet: str | None = None
    status: Status = "done"
    if config.sheet is not None:
        if opened.draw is None:
            raise InvalidOption(
                f"--sheet: {path} holds no pictures; give a patch store, or the label store of a slide"
            )
        if execution.dry_run:
            status = "planned"
        else:
            sheet = config.sheet
            _write_sheet(Path(sheet), opened.draw(config), overwrite=execution.overwrite)
    return InfoResult(
        output=str(path),
        status=status,
        seconds=watch.seconds,
        kind=opened.kind,
        contract=opened.provenance.contract if opened.provenance else opened.contents["backend"],
        contents=opened.contents,
        references=[record.to_json() for record in opened.references],
        provenance=opened.provenance.to_json() if opened.provenance else {},
        sheet=sheet,
    )


def flatten(values: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of nested objects with its dotted name, as text; a distribution takes one
    line.

    >>> list(flatten({"area": {"mean": 30.25, "bins": [1, 2]}, "seed": None}))
    [('area.mean', '30.25'), ('area.bins', '1, 2'), ('seed', '-')]
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value.keys() == _SUMMARY_KEYS:
            text = {item: _as_text(number) for item, number in value.items()}
            middle = f"median {text['p50']}, 90 % within {text['p5']} to {text['p95']}"
            yield name, f"mean {text['mean']}, {middle}, all within {text['min']} to {text['max']}"
        elif isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(item, (dict, list)) for item in value)
        ):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield from flatten(item, f"{name}[{index}].")
                else:
                    yield from flatten({f"{name}[{index}]": item})
        else:
            yield name, _as_text(value)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What the kinds of stores have in common once they are read."""

    kind: str
    provenance: Provenance | None
    contents: Json
    references: Sequence[ReferenceRecord] = ()
    draw: Callable[[InfoConfig], RGBImage] | None = None


def _open(path: Path) -> _Opened:
    if not path.is_dir() and path.exists() and path.suffix.lower() in SLIDE_SUFFIXES:
        return _open_slide(path)
    if path.is_dir() and _is_foreign_zarr(path):
        return _open_slide(path)
    if not path.is_dir() and path.exists():
        return _open_model(path)
    provenance = read_provenance(path)
    match provenance.contract_name:
        case "histosynth-patches":
            return _open_patches(path)
        case "histosynth-labels":
            return _open_labels(path)
    raise InvalidStore(
        f"{path}: holds {provenance.contract}, which info does not know; it knows {patches.CONTRACT}, {label_stores.CONTRACT} "
        f"and {models.CONTRACT}"
    )


def _is_foreign_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr store that is not ours, such as an OME-Zarr slide."""
    if (path / ".zattrs").is_file() or (path / ".zarray").is_file():  # format 2; ours are format 3
        return True
    try:
        attributes = json.loads((path / "zarr.json").read_bytes()).get("attributes") or {}
    except (OSError, ValueError, AttributeError):
        return False
    return ATTRIBUTE not in attributes and ("ome" in attributes or "multiscales" in attributes)


def _open_slide(path: Path) -> _Opened:
    """Describe a slide by its metadata; one that records no pixel size is described all the
    same.
    """
    try:
        slide, known = open_slide(path), True
    except UnknownPixelSize:
        slide, known = open_slide(path, mpp=1.0), False
    try:
        contents = _slide_contents(slide)
    finally:
        slide.close()
    if not known:
        for values in (contents, *contents["levels"]):
            values["mpp"] = None
        contents |= {"mpp_source": "none", "mm2": None}
    return _Opened(
        kind="slide", provenance=None, contents={**contents, "megabytes": _megabytes(path)}
    )


def _slide_contents(slide: Slide) -> Json:
    height, width = shape_of(slide)
    return {
        "backend": slide.backend,
        "height_px": height,
        "width_px": width,
        "megapixels": round(height * width / 1e6, 2),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "mm2": round(height * width * slide.mpp**2 / 1e6, 4),
        "levels": [
            {
                "height_px": level.shape[0],
                "width_px": level.shape[1],
                "downsample": round(level.downsample, 4),
                "mpp": round(slide.mpp * level.downsample, 5),
            }
            for level in slide.levels
        ],
    }


def _open_patches(path: Path) -> _Opened:
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
        "patches_per_reference": _summary(
            np.bincount(store.reference, minlength=len(store.references))
        ),
        "weight": _summary(store.weight),
        "nuclei": int(per_patch.sum()),
        "nuclei_per_patch": _summary(per_patch),
        "patches_without_nuclei": int((per_patch == 0).sum()),
        "area_um2": _summary(area),
        "share_nuclei": n_foreground / max(1, n_pixels - n_ignored),
        "share_ignored": n_ignored / n_pixels,
        "megabytes": _megabytes(path),
        "content_hash": store.content_hash(),
        "histograms": _histograms(store, area, elongation, per_patch),
    }
    return _Opened(
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
    """Lay what was measured in the references beside what was drawn: each reference counts as often
    as it was followed.
    """
    followed = np.bincount(store.reference, minlength=len(store.references))
    morphologies = [record.statistics.get("morphology") or {} for record in store.references]

    def of_references(name: str) -> list[float]:
        known = [
            (followed[i] * found.get("n_nuclei", 0), found[name])
            for i, found in enumerate(morphologies)
            if found.get(name)
        ]
        weight = sum(count for count, _ in known)
        return (
            [
                float(share)
                for share in sum(count * np.asarray(part) for count, part in known) / weight
            ]
            if weight
            else []
        )

    density = np.array([found.get("density_per_mm2", 0.0) for found in morphologies] or [0.0])[
        store.reference
    ]
    drawn = per_patch / (store.patch_px * store.mpp / 1000) ** 2
    return {
        "area_um2": {
            "edges": list(AREA_EDGES_UM2),
            "references": of_references("area_shares"),
            "patches": list(shares(area_um2, AREA_EDGES_UM2)),
        },
        "elongation": {
            "edges": list(ELONGATION_EDGES),
            "references": of_references("elongation_shares"),
            "patches": list(shares(elongation, ELONGATION_EDGES)),
        },
        "nuclei_per_mm2": {
            "edges": list(DENSITY_EDGES),
            "references": list(shares(density, DENSITY_EDGES)),
            "patches": list(shares(drawn, DENSITY_EDGES)),
        },
    }


def _draw_patches(store: PatchStore, config: InfoConfig) -> RGBImage:
    n = min(config.sheet_patches, len(store))
    chosen = np.sort(rng_for(config.seed, "info").choice(len(store), n, replace=False))
    pairs = [store.read(range(index, index + 1)) for index in map(int, chosen)]
    return patch_sheet(
        [image[0] for image, _ in pairs], [labels[0] for _, labels in pairs], mpp=store.mpp
    )


def _open_labels(path: Path) -> _Opened:
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
        contents["nuclei_per_patch"] = _summary(per_patch)
        return _Opened(kind="labels", provenance=store.provenance, contents=contents)
    if facts.get("mm2"):
        contents["nuclei_per_mm2"] = store.n_nuclei / facts["mm2"]
    for name, column in store.table.items():
        if column.ndim == 1 and name not in ("id", "y_um", "x_um"):
            contents[name] = _summary(column)
    contents["megabytes"] = _megabytes(path)
    return _Opened(
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


def _open_model(path: Path) -> _Opened:
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
        "megabytes": _megabytes(path),
    }
    return _Opened(kind="model", provenance=header.provenance, contents=contents)


def _summary(values: npt.NDArray[Any]) -> Json:
    """Return count, mean, extremes and percentiles; only the count where there is nothing."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"n": 0}
    percentiles = zip(PERCENTILES, np.percentile(finite, PERCENTILES), strict=True)
    return {
        "n": int(finite.size),
        "mean": float(finite.mean()),
        "min": float(finite.min()),
        **{f"p{percent}": float(value) for percent, value in percentiles},
        "max": float(finite.max()),
    }


def _megabytes(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 3)


def _write_sheet(path: Path, sheet: RGBImage, *, overwrite: bool) -> None:
    """Write the picture; one that is there already is left alone when it is the same."""
    if path.is_file() and not overwrite:
        if path.read_bytes() == png_bytes(sheet):
            return
        raise StoreExists(
            f"{path}: exists and is another picture; replace it with --overwrite or choose another --sheet"
        )
    write_png(path, sheet)


def _bar_rows(name: str, both: Json) -> Rows:
    """Draw two histograms under each other, with the range of their bins."""
    low, high = both["edges"][0], both["edges"][-1]
    return [
        (
            f"{name} {_as_text(float(low))} to {_as_text(float(high))}, {side}",
            f"|{bars(both[side])}|",
        )
        for side in ("references", "patches")
        if both[side]
    ]


def _as_text(value: Any) -> str:
    if value is None or value in ({}, []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    if isinstance(value, list):
        numbers = [
            item for item in value if isinstance(item, (int, float)) and not isinstance(item, bool)
        ]
        if len(value) > LINE_ITEMS and len(numbers) == len(value):
            return f"{len(value)} numbers, {_as_text(min(numbers))} to {_as_text(max(numbers))}"
        return ", ".join(map(_as_text, value))
    return str(value)
