"""Objects as runs: stretches of pixels in rows of an image.

Runs are small enough to keep the objects of all windows of a slide on disk until the model has been
run on all windows, and quick to paint and to measure. Windows overlap; their cores partition the
image (:mod:`histocli.inference.windows`). The anchor of an object is one pixel inside the object
(:mod:`histocli.instances.anchors`). A window owns the objects whose anchors lie in its core.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray
from histocli.instances.anchors import anchors
from histocli.instances.measurements import PIXEL_MOMENT, ellipses

IntColumn: TypeAlias = npt.NDArray[np.int32]
Places: TypeAlias = npt.NDArray[np.intp]
"""Indices: rows or columns of pixels, or indices of runs."""
Ids: TypeAlias = npt.NDArray[np.uint32]
Columns: TypeAlias = dict[str, npt.NDArray[Any]]
"""Columns of a table by name."""


class RunPixels(NamedTuple):
    """Every pixel of some runs."""

    y: Places
    x: Places
    run: Places
    """Index of the run that each pixel belongs to."""


@dataclass(frozen=True)
class Runs:
    """Stretches of pixels in rows of an image; all columns have the shape (m,)."""

    y: IntColumn
    x: IntColumn
    """First column of each run."""
    length: IntColumn
    objects: IntColumn
    """Index of the object of each run, 0..n-1."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def end(self) -> IntColumn:
        """One past the last column of each run."""
        return self.x + self.length

    def where(self, which: BoolMask) -> "Runs":
        """Return some of the runs, given a mask of shape (m,)."""
        return Runs(*(column[which] for column in vars(self).values()))

    def pixels(self) -> RunPixels:
        """Return row, column and run of every pixel."""
        run = np.repeat(np.arange(len(self)), self.length)
        first = np.cumsum(self.length) - self.length
        columns = self.x[run] + np.arange(run.size) - first[run]
        return RunPixels(self.y[run].astype(np.intp), columns.astype(np.intp), run)

    @classmethod
    def of_columns(cls, *columns: npt.NDArray[np.integer]) -> Self:
        """Make runs from columns of any integer type."""
        return cls(*(column.astype(np.int32) for column in columns))

    @classmethod
    def joined(cls, parts: Sequence["Runs"]) -> Self:
        """Return the runs of all parts, sorted by row and then column.

        Indices of objects are kept, so an index must mean the same object in every part.
        """
        columns = [
            np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)
        ]
        order = np.lexsort((columns[1], columns[0]))
        return cls.of_columns(*(column[order] for column in columns))

    @classmethod
    def of_labels(cls, labels: npt.NDArray[np.int32], origin: tuple[int, int] = (0, 0)) -> Self:
        """Cut a label image that begins at ``origin`` (y, x) into runs; label 1 is object 0."""
        height, width = labels.shape
        flat = np.zeros((height, width + 1), np.int32)
        flat[:, :width] = labels
        flat = flat.ravel()
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate([[0], ends])
        lengths = np.diff(np.concatenate([starts, [flat.size]]))
        real = flat[starts] > 0
        y, x = np.divmod(starts[real], width + 1)
        columns = (y + origin[0], x + origin[1], lengths[real], flat[starts[real]] - 1)
        return cls.of_columns(*columns)

    @classmethod
    def of_pixels(cls, y: Places, x: Places, owner: npt.NDArray[np.int32]) -> Self:
        """Join pixels, given the object of each, into runs."""
        order = np.lexsort((x, y, owner))
        y, x, owner = y[order], x[order], owner[order]
        goes_on = (np.diff(y) == 0) & (np.diff(x) == 1) & (np.diff(owner) == 0)
        starts = np.flatnonzero(np.concatenate([[True] * bool(y.size), ~goes_on]))
        length = np.diff(np.concatenate([starts, [len(y)]]))
        columns = (y[starts], x[starts], length, owner[starts])
        return cls.of_columns(*columns)


@dataclass(frozen=True)
class RunObjects:
    """The objects with anchors in a window's core or just outside it.

    Objects just outside are kept since the neighbour may place their anchors in this window's core,
    so that neither window owns them (:mod:`histocli.inference.settling`).
    """

    runs: Runs
    anchors: IntColumn
    """(n, 2): y, x."""
    owned: BoolMask
    """(n,): whether the anchor at the model's resolution lies in the window's core;
    :func:`to_slide` moves anchors but keeps this."""
    probability: FloatArray
    """(n,): mean nucleus probability."""
    hematoxylin: FloatArray
    """(n,): mean concentration; 0 before :func:`to_slide` has measured it."""
    n_cut: int
    """Number of owned objects that touch a border of the window inside the image: a larger window
    might show more of such an object. Counted before :func:`to_slide` removes objects."""

    def __len__(self) -> int:
        return len(self.anchors)

    def arrays(self) -> Columns:
        """Return all fields as arrays by name."""
        flat = vars(self.runs) | vars(self)
        return {name: np.asarray(value) for name, value in flat.items() if name != "runs"}

    @classmethod
    def from_arrays(cls, arrays: Columns) -> Self:
        """Rebuild the objects from the arrays that ``arrays`` returned."""
        runs = Runs(*(arrays[field.name] for field in fields(Runs)))
        others = {field.name: arrays[field.name] for field in fields(cls)[1:-1]}
        return cls(runs, **others, n_cut=int(arrays["n_cut"]))


def no_objects() -> RunObjects:
    """Return the objects of an empty window."""
    none, real = np.zeros(0, np.int32), np.zeros(0, np.float32)
    places = np.zeros((0, 2), np.int32)
    return RunObjects(Runs(none, none, none, none), places, none.astype(bool), real, real, 0)


def to_slide(
    found: RunObjects,
    *,
    image_shape: tuple[int, int],
    slide_shape: tuple[int, int],
    ratio: float,
    hematoxylin: Callable[[Places, Places], FloatArray],
    is_tissue: Callable[[IntColumn], BoolMask],
) -> RunObjects:
    """Convert the objects of a window from pixels of the model's resolution to slide pixels.

    A slide pixel belongs to the object that covers the centre of the pixel. Objects without a slide
    pixel are removed, and so are objects with anchors where ``is_tissue`` is False.

    Parameters
    ----------
    found : RunObjects
        In pixels of the image at the model's resolution.
    image_shape, slide_shape : (int, int)
        Heights and widths at the model's resolution and of the slide.
    ratio : float
        Slide pixels along a side of an image pixel.
    hematoxylin : callable
        Returns the concentration at pixels y, x of the image.
    is_tissue : callable
        Tells which anchors (n, 2), in slide pixels, lie where nuclei are looked for.
    """
    runs, place, n = found.runs, found.anchors, len(found)
    if not len(runs):
        return found
    y, x, run = runs.pixels()
    owner = runs.objects[run]
    stain = np.bincount(owner, hematoxylin(y, x), n) / np.bincount(owner, minlength=n)
    if ratio != 1:
        top, left = int(y.min()), int(x.min())
        canvas = np.zeros((int(y.max()) - top + 1, int(x.max()) - left + 1), np.int32)
        canvas[y - top, x - left] = owner + 1
        rows = _slide_pixels(top, canvas.shape[0], ratio, image_shape[0], slide_shape[0])
        columns = _slide_pixels(left, canvas.shape[1], ratio, image_shape[1], slide_shape[1])
        canvas = np.ascontiguousarray(canvas[rows.within][:, columns.within])
        runs = Runs.of_labels(canvas, (rows.first, columns.first))
        seen = anchors(canvas)
        place = np.full((n, 2), -1, np.int32)  # -1: the object has no slide pixel left
        place[: len(seen)] = np.where(seen < 0, -1, seen + np.array([rows.first, columns.first]))
    kept = place[:, 0] >= 0
    kept[kept] = is_tissue(place[kept])
    number = np.cumsum(kept, dtype=np.int32) - 1
    runs = runs.where(kept[runs.objects])
    return RunObjects(
        replace(runs, objects=number[runs.objects]),
        anchors=place[kept],
        owned=found.owned[kept],
        probability=found.probability[kept],
        hematoxylin=stain[kept].astype(np.float32),
        n_cut=found.n_cut,
    )


class _SlidePixels(NamedTuple):
    first: int
    """The first slide pixel of the stretch."""
    within: Places
    """For each slide pixel, the image pixel that holds its centre, counted from the start of the
    stretch of image pixels."""


def _slide_pixels(
    start: int, length: int, ratio: float, image_px: int, slide_px: int
) -> _SlidePixels:
    """Return the slide pixels whose centres lie in a stretch of image pixels."""
    # a little too wide at both ends; ``fits`` leaves out the pixels beyond the stretch
    first, last = max(int(start * ratio) - 1, 0), min(int((start + length) * ratio) + 2, slide_px)
    if start + length >= image_px:
        last = slide_px  # slide pixels past the last image pixel belong to that pixel
    index = (
        np.minimum(((np.arange(first, last) + 0.5) / ratio).astype(np.intp), image_px - 1) - start
    )
    fits = np.flatnonzero((index >= 0) & (index < length))
    return _SlidePixels(first + int(fits[0]) if fits.size else 0, index[fits])


def paint(canvas: Ids, origin: tuple[int, int], runs: Runs, ids: Ids) -> None:
    """Write the ids of objects into a part of a label image, in place.

    Parameters
    ----------
    canvas : ndarray of uint32, shape (H, W)
        The part; runs outside it are left out.
    origin : (int, int)
        y and x, in the whole image, of the first pixel of ``canvas``.
    runs : Runs
        In pixels of the whole image.
    ids : ndarray of uint32, shape (n,)
        The id of each object.
    """
    height, width = canvas.shape
    y, x = runs.y - origin[0], runs.x - origin[1]
    here = (y >= 0) & (y < height) & (x < width) & (x + runs.length > 0)
    if not here.any():
        return
    start = np.maximum(x[here], 0)
    stop = np.minimum(x[here] + runs.length[here], width)
    pixels = Runs(y[here], start, stop - start, runs.objects[here]).pixels()
    canvas[pixels.y, pixels.x] = ids[runs.objects[here]][pixels.run]


def measure_runs(found: RunObjects, mpp: float) -> Columns:
    """Measure the objects that have runs, in the order of their indices, in slide pixels.

    Returns
    -------
    dict of ndarray
        Columns of a table: ``y_px``, ``x_px``, ``y_um``, ``x_um`` (centroid, from the centre of the
        slide's first pixel), ``box`` (y0, x0, y1, x1, half open), ``area_um2``, ``elongation``,
        ``eccentricity``, ``orientation_rad``, ``major_um``, ``minor_um``, ``probability``,
        ``hematoxylin``.
    """
    runs = found.runs
    y, x, length = (column.astype(np.int64) for column in (runs.y, runs.x, runs.length))
    index, objects = np.unique(runs.objects, return_inverse=True)
    k = len(index)
    low_y, low_x, high_y, high_x = (np.full(k, fill, np.int64) for fill in (2**31, 2**31, 0, 0))
    np.minimum.at(low_y, objects, y)
    np.minimum.at(low_x, objects, x)
    np.maximum.at(high_y, objects, y + 1)
    np.maximum.at(high_x, objects, x + length)
    dy, dx = y - low_y[objects], x - low_x[objects]  # small integers: every sum below is exact

    def total(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.bincount(objects, values, k).astype(np.float64, copy=False)

    # sums of x and x**2 over the l pixels of a run that begins at dx, from
    # sum(i) = l(l-1)/2 and sum(i**2) = l(l-1)(2l-1)/6 for i = 0..l-1
    rest = length * (length - 1)
    along = length * dx + rest // 2
    count = np.maximum(total(length), 1)
    mean_y, mean_x = total(length * dy) / count, total(along) / count
    squares = length * dx * dx + dx * rest + rest * (2 * length - 1) // 6
    yy = total(length * dy * dy) / count - mean_y**2 + PIXEL_MOMENT
    xx = total(squares) / count - mean_x**2 + PIXEL_MOMENT
    xy = total(along * dy) / count - mean_y * mean_x
    centre_y, centre_x = mean_y + low_y, mean_x + low_x
    return {
        "y_px": centre_y,
        "x_px": centre_x,
        "y_um": centre_y * mpp,
        "x_um": centre_x * mpp,
        "box": np.stack([low_y, low_x, high_y, high_x], axis=1).astype(np.int32).reshape(-1, 4),
        "area_um2": count * mpp * mpp,
        **ellipses(yy, xx, xy, mpp)._asdict(),
        "probability": found.probability[index],
        "hematoxylin": found.hematoxylin[index],
    }
