"""Nuclei of images, with a model that stays loaded."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histocli.api.inputs import PathLike, model_named
from histocli.api.progress import Progress, track_of
from histocli.base.types import InstanceLabels
from histocli.config.common import Execution
from histocli.config.segment import SegmentConfig
from histocli.stages.segment.memory import ImageSegmenter, Nuclei

if TYPE_CHECKING:
    from histocli.stages.train.plan import TrainResult


class Segmentation:
    """The nuclei of one image.

    Attributes
    ----------
    labels : ndarray of int32, shape (H, W)
        0 is background, k is nucleus k; pixels are those of the image.
    mpp : float
        Micrometres per pixel of the image.
    mpp_source : str
        Where ``mpp`` comes from, such as ``given`` or ``ome-xml``.
    mm2 : float
        Area in which nuclei were looked for, in square millimetres.
    flags : tuple of str
        What may make the result wrong: ``out of focus``, ``pen``, ``foreign stain``, ``empty``,
        ``cut nuclei``.
    """

    def __init__(self, found: Nuclei) -> None:
        self._found = found
        self.labels: InstanceLabels = found.labels
        self.mpp = found.facts.mpp
        self.mpp_source = found.facts.mpp_source
        self.mm2 = found.facts.mm2
        self.flags = found.facts.flags

    @property
    def nuclei(self) -> int:
        """Number of nuclei."""
        return self._found.facts.nuclei

    def __len__(self) -> int:
        return self.nuclei

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"<Segmentation: {self.nuclei} nuclei in {height} x {width} px at {self.mpp:g} um>"

    @cached_property
    def table(self) -> Any:
        """A row for each nucleus, in the order of ids: a pandas DataFrame if pandas is installed.

        Without pandas, a dict of NumPy arrays by column. Columns are those of the CSV files of
        ``segment``: ``id``, centroid ``y_px``, ``x_px``, ``y_um``, ``x_um``, box ``box_y0``,
        ``box_x0``, ``box_y1``, ``box_x1`` (half open), ``area_um2``, ``eccentricity``,
        ``elongation``, ``hematoxylin``, ``major_um``, ``minor_um``, ``orientation_rad``,
        ``probability``.
        """
        try:
            import pandas
        except ImportError:
            return dict(self._found.columns)
        return pandas.DataFrame(self._found.columns)

    @cached_property
    def polygons(self) -> list[npt.NDArray[np.float64]]:
        """The outline of each nucleus, in the order of ids.

        Each is an array of shape (k, 2) with y before x, in pixels from the outer corner of the
        first pixel; the first corner is repeated at the end. Outlines run along the edges of
        pixels and leave holes out.
        """
        return [np.ascontiguousarray(outline[:, ::-1]) for outline in self._found.outlines()]


class Segmenter:
    """A model that labels nuclei.

    Parameters
    ----------
    model : str or path
        ``"box"``, the default model of the package; ``"box:NAME"``, another one that
        ``histosynth models`` lists; or a model file that ``train`` made.
    config : SegmentConfig, optional
        As on the command line. Settings about files (``formats``, ``shard``, ``scheduler``) have
        no effect.
    execution : Execution, optional
        ``device``, ``precision`` and ``workers`` are used.

    Raises
    ------
    InvalidOption
        No model of the package has this name, or the file holds another kind of model.
    StoreNotFound, InvalidStore
        The file is missing, or is no model.

    Examples
    --------
    >>> from histocli import Segmenter
    >>> found = Segmenter("box").segment(image, mpp=0.25)  # doctest: +SKIP
    >>> found.nuclei, found.table["area_um2"].mean()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: PathLike = "box",
        *,
        config: SegmentConfig | None = None,
        execution: Execution | None = None,
    ) -> None:
        self._images = ImageSegmenter(
            model_named(model), config or SegmentConfig(), execution or Execution()
        )
        self.result: TrainResult | None = None
        """Where :func:`histocli.train` made the model: what it reported."""

    @property
    def path(self) -> Path:
        """The model file."""
        return self._images.path

    @property
    def mpp(self) -> float:
        """Micrometres per pixel that the model works at; images are resampled to it."""
        return self._images.header.mpp

    @property
    def about(self) -> dict[str, Any]:
        """The header of the model file: architecture, training, data, hashes, as plain JSON."""
        return self._images.header.to_json()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Segmenter: {self.path.name} at {self.mpp:g} um>"

    def segment(
        self,
        image: npt.ArrayLike | PathLike,
        *,
        mpp: float | None = None,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Label every nucleus of one image, in memory.

        The labels are those that ``histosynth segment`` writes for the same pixels. For whole
        slides and folders, :func:`histocli.segment` writes files in bounded memory.

        Parameters
        ----------
        image : array_like or path
            Shape (H, W, 3), sRGB: uint8 in 0..255, uint16, or floats in 0..1 or 0..255; grey
            images (H, W) and an opacity channel are accepted. Or any slide or image file that the
            command line reads.
        mpp : float, optional
            Micrometres per pixel of the image. Arrays need it; of files it replaces what they
            record.
        progress : callable, optional
            See :data:`histocli.api.progress.Progress`.

        Raises
        ------
        UnknownPixelSize
            The pixel size is neither given nor recorded.
        UnsupportedSlide, InputNotFound
            The image cannot be read.
        OutOfResources
            The image is too large for memory.
        """
        track = track_of(progress)
        if isinstance(image, (str, os.PathLike)):
            return Segmentation(self._images.segment_file(Path(image), mpp, track=track))
        return Segmentation(self._images.segment_array(image, mpp, track=track))
