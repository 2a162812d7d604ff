"""A slide or image: labelled a block at a time, and then written in all formats that are wanted."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from histocli.annotations.regions import find_regions, read_regions
from histocli.base.files import content_hash, disk_errors, partial_path
from histocli.base.formats import FORMATS
from histocli.base.types import Json
from histocli.config.common import as_dict
from histocli.exports.registry import read_record
from histocli.inference.blocks import Block
from histocli.inference.pipeline import PendingBlock
from histocli.slides.open import open_slide
from histocli.slides.slide import Slide, shape_of, slide_stem
from histocli.stages.segment.job import Job
from histocli.stages.segment.loaded import LoadedModel
from histocli.stages.segment.opened import OpenedSlide
from histocli.stages.segment.results import Expected, SlideFacts, facts_from
from histocli.stages.segment.view import Look, look, view_of
from histocli.stages.shared.outputs import write_output
from histocli.stages.shared.results import Stopwatch
from histocli.stores import labels
from histocli.stores.provenance import Provenance, peek
from histocli.stores.rerun import Action

logger = logging.getLogger(__name__)


class _Identity(NamedTuple):
    source: Json
    """Name and content hash of the slide."""
    fingerprint: str
    """Of everything that decides the labels."""


class SlideJob(Job):
    """A slide on its way.

    Parameters
    ----------
    store : Path
        Where the label store is or would be, whether it is wanted or not.
    *others
        As of any job.
    """

    def __init__(self, store: Path, *others: Any) -> None:
        super().__init__(*others)
        self.store = store
        self.opened: OpenedSlide | None = None
        self._to_make: list[str] = list(self.outputs)
        self._store_is_there = False

    def decide(self) -> Action:
        """Find which outputs are to be made; the slide itself is read only if something lies at
        their place.
        """
        places = [*self.outputs.values(), self.store]
        if any(os.path.lexists(path) or os.path.lexists(partial_path(path)) for path in places):
            mark = self._identity.fingerprint
            actions = {
                name: self.decide_about(path, FORMATS[name].contract, mark)
                for name, path in self.outputs.items()
            }
            self._to_make = [name for name, action in actions.items() if action != "skip"]
            found = peek(self.store)
            self._store_is_there = (
                "ome-zarr" not in self._to_make
                and found is not None
                and (found.contract, found.config_hash, found.complete)
                == (labels.CONTRACT, mark, True)
            )
        return "create" if self._to_make else "skip"

    def check(self, model: LoadedModel) -> Expected:
        """Open the slide and count."""
        slide = open_slide(self.input.path, mpp=self.given_mpp)
        try:
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
            pixels = sum(
                (rows.stop - rows.start) * (columns.stop - columns.start)
                for rows, columns in (block.pixels for block in blocks)
            )
            return Expected(slide.mpp, slide.mpp_source, pixels, plan)
        finally:
            slide.close()

    def parts(self, model: LoadedModel) -> list[Block]:
        """Open the slide, begin the store or go on with an unfinished one, and return the blocks
        that are not found yet.
        """
        self.watch = Stopwatch()
        identity = self._identity
        if self._store_is_there:
            return []
        self.opened = OpenedSlide(
            open_slide(self.input.path, mpp=self.given_mpp),
            self.store,
            model,
            self._look,
            source=identity.source,
            model_facts=self.model,
            provenance=self.provenance(labels.CONTRACT),
        )
        return self.opened.missing_blocks()

    def load(self, part: Block) -> list[PendingBlock]:
        """Read the pixels of a block."""
        assert self.opened is not None
        return [self.opened.read(part)]

    def write(self, part: Block, pending: list[PendingBlock]) -> None:
        """Keep what is found in a block."""
        assert self.opened is not None
        with disk_errors(self.store):
            self.opened.keep(pending[0])

    def finish(self) -> SlideFacts:
        """Make the store, and from it the other files."""
        store = self.store
        if self.opened is not None:
            store = self.opened.make_store(keep_hidden="ome-zarr" not in self.outputs)
        try:
            opened = labels.open_labels(store)
            for name in self._to_make:
                if name != "ome-zarr":
                    write_output(
                        name,
                        self.outputs[name],
                        opened,
                        lambda: open_slide(self.input.path, mpp=self.given_mpp),
                        self.provenance,
                    )
            found = facts_from(opened.facts)
        finally:
            if self.opened is not None and store != self.store:
                self.opened.writer.discard()
        if found.n_cut:
            logger.warning(
                "%s: %d nuclei reach further than 40 um from the border of their window "
                "and may be cut",
                self.input.path,
                found.n_cut,
            )
        return found

    def facts(self) -> SlideFacts | None:
        """Read what the outputs say about themselves."""
        for name, path in self.outputs.items():
            known: Json | None = (
                labels.open_labels(path).facts if name == "ome-zarr" else read_record(path)
            )
            if known is not None:
                return facts_from(known)
        return None

    def close(self) -> None:
        """Let go of slide and store."""
        if self.opened is not None:
            self.opened.close()

    def provenance(self, contract: str) -> Provenance:
        """Return the record of how an output is made."""
        config = replace(
            self.config.of_labels(),
            formats=self.config.formats,
            mpp=self.config.mpp,
            roi=self.config.roi,
        )
        return Provenance(
            contract=contract,
            command="segment",
            config=as_dict(config),
            config_hash=self._identity.fingerprint,
        )

    @cached_property
    def _roi(self) -> Path | None:
        """The file with the user's regions of this slide."""
        if self.input.roi is not None or self.config.roi is None:
            return self.input.roi
        return find_regions(Path(self.config.roi), slide_stem(self.input.path))

    def _look(self, slide: Slide, factor: int) -> Look:
        roi = None if self._roi is None else read_regions(self._roi)
        return look(slide, factor, find_tissue=self.config.tissue == "auto", roi=roi)

    @cached_property
    def _identity(self) -> _Identity:
        sha256 = content_hash(self.input.path)
        more = {} if self._roi is None else {"roi": content_hash(self._roi)}
        source = {"name": self.input.path.name, "sha256": sha256}
        return _Identity(source, self.fingerprint_of(sha256, **more))


def expected_disk(shape: tuple[int, int], mm2: float, mpp: float, formats: Sequence[str]) -> float:
    """Return the bytes that the outputs of a slide are expected to take; measured on tissue with
    3,000 nuclei a square millimetre.
    """
    looked_at = mm2 * 1e6 / mpp**2
    return (
        sum(FORMATS[name].bytes_per_px * looked_at for name in formats)
        + 3e6 * len(formats)
        + shape[0] * shape[1] / 1000
    )
