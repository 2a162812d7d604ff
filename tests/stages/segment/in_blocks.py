"""Slides of blobs, and segmenting them in blocks with a predictor that gives the very same numbers
on every tile."""

import hashlib
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from histocli.inference import windows
from histocli.inference.pipeline import PendingBlock, Pipeline
from histocli.inference.settling import SlideWindows
from histocli.instances.targets import maps_to_instances
from histocli.slides.open import open_slide
from histocli.slides.slide import shape_of
from histocli.stages.segment.assemble import make_store
from histocli.stages.segment.view import keep_windows, look, view_of
from histocli.stores.labels import (
    CONTRACT,
    FirstLook,
    TiledLabelsWriter,
    open_labels,
    pyramid,
    table,
)
from histocli.stores.provenance import Provenance

MPP = 0.5
SMALL = (
    (windows, "WINDOW_PX", 96),
    (pyramid, "SHARD_PX", 64),
    (pyramid, "CHUNK_PX", 32),
    (pyramid, "SMALLEST_LEVEL_PX", 40),
    (table, "CHUNK_ROWS", 16),
)
"""Constants that are smaller in most tests, so that a small slide has many windows and shards."""


class Darkness:
    """A predictor with a bounded receptive field and integer arithmetic, so that every tile gives
    the very same numbers."""

    mpp = MPP
    halo_px = 32
    multiple_px = 8

    def maps(self, tiles):
        dark = 255 - tiles[..., 0].astype(np.int64)
        depth = ndimage.uniform_filter(dark * 4096, (1, 9, 9), mode="constant") // 4096
        return np.stack([dark / 255, np.clip(depth / 255 * 1.3, 0, 1)], axis=3).astype(np.float32)

    def instances(self, maps):
        return maps_to_instances(maps, self.mpp)


def blobs(shape: tuple[int, int], seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Dark discs of radius 5..9 on pink, some of which touch."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    dark = np.zeros(shape, bool)
    for _ in range(max(1, int(shape[0] * shape[1] / 700 / scale**2))):
        cy, cx, radius = (
            rng.uniform(0, shape[0]),
            rng.uniform(0, shape[1]),
            rng.uniform(5, 9) * scale,
        )
        dark |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return np.where(dark[..., None], [60, 40, 120], [240, 200, 225]).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray, mpp: float = MPP) -> Path:
    tifffile.imwrite(
        path,
        image,
        photometric="rgb",
        tile=(64, 64),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
    return path


def make(slide_path: Path, target: Path, **settings):
    """Segment a slide in blocks."""
    slide = open_slide(slide_path)
    try:
        return segment_in_blocks(slide, target, **settings)
    finally:
        slide.close()


def segment_in_blocks(
    slide, target, *, block=2, tile_px=64, workers=2, order=None, find_tissue=False, stop_after=None
):
    """Do it; with ``stop_after``, only some of the blocks."""

    def look_at(factor):
        seen = look(slide, factor, find_tissue=find_tissue, roi=None)
        return FirstLook(seen.overview, seen.tissue, {"glass_level": seen.glass_level})

    with (
        TiledLabelsWriter(
            target,
            shape=shape_of(slide),
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            look=look_at,
            source={"name": "s"},
            model={"name": "m"},
            provenance=Provenance(
                contract=CONTRACT, command="segment", config={}, config_hash="h", created="2026"
            ),
        ) as writer,
        Pipeline(Darkness(), tile_px=tile_px, workers=workers) as pipeline,
    ):
        view = view_of(slide, MPP, writer.facts["glass_level"], writer.tissue)
        grid = pipeline.block_grid(view.shape, block)
        wanted = view.has_tissue(grid)
        numbers = list(range(len(grid))) if order is None else order(len(grid))
        for number in numbers[:stop_after]:
            part = grid.block(number, wanted)
            if part is None or all(writer.has_found(window.index) for window in part.windows):
                continue
            pixels = view.pixels.read(*part.pixels)
            pending = PendingBlock(part, grid, pixels, view.pixels.read)
            pipeline.run([pending])
            keep_windows(writer.work, view, pending)
        if stop_after is not None:
            return None
        ratio = view.pixels.ratio
        found = SlideWindows(grid.windows, slide.mpp * ratio, ratio, wanted)
        make_store(writer, found, mpp=slide.mpp, workers=workers)
        writer.finish()
    return open_labels(target)


def files_of(store: Path) -> dict[str, str]:
    return {
        file.relative_to(store).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }
