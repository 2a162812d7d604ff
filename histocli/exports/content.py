"""What the writers of files need to know about a segmented slide, whatever holds it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, Json, RGBImage


class LabelGrid(Protocol):
    """A label image that is read by regions: an array in memory or in a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""

    def __getitem__(self, where: Any) -> Any:
        """Return the labels of rows and columns."""


class SegmentedSlide(Protocol):
    """The labels and the table of nuclei of a slide, read piece by piece."""

    path: Path
    """Where they are stored."""
    mpp: float
    """Micrometres per pixel of level 0."""
    n_nuclei: int
    """Number of rows of the table."""
    facts: Json
    """How they were made."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0."""

    @property
    def n_levels(self) -> int:
        """Number of resolutions."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """The columns of the table, sliced like arrays."""

    @property
    def tissue(self) -> BoolMask:
        """Where nuclei were looked for, on the grid of the overview."""

    def level(self, number: int, /) -> LabelGrid:
        """Return the labels of a level, to be read by regions."""

    def labels(self) -> npt.NDArray[np.uint32]:
        """Read all labels of level 0."""

    def overview(self) -> RGBImage:
        """Read a small picture of the whole slide."""


class SlidePixels(Protocol):
    """The pixels of a slide."""

    def region(self, rows: slice, columns: slice) -> RGBImage:
        """Read a part of level 0."""

    def shrunk(self, factor: int) -> RGBImage:
        """Read everything, blocks of ``factor`` by ``factor`` pixels averaged."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file is made of."""

    nuclei: SegmentedSlide
    open_pixels: Callable[[], AbstractContextManager[SlidePixels]]
    """Opens the slide, for files that show it."""
    window: tuple[slice, slice] | None = None
    """Rows and columns of level 0 that are written; None for all."""
    seed: int = 0
    """Seed of the choice of crops."""
