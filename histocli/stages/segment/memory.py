"""Segment an image in memory, with a model that stays loaded: nothing is written to disk.

The steps are those of :mod:`histocli.stages.segment.slide_job`, so the labels are those of the
label store that the command would write for the same pixels.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.annotations.regions import find_regions, read_regions
from histocli.base.device import resolve_device
from histocli.base.errors import OutOfResources
from histocli.base.progress import Track, silent
from histocli.base.types import InstanceLabels
from histocli.base.units import ASSUMED_MPP
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.exports.tables import flat_columns
from histocli.inference.runs import Columns, RunObjects, measure_runs, no_objects, paint
from histocli.inference.settling import SlideWindows, number_objects, settle_windows
from histocli.instances.outlines import trace_outlines
from histocli.slides.array import ArraySlide
from histocli.slides.open import open_slide
from histocli.slides.slide import Slide, shape_of, slide_stem
from histocli.stages.segment.loaded import LoadedModel, load_model
from histocli.stages.segment.plan import find_model
from histocli.stages.segment.results import SlideFacts, facts_from
from histocli.stages.segment.run import segmenter_header
from histocli.stages.segment.view import first_look, look, objects_of, read_block, recorded_view
from histocli.stages.segment.warnings import warn_of
from histocli.stores.labels import looked_at_mm2, overview_factor
from histocli.stores.labels.table import COLUMN_TYPES
from histocli.stores.models import ModelHeader

logger = logging.getLogger(__name__)

LARGEST_PX = 1 << 29
"""Pixels of the largest image whose labels are held in memory, where they take 2 GB."""


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of one image."""

    labels: InstanceLabels
    """In pixels of the image: 0 = background, k = nucleus k."""
    columns: Columns
    """A row for each nucleus, in the order of ids; named and typed as the files of ``segment``."""
    facts: SlideFacts

    def outlines(self) -> list[npt.NDArray[np.float64]]:
        """Return the outline of each nucleus as :func:`trace_outlines` yields it: x, y."""
        boxes = np.stack([self.columns[f"box_{side}"] for side in ("y0", "x0", "y1", "x1")], axis=1)
        return list(trace_outlines(self.labels, self.columns["id"], boxes))


class ImageSegmenter:
    """A segmenter in memory, and the settings with which it labels one image after the other.

    Parameters
    ----------
    model : Path, optional
        Model file, or the name of a model of the package; None takes the default model.
    config : SegmentConfig
        Settings about files (``formats``, ``shard``, ``scheduler``) have no effect.

    Raises
    ------
    InvalidOption, StoreNotFound, InvalidStore, OutOfResources
        There is no such model or device, or the model cannot be read.
    """

    def __init__(self, model: Path | None, config: SegmentConfig, execution: Execution) -> None:
        self.path = find_model(model)
        self.header: ModelHeader = segmenter_header(self.path)
        self._config, self._execution = config, execution
        self._stack = ExitStack()  # threads of the pipeline end with this object
        self._loaded: LoadedModel | None = None
        self._one_at_a_time = threading.Lock()  # the network uses all processors for one image

    def segment_array(
        self, image: npt.ArrayLike, mpp: float | None, *, track: Track = silent
    ) -> Nuclei:
        """Label an image in memory; ``mpp`` is in micrometres per pixel and has to be given.

        Raises ``UnknownPixelSize``, ``UnsupportedSlide`` for a wrong shape or type of the array, or
        ``OutOfResources``.
        """
        slide = ArraySlide(image, self._config.mpp if mpp is None else mpp)
        with self._one_at_a_time:
            return self._segment(slide, track)

    def segment_file(self, path: Path, mpp: float | None, *, track: Track = silent) -> Nuclei:
        """Label an image or a slide of any kind that the command reads.

        Raises the errors of :func:`histocli.slides.open.open_slide`, and ``OutOfResources`` for a
        slide whose labels would not fit in memory.
        """
        given = self._config.mpp if mpp is None else mpp
        with closing(open_slide(path, mpp=given)) as slide:
            if slide.mpp_source == "assumed":
                text = "%s: records no pixel size; %g um/px is assumed, give another with mpp="
                logger.warning(text, slide.path, ASSUMED_MPP)
            with self._one_at_a_time:
                return self._segment(slide, track)

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            device = resolve_device(self._execution.device)
            # without a number the model would be loaded on every GPU, for a batch of slides
            name = "cuda:0" if str(device) == "cuda" else str(device)
            execution = replace(self._execution, device=name)
            self._loaded = load_model(self.path, self.header, self._config, execution, self._stack)
        return self._loaded

    def _segment(self, slide: Slide, track: Track) -> Nuclei:
        shape = shape_of(slide)
        if shape[0] * shape[1] > LARGEST_PX:
            raise OutOfResources(
                f"{slide.path}: has {shape[0]} x {shape[1]} pixels, too many to hold their labels "
                "in memory; write them to disk with histocli.segment or 'histosynth segment'"
            )
        model = self._model
        regions = None
        if self._config.roi is not None:
            regions = find_regions(Path(self._config.roi), slide_stem(slide.path))
        roi = None if regions is None else read_regions(regions)
        factor = overview_factor(shape, slide.mpp)
        seen = look(slide, factor, find_tissue=self._config.tissue == "auto", roi=roi)
        known = first_look(slide, model, seen).facts
        view = recorded_view(slide, model, known, seen.tissue)
        grid = model.grid(view.shape)
        found: dict[int, RunObjects] = {}
        blocks = grid.blocks(view.has_tissue(grid))
        with track("segment", sum(len(grid.tiles_of(block.maps)) for block in blocks)) as bar:
            for block in blocks:
                pending = read_block(view, grid, block)
                model.pipelines[0].run([pending], bar.advance)
                found.update(objects_of(view, pending))
        ratio = view.pixels.ratio
        windows = SlideWindows(grid.windows, slide.mpp * ratio, ratio, view.has_tissue(grid))
        labels, columns, n_cut = _settled(windows, found, shape, slide.mpp)
        facts = facts_from(
            known
            | {"n_nuclei": len(columns["id"]), "n_cut": n_cut}
            | {"mm2": looked_at_mm2(seen.tissue, shape, slide.mpp)}
            | {"mpp": slide.mpp, "mpp_source": slide.mpp_source}
        )
        warn_of(slide.path, facts, regions)
        return Nuclei(labels, columns, facts)


def _settled(
    windows: SlideWindows, found: dict[int, RunObjects], shape: tuple[int, int], mpp: float
) -> tuple[InstanceLabels, Columns, int]:
    """Return the labels, the table and the number of cut nuclei from the objects of all windows."""
    settled: dict[int, RunObjects] = {}
    counts = settle_windows(windows, found.__getitem__, settled)
    canvas = np.zeros(shape, np.uint32)
    empty: Columns = {"id": np.zeros(0, np.uint32)} | measure_runs(no_objects(), mpp)
    parts = [empty]
    for numbered in number_objects(windows, settled, lambda own: measure_runs(own, mpp)):
        if len(numbered.columns["id"]):
            parts.append(numbered.columns)
        for window, ids in numbered.complete.items():
            paint(canvas, (0, 0), settled[window].runs, ids)
    table: dict[str, npt.NDArray[Any]] = {
        # the types of the label store, so that a number is the same wherever it is read
        name: np.concatenate([part[name] for part in parts]).astype(
            COLUMN_TYPES.get(name, "float32")
        )
        for name in empty
    }
    return canvas.astype(np.int32), flat_columns(table, slice(None)), counts.cut
