"""Segment a slide or image, a block at a time, and write the labels in all requested formats."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

from histocli.base.files import content_hash, disk_errors, partial_path
from histocli.base.formats import FORMATS
from histocli.base.types import Json
from histocli.base.units import ASSUMED_MPP
from histocli.config.common import as_dict
from histocli.config.drawing import DRAWN, Drawing
from histocli.exports.registry import read_record
from histocli.inference.blocks import Block, BlockGrid
from histocli.inference.pipeline import PendingBlock
from histocli.inference.settling import SlideWindows
from histocli.inference.tiling import size_of
from histocli.slides.open import open_slide
from histocli.slides.slide import Slide, shape_of, slide_stem
from histocli.stages.segment.assemble import make_store
from histocli.stages.segment.job import Job
from histocli.stages.segment.loaded import LoadedModel
from histocli.stages.segment.results import Expected, SlideFacts, facts_from
from histocli.stages.segment.view import (
    Look,
    View,
    first_look,
    keep_windows,
    look,
    read_block,
    recorded_view,
    view_of,
)
from histocli.stages.segment.warnings import warn_of
from histocli.stages.shared.outputs import write_output
from histocli.stages.shared.results import Stopwatch
from histocli.stores import labels
from histocli.stores.labels import TiledLabelsWriter
from histocli.stores.provenance import Provenance, peek
from histocli.stores.rerun import Action, remove_ours

logger = logging.getLogger(__name__)


class SlideJob(Job):
    """A slide to be segmented; ``store`` is the path of its OME-Zarr labels, requested or not."""

    writer: TiledLabelsWriter | None = None
    said_mpp = False  # whether the user knows that the pixel size is assumed
    _view: View
    _grid: BlockGrid

    def __init__(self, store: Path, drawing: Drawing, *others: Any) -> None:
        super().__init__(*others)
        self.store, self.drawing = store, drawing
        self._to_make: list[str] = list(self.outputs)
        self._store_is_there = False

    def decide(self) -> Action:
        """Find which outputs are to be made. The slide is hashed only if a file or folder exists at
        the path of an output.
        """
        places = [*self.outputs.values(), self.store]
        if self.execution.resume is False and not self.execution.dry_run:
            remove_ours(partial_path(self.store), labels.CONTRACT)
        if any(os.path.lexists(path) or os.path.lexists(partial_path(path)) for path in places):
            mark = self._fingerprint
            self._to_make = [
                name
                for name, path in self.outputs.items()
                if self.decide_about(path, name, self.drawing.fingerprint(name, mark)) != "skip"
            ]
            found = peek(self.store)
            self._store_is_there = (
                "ome-zarr" not in self._to_make
                and found is not None
                and (found.contract, found.config_hash, found.complete)
                == (labels.CONTRACT, mark, True)
            )
        return "create" if self._to_make else "skip"

    def check(self, model: LoadedModel) -> Expected:
        """Look at the slide and count tiles and blocks."""
        with closing(self._open()) as slide:
            shape = shape_of(slide)
            seen = self._look(slide, labels.overview_factor(shape, slide.mpp))
            view = view_of(slide, model.mpp, seen.glass_level, seen.tissue)
            grid = model.grid(view.shape)
            blocks = grid.blocks(view.has_tissue(grid))
            area = labels.looked_at_mm2(seen.tissue, shape, slide.mpp)
            disk = expected_disk(shape, area, slide.mpp, list(self.outputs))
            plan = {
                "tiles": sum(len(grid.tiles_of(block.maps)) for block in blocks),
                "blocks": len(blocks),
                "mm2": round(area, 4),
                "memory_mb": round(model.expected_bytes / 1e6),
                "disk_mb": round(disk / 1e6, 1),
            }
            pixels = sum(prod(size_of(block.pixels)) for block in blocks)
            return Expected(slide.mpp, slide.mpp_source, pixels, plan)

    def parts(self, model: LoadedModel) -> list[Block]:
        """Open the slide, begin or resume the store, and return the blocks that are to be done."""
        self.watch = Stopwatch()
        if self._store_is_there:
            return []
        source, provenance = self._source, self.provenance(labels.CONTRACT)
        with ExitStack() as stack:
            slide = stack.enter_context(closing(self._open()))
            if slide.mpp_source == "assumed" and not self.said_mpp:
                logger.warning(
                    "%s: records no pixel size; %g um/px is assumed, give another with --mpp",
                    slide.path,
                    ASSUMED_MPP,
                )
            if slide.origin != (0, 0) and ("geojson" in self.outputs or self._roi is not None):
                logger.warning(
                    "%s: QuPath counts from column %d, row %d of this slide (its bounds), outlines "
                    "and --roi from its first pixel; move what goes from one to the other by that",
                    slide.path,
                    *slide.origin,
                )
            writer = TiledLabelsWriter(
                self.store,
                shape=shape_of(slide),
                mpp=slide.mpp,
                mpp_source=slide.mpp_source,
                look=lambda factor: first_look(slide, model, self._look(slide, factor)),
                source=source,
                model=self.model | {"backend": model.backend},
                provenance=provenance,
            )
            stack.callback(writer.close)
            self._view = recorded_view(slide, model, writer.facts, writer.tissue)
            self._grid = model.grid(self._view.shape)
            self._workers = model.workers
            self.writer, self.held = writer, stack.pop_all()
        return [
            block
            for block in self._grid.blocks(self._view.has_tissue(self._grid))
            if not all(writer.has_found(window.index) for window in block.windows)
        ]

    def tiles_of(self, part: Block) -> int:
        """Return the number of network tiles of a block."""
        return len(self._grid.tiles_of(part.maps))

    def load(self, part: Block) -> list[PendingBlock]:
        """Read the pixels of a block."""
        return [read_block(self._view, self._grid, part)]

    def write(self, part: Block, pending: list[PendingBlock]) -> None:
        """Wait for the objects of a block and save them."""
        assert self.writer is not None
        with disk_errors(self.store):
            keep_windows(self.writer.work, self._view, pending[0])

    def finish(self) -> SlideFacts:
        """Make the store, and from it the other files."""
        store = self.store
        if self.writer is not None:
            view, grid = self._view, self._grid
            mpp, ratio = view.slide.mpp, view.pixels.ratio
            windows = SlideWindows(grid.windows, mpp * ratio, ratio, view.has_tissue(grid))
            make_store(self.writer, windows, mpp=mpp, workers=self._workers)
            store = self.writer.finish(keep_hidden="ome-zarr" not in self.outputs)
        try:
            opened = labels.open_labels(store)
            for name in self._to_make:
                if name != "ome-zarr":
                    write_output(
                        name,
                        self.outputs[name],
                        opened,
                        self._open,
                        partial(self.provenance, form=name),
                        drawing=self.drawing,
                    )
            found = facts_from(opened.facts)
        finally:
            if self.writer is not None and store != self.store:
                self.writer.discard()
        warn_of(self.input.path, found, self._roi)
        return found

    def facts(self) -> SlideFacts | None:
        """Read the facts about the slide from the first output that records them."""
        for name, path in self.outputs.items():
            in_store = name == "ome-zarr"
            known = labels.open_labels(path).facts if in_store else read_record(path)
            if known is not None:
                return facts_from(known)
        return None

    def provenance(self, contract: str, form: str = "ome-zarr") -> Provenance:
        """Return the record of how an output of a format is made."""
        given = self.config
        config = replace(
            given.of_labels(),
            formats=given.formats,
            mpp=given.mpp,
            roi=given.roi,
            backend=given.backend,
        )
        return Provenance(
            contract=contract,
            command="segment",
            config=as_dict(config) | (as_dict(self.drawing) if form in DRAWN else {}),
            config_hash=self.drawing.fingerprint(form, self._fingerprint),
        )

    @cached_property
    def _roi(self) -> Path | None:
        """The file with the user's regions of this slide."""
        if self.input.roi is not None or self.config.roi is None:
            return self.input.roi
        from histocli.annotations.regions import find_regions  # late: few slides have any

        return find_regions(Path(self.config.roi), slide_stem(self.input.path))

    def _look(self, slide: Slide, factor: int) -> Look:
        roi = None
        if self._roi is not None:
            from histocli.annotations.regions import read_regions

            roi = read_regions(self._roi)
        return look(slide, factor, find_tissue=self.config.tissue == "auto", roi=roi)

    def _open(self) -> Slide:
        return open_slide(self.input.path, mpp=self.given_mpp)

    @cached_property
    def _source(self) -> Json:
        """Name and content hash of the slide."""
        return {"name": self.input.path.name, "sha256": content_hash(self.input.path)}

    @cached_property
    def _fingerprint(self) -> str:
        """Hash of everything that decides the labels."""
        sha256 = self._source["sha256"]
        more = {} if self._roi is None else {"roi": content_hash(self._roi)}
        return self.fingerprint_of(sha256, **more)


def expected_disk(shape: tuple[int, int], mm2: float, mpp: float, formats: Sequence[str]) -> float:
    """Return the expected bytes of a slide's outputs, given its shape and the area of tissue.

    Measured on tissue with 3,000 nuclei per square millimetre.
    """
    looked_at = mm2 * 1e6 / mpp**2
    files = sum(FORMATS[name].bytes_per_px * looked_at for name in formats)
    return files + 3e6 * len(formats) + shape[0] * shape[1] / 1000
