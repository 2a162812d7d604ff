"""A slide that is open, and the label store that is being made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from histocli.base.memory import pages_of_its_own
from histocli.base.types import BoolMask, Json
from histocli.base.units import ASSUMED_MPP
from histocli.inference.blocks import Block
from histocli.inference.pipeline import PendingBlock
from histocli.inference.settling import SlideWindows
from histocli.model.normalisation import Contrast
from histocli.slides.slide import Slide, shape_of
from histocli.stages.segment.assemble import make_store
from histocli.stages.segment.loaded import LoadedModel
from histocli.stages.segment.view import Look, View, keep_windows, slide_contrast, view_of
from histocli.stores.labels import FirstLook, TiledLabelsWriter
from histocli.stores.provenance import Provenance

logger = logging.getLogger(__name__)

STRIP_PX = 1536  # rows of a block that are read at once


class OpenedSlide:
    """Opening begins the store, or goes on with an unfinished one.

    Parameters
    ----------
    slide : Slide
        Closed here, also where opening fails.
    store : Path
        Where the store will be.
    model : LoadedModel
    look : callable
        Looks at the whole slide, given slide pixels along a side of an overview pixel.
    source, model_facts : dict
        Name and content hash of the slide and of the model.
    provenance : Provenance
        Of the store.
    """

    def __init__(
        self,
        slide: Slide,
        store: Path,
        model: LoadedModel,
        look: Callable[[Slide, int], Look],
        *,
        source: Json,
        model_facts: Json,
        provenance: Provenance,
    ) -> None:
        self._model = model

        def look_once(factor: int) -> FirstLook:
            seen = look(slide, factor)
            contrast = None
            if model.contrast_floor > 0:
                contrast = slide_contrast(slide, model.mpp, seen.glass_level, seen.tissue)
            facts = {
                "glass_level": seen.glass_level,
                "contrast": None if contrast is None else contrast.to_json(),
            }
            return FirstLook(seen.overview, seen.tissue, facts)

        with ExitStack() as stack:
            stack.callback(slide.close)
            warn_of_assumed_mpp(slide)
            self.writer = TiledLabelsWriter(
                store,
                shape=shape_of(slide),
                mpp=slide.mpp,
                mpp_source=slide.mpp_source,
                look=look_once,
                source=source,
                model=model_facts,
                provenance=provenance,
            )
            stack.callback(self.writer.close)
            facts, tissue = self.writer.facts, self.writer.tissue
            self.view = recorded_view(slide, model, facts, tissue)
            self.grid = model.grid(self.view.shape)
            self._held = stack.pop_all()

    def missing_blocks(self) -> list[Block]:
        """Return the blocks that show tissue, less those whose windows are all kept already."""
        return [
            block
            for block in self.grid.blocks(self.view.has_tissue(self.grid))
            if not all(self.writer.has_found(window.index) for window in block.windows)
        ]

    def read(self, block: Block) -> PendingBlock:
        """Read the pixels of a block, a strip at a time: what is decoded and resampled on the way
        is gone before the next.
        """
        rows, columns = block.pixels
        pixels = pages_of_its_own(
            (rows.stop - rows.start, columns.stop - columns.start, 3), np.uint8
        )
        for start in range(rows.start, rows.stop, STRIP_PX):
            strip = slice(start, min(start + STRIP_PX, rows.stop))
            part = self.view.pixels.read(strip, columns)
            pixels[strip.start - rows.start : strip.stop - rows.start] = part
        return PendingBlock(block, self.grid, pixels, self.view.pixels.read)

    def keep(self, pending: PendingBlock) -> None:
        """Wait for what is found in a block and keep it."""
        keep_windows(self.writer.work, self.view, pending)

    def make_store(self, *, keep_hidden: bool) -> Path:
        """Make the store; return where it is.

        Parameters
        ----------
        keep_hidden : bool
            Leave it at its hidden place, because only other files are wanted.
        """
        mpp, ratio = self.view.slide.mpp, self.view.pixels.ratio
        windows = SlideWindows(
            self.grid.windows, mpp * ratio, ratio, self.view.has_tissue(self.grid)
        )
        make_store(self.writer, windows, mpp=mpp, workers=self._model.workers)
        return self.writer.finish(keep_hidden=keep_hidden)

    def close(self) -> None:
        """Let go of slide and store."""
        self._held.close()


def recorded_view(slide: Slide, model: LoadedModel, facts: Json, tissue: BoolMask) -> View:
    """Return the view of a slide that its store records, so that all who see it see the same."""
    recorded = facts.get("contrast")
    contrast = None if recorded is None else Contrast.from_json(recorded)
    return view_of(slide, model.mpp, facts["glass_level"], tissue, contrast, model.contrast_floor)


def warn_of_assumed_mpp(slide: Slide) -> None:
    """Tell the user about a pixel size that is a guess."""
    if slide.mpp_source == "assumed":
        logger.warning(
            "%s: records no pixel size; %g um/px is assumed, give another with --mpp",
            slide.path,
            ASSUMED_MPP,
        )
