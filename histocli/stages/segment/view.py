"""A slide as the network sees it: at the model's resolution, with white glass and a known stain.

A slide whose stain is foreign to the model is brought towards the stains that it knows
(:mod:`histocli.model.adaptation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.base.memory import pages_of_its_own
from histocli.base.types import BoolMask, FloatArray, Json, RGBImage
from histocli.inference.blocks import Block, BlockGrid, inside, shows_tissue
from histocli.inference.focus import blurred_share
from histocli.inference.pipeline import PendingBlock
from histocli.inference.runs import RunObjects, to_slide
from histocli.inference.tiling import size_of
from histocli.inference.tissue import squares_of_tissue, tissue_and_ink
from histocli.model.adaptation import Adaptation, adapt_stain, original_densities
from histocli.model.normalisation import Contrast, contrast_of, glass_to_white
from histocli.optics.density import white_level
from histocli.optics.stains import typical_hematoxylin
from histocli.slides.resampling import ResampledSlide, shrunk
from histocli.slides.slide import Slide, shape_of
from histocli.stages.segment.loaded import LoadedModel
from histocli.stores.labels import FirstLook, overview_factor, save_found

SAME_MPP = 0.02
"""Relative difference of pixel sizes up to which a slide is not resampled; a model is not affected
by so small a difference."""
STRIP_PX = 1536  # rows of a block that are read at once
# number and side in pixels of the squares on which the contrast of a large slide is measured
CONTRAST_SQUARES, CONTRAST_SQUARE_PX = 64, 256

FindRegions = Callable[[tuple[int, int], float], BoolMask]
"""Given (height, width) of a mask and slide pixels per mask pixel, returns the mask of the regions
that the user drew."""


@dataclass(frozen=True)
class View:
    """A slide with the settings that turn it into the network's input."""

    slide: Slide
    pixels: ResampledSlide
    """At the model's resolution, with white glass."""
    tissue: BoolMask
    """Mask of the area in which nuclei are looked for, in pixels of the overview."""
    factor: int
    """Slide pixels along a side of a pixel of ``tissue``."""
    density: npt.NDArray[np.float32]
    """Absorbance, before the stain is changed, of each value of red, green and blue in ``pixels``;
    shape (256, 3)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at the model's resolution."""
        return self.pixels.shape

    def is_tissue(self, anchors: npt.NDArray[np.int32]) -> BoolMask:
        """Tell whether nuclei are looked for at slide pixels (n, 2)."""
        return np.asarray(self.tissue[anchors[:, 0] // self.factor, anchors[:, 1] // self.factor])

    def has_tissue(self, grid: BlockGrid) -> Callable[[int], bool]:
        """Return a test whether a window of the grid shows any tissue."""
        cell_px = self.factor / self.pixels.ratio
        return lambda window: shows_tissue(self.tissue, grid.windows[window].core, cell_px)

    def hematoxylin(
        self, pending: PendingBlock, y: npt.NDArray[np.intp], x: npt.NDArray[np.intp]
    ) -> FloatArray:
        """Return the amount of hematoxylin at pixels of the view, in a block or near it."""
        rows, columns = slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)
        pixels, place = pending.pixels, pending.block.pixels
        if not inside((rows, columns), place):
            pixels, place = pending.read(rows, columns), (rows, columns)
        seen = pixels[y - place[0].start, x - place[1].start]
        return typical_hematoxylin(self.density[seen, range(3)])


class Look(NamedTuple):
    """The overview of a whole slide, and the tissue and glass found on it."""

    overview: RGBImage
    tissue: BoolMask
    """Mask of the area in which nuclei are looked for."""
    glass_level: float
    """Level of empty glass, in 1..256."""
    ink_mm2: float
    """Area of the strokes of a pen."""


def look(slide: Slide, factor: int, *, find_tissue: bool, roi: FindRegions | None) -> Look:
    """Make an overview of a whole slide, with ``factor`` slide pixels along a side of its pixels.

    Without ``find_tissue``, everything in the user's regions ``roi`` counts as tissue.
    """
    overview = shrunk(slide, factor)
    level = white_level(overview)
    shape = (overview.shape[0], overview.shape[1])
    tissue, ink = tissue_and_ink(overview, slide.mpp * factor, level)
    wanted = tissue if find_tissue else np.ones(shape, bool)
    if roi is not None:
        wanted &= roi(shape, factor)
    return Look(overview, wanted, level, float(ink.sum() * (slide.mpp * factor / 1000) ** 2))


def first_look(slide: Slide, model: LoadedModel, seen: Look) -> FirstLook:
    """Return the facts about a slide that its store records.

    Stain and focus are measured on all of a small slide, or on squares of tissue of a large one;
    the stain only if the model adapts slides or tells known stains.
    """
    contrast, distance, far = None, None, False
    known = model.known_stains
    view = view_of(slide, model.mpp, seen.glass_level, seen.tissue)
    squares = [view.pixels.read(*square) for square in _squares(view)]
    if model.adaptation is not None or known is not None:
        contrast = contrast_of(squares)
        if contrast is not None and known is not None:
            distance = known.distance(contrast)
            far = distance is not None and distance > known.limit
    facts = {
        "glass_level": seen.glass_level,
        "contrast": None if contrast is None else contrast.to_json(),
        "stain_distance": distance,
        "far": far,
        "blurred_share": blurred_share(squares),
        "ink_mm2": round(seen.ink_mm2, 4),
    }
    return FirstLook(seen.overview, seen.tissue, facts)


def _squares(view: View) -> list[tuple[slice, slice]]:
    """Return the whole of a small slide, or squares of tissue of a large one."""
    height, width = view.shape
    if height * width <= CONTRAST_SQUARES * CONTRAST_SQUARE_PX**2:
        return [(slice(0, height), slice(0, width))]
    return squares_of_tissue(
        view.tissue,
        view.factor,
        view.pixels.ratio,
        view.shape,
        n=CONTRAST_SQUARES,
        side_px=CONTRAST_SQUARE_PX,
    )


def recorded_view(slide: Slide, model: LoadedModel, facts: Json, tissue: BoolMask) -> View:
    """Return the view of a slide by the facts in its store, so that all processes use the same."""
    recorded = facts.get("contrast")
    contrast = None if recorded is None else Contrast.from_json(recorded)
    return view_of(slide, model.mpp, facts["glass_level"], tissue, contrast, model.adaptation)


def view_of(
    slide: Slide,
    model_mpp: float,
    glass_level: float,
    tissue: BoolMask,
    contrast: Contrast | None = None,
    adaptation: Adaptation | None = None,
) -> View:
    """Return a slide at a model's resolution, given its glass level, tissue and stain."""

    def change(image: RGBImage) -> RGBImage:
        return adapt_stain(glass_to_white(image, glass_level), contrast, adaptation)

    return View(
        slide,
        ResampledSlide(slide, model_mpp, same_mpp=SAME_MPP, change=change),
        tissue,
        overview_factor(shape_of(slide), slide.mpp),
        original_densities(contrast, adaptation),
    )


def read_block(view: View, grid: BlockGrid, block: Block) -> PendingBlock:
    """Read the pixels of a block in strips, so that decoded slide pixels take little memory."""
    rows, columns = block.pixels
    pixels = pages_of_its_own((*size_of(block.pixels), 3), np.uint8)
    for start in range(rows.start, rows.stop, STRIP_PX):
        stop = min(start + STRIP_PX, rows.stop)
        pixels[start - rows.start : stop - rows.start] = view.pixels.read(
            slice(start, stop), columns
        )
    return PendingBlock(block, grid, pixels, view.pixels.read)


def keep_windows(work: Path, view: View, pending: PendingBlock) -> None:
    """Wait for the windows of a block and save their objects, in slide pixels."""
    for window, found in objects_of(view, pending):
        save_found(work, window, found.arrays())


def objects_of(view: View, pending: PendingBlock) -> Iterator[tuple[int, RunObjects]]:
    """Wait for the windows of a block; yield index and objects of each, in slide pixels."""
    for window, future in zip(pending.block.windows, pending.windows, strict=True):
        found = to_slide(
            future.result(),
            image_shape=view.shape,
            slide_shape=shape_of(view.slide),
            ratio=view.pixels.ratio,
            hematoxylin=lambda y, x: view.hematoxylin(pending, y, x),
            is_tissue=view.is_tissue,
        )
        yield window.index, found
