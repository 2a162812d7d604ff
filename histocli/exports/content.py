"""The interface through which writers of files read a segmented slide.

Level 0 is the slide at full resolution; a pixel of level k is 2**k slide pixels wide.
"""

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
    """The labels and the table of nuclei of a slide, such as a label store."""

    path: Path
    mpp: float
    """Micrometres per pixel of level 0."""
    n_nuclei: int
    facts: Json
    """Attributes of the segmentation, such as ``mm2`` (the segmented area)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0."""

    @property
    def n_levels(self) -> int:
        """Number of levels of the labels."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """The columns of the table by name; slicing one reads rows, ordered by id."""

    @property
    def tissue(self) -> BoolMask:
        """True where the slide was segmented, shape (H, W): one value per overview pixel."""

    def level(self, number: int, /) -> Any:
        """Return the label array (H, W) of a level; slicing it reads a region, uint32."""

    def labels(self) -> npt.NDArray[np.uint32]:
        """Read all labels of level 0, shape (H, W)."""

    def overview(self) -> RGBImage:
        """Read a small picture of the whole slide, uint8, shape (H, W, 3)."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The input of a writer. The slide is opened only by writers that need its pixels."""

    nuclei: SegmentedSlide
    read_windows: Callable[[Sequence[Window]], list[RGBImage]]
    """Opens the slide and reads windows of level 0, each uint8, shape (h, w, 3)."""
    read_shrunk: Callable[[int], RGBImage]
    """Opens the slide and reads all of it, shrunk by a factor (the mean of each block)."""
    window: Window | None = None
    """The part of the slide to write; None for all. Only some writers use it."""
    seed: int = 0
    """Seed of the random choice of crops in the quality picture."""
    colour: str = "one"
    """The colours of outlines in overlays: ``one``, or by ``id``, ``area`` or ``probability``."""
    thickness_px: int | None = None
    """Width of these outlines in pixels of the picture; None draws half a micrometre."""
