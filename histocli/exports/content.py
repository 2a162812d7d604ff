"""What the writers of files need to know about a segmented slide, whatever holds it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, Json, RGBImage

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of level 0."""


class SegmentedSlide(Protocol):
    """The labels and the table of nuclei of a slide, read piece by piece."""

    path: Path
    mpp: float
    """Micrometres per pixel of level 0."""
    n_nuclei: int
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

    def level(self, number: int, /) -> Any:
        """Return the labels of a level, sliced like an array."""

    def labels(self) -> npt.NDArray[np.uint32]:
        """Read all labels of level 0."""

    def overview(self) -> RGBImage:
        """Read a small picture of the whole slide."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a file is made of. The slide itself is opened only for files that show it."""

    nuclei: SegmentedSlide
    read_windows: Callable[[Sequence[Window]], list[RGBImage]]
    """Opens the slide and reads some parts of level 0."""
    read_shrunk: Callable[[int], RGBImage]
    """Opens the slide and reads all of it, blocks of so many pixels a side averaged."""
    window: Window | None = None
    """The part that is written; None for all."""
    seed: int = 0
    """Seed of the choice of crops."""
