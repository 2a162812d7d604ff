"""The page that ``segment --html`` writes: all slides of a batch at a glance."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np

from histocli.base.errors import HistosynthError
from histocli.base.progress import Track, silent
from histocli.base.rng import rng_for
from histocli.exports.pictures import jpeg_bytes
from histocli.figures.charts import Histogram
from histocli.figures.report import render_report
from histocli.figures.sections import (
    Charts,
    Gallery,
    Link,
    Picture,
    ReportTable,
    Section,
    Tile,
    Tiles,
)
from histocli.figures.thumbnails import Detail, Thumbnail, thumbnail
from histocli.inference.tissue import tissue_mask
from histocli.optics.density import white_level
from histocli.slides.open import open_slide
from histocli.slides.resampling import shrunk
from histocli.slides.slide import Slide, shape_of
from histocli.stages.segment.results import SegmentResult
from histocli.stages.shared.pages import check_page, path_from, write_page
from histocli.stores.labels import LabelStore, open_labels, overview_factor

logger = logging.getLogger(__name__)

DETAIL_PX = 256  # side of the square that is shown at full resolution, in slide pixels
FEWEST_FOR_CHARTS = 4  # slides of a distribution
BINS = 12
CENTILE = 0.95  # share of the slides whose highest density lies below the top of the scale


def write_batch_page(
    target: Path, results: Sequence[SegmentResult], *, track: Track = silent
) -> None:
    """Write the page of the results of ``segment``.

    An older page of histosynth is replaced: the slides decide what is done again, not the page.
    Raises what :func:`histocli.stages.shared.pages.check_page` does.
    """
    check_page(target, replace=True)
    there = [each for each in results if each.status in ("done", "skipped")]
    failed = [each for each in results if each.status == "failed"]
    thumbnails: dict[str, Thumbnail] = {}
    with track("drawing the page", len(there)) as bar:
        for result in there:
            found = _thumbnail(result)
            if found is not None:
                thumbnails[result.input] = found
            bar.advance(1, Path(result.input).name)
    sections: list[Section] = [
        _totals(there, failed),
        ReportTable(
            title="Failed",
            header=("slide", "why"),
            rows=[[each.input, each.error or "failed"] for each in failed],
        ),
        _gallery(there, thumbnails, target),
        _table(there),
        *_charts(there),
    ]
    flagged = sum(bool(each.flags) for each in there)
    lead = (
        f"{_counted(len(there), 'slide')} segmented"
        + (f", {flagged} flagged" if flagged else ", none flagged")
        + (f", {len(failed)} failed" if failed else "")
        + "."
    )
    write_page(target, render_report("Nuclei of a batch of slides", lead, sections))


def _totals(there: Sequence[SegmentResult], failed: Sequence[SegmentResult]) -> Tiles:
    nuclei = sum(each.nuclei or 0 for each in there)
    area = sum(each.mm2 or 0.0 for each in there)
    densities = [each for each in map(density_of, there) if math.isfinite(each)]
    tiles = [
        Tile(f"{len(there):,}", "slides segmented"),
        Tile(f"{sum(bool(each.flags) for each in there):,}", "flagged, shown first"),
        Tile(f"{nuclei:,}", "nuclei"),
        Tile(f"{area:,.3g} mm²", "looked at"),
    ]
    if densities:
        tiles.append(Tile(f"{median(densities):,.0f}", "nuclei per mm², median of the slides"))
    if failed:
        tiles.append(Tile(f"{len(failed):,}", "failed"))
    return Tiles(title="In all", tiles=tiles)


def density_of(result: SegmentResult) -> float:
    """Return nuclei per square millimetre; NaN where nothing was looked at."""
    return (result.nuclei or 0) / result.mm2 if result.mm2 else math.nan


def _gallery(
    there: Sequence[SegmentResult], thumbnails: dict[str, Thumbnail], target: Path
) -> Gallery:
    """Return the pictures of all slides, flagged ones first."""
    highest = sorted(each.highest for each in thumbnails.values())
    top = highest[min(int(CENTILE * len(highest)), len(highest) - 1)] if highest else 0.0
    pictures = []
    for result in sorted(there, key=lambda each: not each.flags):
        if result.input not in thumbnails:
            continue
        pictures.append(
            Picture(
                content=jpeg_bytes(thumbnails[result.input].picture(top)),
                title=Path(result.input).name,
                caption=_caption(result),
                flags=result.flags,
                links=[
                    Link(name, path_from(target, path)) for name, path in result.outputs.items()
                ],
            )
        )
    return Gallery(
        title="Slides",
        pictures=pictures,
        note="Flagged slides first. Each: the slide, the density of its nuclei from 0 (dark) to "
        f"{top:,.0f} per mm² (yellow; one scale for all), and a random place with outlines.",
    )


def _caption(result: SegmentResult) -> str:
    density = density_of(result)
    per_area = f", {density:,.0f} per mm²" if math.isfinite(density) else ""
    return f"{_counted(result.nuclei or 0, 'nucleus')} on {result.mm2 or 0:.3g} mm²{per_area}"


def _counted(n: int, noun: str) -> str:
    plural = "nuclei" if noun == "nucleus" else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def _table(there: Sequence[SegmentResult]) -> ReportTable:
    return ReportTable(
        title="Table",
        header=(
            "slide",
            "flags",
            "nuclei",
            "mm²",
            "per mm²",
            "out of focus, %",
            "pen, mm²",
            "stain distance",
            "um/px",
            "from",
        ),
        rows=[
            [
                Path(each.input).name,
                ", ".join(each.flags) or "–",
                each.nuclei,
                each.mm2,
                density_of(each),
                None if each.blurred_share is None else 100.0 * each.blurred_share,
                each.ink_mm2,
                each.stain_distance,
                each.mpp,
                each.mpp_source or "–",
            ]
            for each in there
        ],
        sortable=True,
        pictures="",
        note="Press a heading to sort; names lead to the pictures.",
    )


def _charts(there: Sequence[SegmentResult]) -> Iterator[Charts]:
    """Yield histograms over slides, where there are enough."""
    known = {
        "Density": ([density_of(each) for each in there], "nuclei per mm²"),
        "Nuclei": ([float(each.nuclei or 0) for each in there], "nuclei of a slide"),
    }
    charts = []
    for title, (values, label) in known.items():
        finite = [value for value in values if math.isfinite(value)]
        if len(finite) < FEWEST_FOR_CHARTS or max(finite) <= 0:
            continue
        counts, edges = np.histogram(finite, BINS, (0, max(finite)))
        series = [("slides", counts.tolist())]
        charts.append(
            Histogram(
                title=title, edges=edges.tolist(), series=series, x_label=label, y_label="slides"
            )
        )
    if charts:
        yield Charts(title="Distributions", charts=charts)


def _thumbnail(result: SegmentResult) -> Thumbnail | None:
    """Return the pictures of a slide; None, with a warning, where it cannot be read any more.

    Without a label store beside the other files, the slide is shown without its nuclei. Patches of
    a patch store are not shown.
    """
    try:
        store = None
        if "ome-zarr" in result.outputs:
            store = open_labels(result.outputs["ome-zarr"])
            if store.layout != "slide":
                return None
        with closing(open_slide(Path(result.input), mpp=result.mpp)) as slide:
            return _of_slide(slide) if store is None else _of_store(slide, store)
    except HistosynthError as error:
        logger.warning("%s; the page does not show it", error)
        return None


def _of_store(slide: Slide, store: LabelStore) -> Thumbnail:
    overview = store.overview()
    factor = max(1, round(max(store.shape) / max(overview.shape[:2])))
    mpp = store.mpp * factor
    columns = store.columns
    centres = (
        np.stack([np.asarray(columns[name][...]) for name in ("y_um", "x_um")], axis=1) / store.mpp
    )
    middle = np.array(store.shape) / 2
    if len(centres):
        middle = centres[rng_for(0, "page", 0).integers(len(centres))]
    rows, cols = _square(middle, store.shape)
    labels = store.window(rows, cols).astype(np.int64)
    detail = Detail(slide.read(0, rows, cols), labels, store.mpp)
    return thumbnail(overview, store.tissue, centres / factor, mpp, detail)


def _of_slide(slide: Slide) -> Thumbnail:
    """Return the pictures of a slide whose labels are in no store."""
    shape = shape_of(slide)
    factor = overview_factor(shape, slide.mpp)
    overview = shrunk(slide, factor)
    tissue = tissue_mask(overview, slide.mpp * factor, white_level(overview))
    rows, cols = _square(np.array(shape) / 2, shape)
    pixels = slide.read(0, rows, cols)
    detail = Detail(pixels, np.zeros(pixels.shape[:2], np.int64), slide.mpp)
    return thumbnail(overview, tissue, np.zeros((0, 2)), slide.mpp * factor, detail)


def _square(middle: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the square around a place, moved into the slide."""
    sides = [min(DETAIL_PX, length) for length in shape]
    starts = [
        int(np.clip(round(float(at)) - side // 2, 0, length - side))
        for at, side, length in zip(middle, sides, shape, strict=True)
    ]
    rows, columns = (slice(at, at + side) for at, side in zip(starts, sides, strict=True))
    return rows, columns
