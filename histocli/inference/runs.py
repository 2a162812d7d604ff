"""Objects as runs of pixels: small enough to keep on disk until all of a slide is known, quick to
paint and to measure.

What a window found is brought to the slide's own pixels and cut into runs, at once and for good.
Windows that saw an object differently are settled in the order of the grid, as
:func:`histocli.inference.tiling.stitch` does it for an image in memory: the earlier window wins, an
object most of whose pixels are taken has been seen before, and what each of two windows ascribed to
the other comes in at the end. Only neighbours can meet, so that needs a few windows at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray
from histocli.inference.tiling import MOSTLY, WindowObjects, anchors

CELL_PX = 32  # pixels of foreign objects are looked for in cells of this size first

IntColumn = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RunObjects:
    """Objects of one window, in pixels of the slide."""

    y: IntColumn
    """(m,): row of each run."""
    x: IntColumn
    """(m,): its first column."""
    length: IntColumn
    """(m,): its number of pixels."""
    objects: IntColumn
    """(m,): its object, 0..n-1."""
    anchors: IntColumn
    """(n, 2): y, x."""
    owned: npt.NDArray[np.bool_]
    """(n,): the window's own; the others lie just over its seam."""
    probability: FloatArray
    """(n,): mean nucleus probability."""
    hematoxylin: FloatArray
    """(n,): mean concentration."""
    n_cut: int
    """Own objects that go on beyond what was looked at."""

    def __len__(self) -> int:
        return len(self.anchors)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all fields as arrays by name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Take up what ``arrays`` returned."""
        fields: dict[str, Any] = {name: arrays[name] for name in cls.__dataclass_fields__}
        return cls(**(fields | {"n_cut": int(fields["n_cut"])}))

    def chosen(self, which: npt.NDArray[np.bool_]) -> "RunObjects":
        """Return the runs of some objects; the objects keep their numbers."""
        return self.chosen_runs(which[self.objects])

    def chosen_runs(self, runs: npt.NDArray[np.bool_]) -> "RunObjects":
        """Return some of the runs."""
        return replace(
            self,
            y=self.y[runs],
            x=self.x[runs],
            length=self.length[runs],
            objects=self.objects[runs],
        )


def no_objects() -> RunObjects:
    """Return what an empty window found."""
    none = np.zeros(0, np.int32)
    return RunObjects(
        none,
        none,
        none,
        none,
        np.zeros((0, 2), np.int32),
        none.astype(bool),
        none.astype("f4"),
        none.astype("f4"),
        0,
    )


def window_to_runs(
    found: WindowObjects,
    *,
    image_shape: tuple[int, int],
    slide_shape: tuple[int, int],
    ratio: float,
    hematoxylin: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], FloatArray],
    is_tissue: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.bool_]],
) -> RunObjects:
    """Bring the objects of a window to the slide's pixels.

    A pixel of the slide belongs to the object that has its centre. An object that has no such pixel
    is gone.

    Parameters
    ----------
    found : WindowObjects
        In pixels of the image at the model's resolution.
    image_shape, slide_shape : (int, int)
        Heights and widths at the model's resolution and of the slide.
    ratio : float
        Slide pixels along a side of an image pixel.
    hematoxylin : callable
        Concentration at pixels y, x of the image.
    is_tissue : callable
        Tells of anchors (n, 2), in slide pixels, whether nuclei are looked for there.
    """
    n = len(found.anchors)
    if not found.pixels.size:
        return replace(no_objects(), n_cut=found.n_cut)
    y, x = np.divmod(found.pixels, image_shape[1])
    stain = np.bincount(found.objects, hematoxylin(y, x), n) / np.maximum(
        np.bincount(found.objects, minlength=n), 1
    )
    top, left = int(y.min()), int(x.min())
    canvas = np.zeros((int(y.max()) - top + 1, int(x.max()) - left + 1), np.int32)
    canvas[y - top, x - left] = found.objects + 1
    if ratio == 1:
        places, origin = found.anchors, (top, left)
    else:
        rows, row_index = _slide_pixels(top, canvas.shape[0], ratio, image_shape[0], slide_shape[0])
        columns, column_index = _slide_pixels(
            left, canvas.shape[1], ratio, image_shape[1], slide_shape[1]
        )
        canvas = np.ascontiguousarray(canvas[row_index][:, column_index])
        origin = (rows.start, columns.start)
        places = np.full((n, 2), -1, np.int64)
        seen = anchors(canvas)
        places[: len(seen)] = np.where(seen < 0, -1, seen + np.array(origin))
    runs_y, runs_x, length, objects = _runs_of(canvas)
    place = places.astype(np.int32)
    kept = place[:, 0] >= 0
    kept[kept] = is_tissue(place[kept])
    number = np.cumsum(kept, dtype=np.int32) - 1
    wanted = kept[objects]
    return RunObjects(
        y=(runs_y[wanted] + origin[0]).astype(np.int32),
        x=(runs_x[wanted] + origin[1]).astype(np.int32),
        length=length[wanted].astype(np.int32),
        objects=number[objects[wanted]],
        anchors=place[kept],
        owned=found.owned[kept],
        probability=found.scores[kept].astype(np.float32),
        hematoxylin=stain[kept].astype(np.float32),
        n_cut=found.n_cut,
    )


def settle(
    window: RunObjects, chosen: npt.NDArray[np.bool_], others: Sequence[RunObjects]
) -> RunObjects:
    """Give the chosen objects of a window the pixels that no other object has.

    Parameters
    ----------
    window : RunObjects
    chosen : ndarray of bool, shape (n,)
    others : sequence of RunObjects
        What has been settled before, around this window.

    Returns
    -------
    RunObjects
        Runs of the chosen objects only, without those that are mostly taken; the objects keep their
        numbers.
    """
    mine = window.chosen(chosen)
    if not mine.y.size:
        return mine
    top, left = int(mine.y.min()), int(mine.x.min())
    bottom, right = int(mine.y.max()) + 1, int((mine.x + mine.length).max())
    near = [
        other.chosen_runs(
            (other.y >= top)
            & (other.y < bottom)
            & (other.x < right)
            & (other.x + other.length > left)
        )
        for other in others
    ]
    near = [other for other in near if other.y.size]
    if not near:
        return mine
    y, x, _ = _pixels(
        np.concatenate([other.y for other in near]),
        np.concatenate([other.x for other in near]),
        np.concatenate([other.length for other in near]),
    )
    within = (x >= left) & (x < right)
    y, x = y[within] - top, x[within] - left
    cells = np.zeros(((bottom - top) // CELL_PX + 1, (right - left) // CELL_PX + 1), bool)
    cells[y // CELL_PX, x // CELL_PX] = True
    suspicious = _over_cells(cells, mine.y - top, mine.x - left, mine.length)
    if not suspicious.any():
        return mine
    doubtful = np.zeros(len(window), bool)
    doubtful[mine.objects[suspicious]] = True
    part = mine.chosen(doubtful)
    occupied = np.zeros((bottom - top, right - left), bool)
    occupied[y, x] = True
    own_y, own_x, run = _pixels(part.y, part.x, part.length)
    owner = part.objects[run]
    free = ~occupied[own_y - top, own_x - left]
    size = np.bincount(owner, minlength=len(window))
    taken = size - np.bincount(owner[free], minlength=len(window))
    if not taken.any():
        return mine
    trimmed = (taken > 0) & (taken <= MOSTLY * size)
    untouched = mine.chosen(chosen & (taken == 0))
    stays = free & trimmed[owner]
    again = _runs_of_pixels(own_y[stays], own_x[stays], owner[stays])
    merged = [
        np.concatenate(both)
        for both in zip(
            (untouched.y, untouched.x, untouched.length, untouched.objects), again, strict=True
        )
    ]
    order = np.lexsort((merged[1], merged[0]))
    y_, x_, length_, objects_ = (column[order].astype(np.int32) for column in merged)
    return replace(mine, y=y_, x=x_, length=length_, objects=objects_)


def joined(first: RunObjects, second: RunObjects) -> RunObjects:
    """Return the runs of two sets of objects of one window as one."""
    merged = [
        np.concatenate(both)
        for both in zip(
            (first.y, first.x, first.length, first.objects),
            (second.y, second.x, second.length, second.objects),
            strict=True,
        )
    ]
    order = np.lexsort((merged[1], merged[0]))
    y, x, length, objects = (column[order] for column in merged)
    return replace(first, y=y, x=x, length=length, objects=objects)


def measure_runs(
    found: RunObjects, mpp: float
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]:
    """Measure the objects that have runs.

    Parameters
    ----------
    found : RunObjects
    mpp : float
        Micrometres per pixel of the slide.

    Returns
    -------
    index : ndarray of int64, shape (k,)
        Which of the objects have runs.
    columns : dict of ndarray, k rows
        ``y_px``, ``x_px``, ``y_um``, ``x_um`` (centroid, from the centre of the slide's first
        pixel), ``box`` (y0, x0, y1, x1, half open), ``area_um2``, ``elongation``, ``eccentricity``,
        ``orientation_rad``, ``major_um``, ``minor_um``, ``probability``, ``hematoxylin``.
    """
    n = len(found)
    y, x, length = (column.astype(np.int64) for column in (found.y, found.x, found.length))
    index, objects = np.unique(found.objects, return_inverse=True)
    k = len(index)
    low_y, low_x, high_y, high_x = (np.full(k, fill, np.int64) for fill in (2**31, 2**31, 0, 0))
    np.minimum.at(low_y, objects, y)
    np.minimum.at(low_x, objects, x)
    np.maximum.at(high_y, objects, y + 1)
    np.maximum.at(high_x, objects, x + length)
    dy, dx = y - low_y[objects], x - low_x[objects]  # small whole numbers: every sum below is exact

    def total(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.bincount(objects, values, k).astype(np.float64, copy=False)

    along = length * dx + length * (length - 1) // 2
    count = np.maximum(total(length), 1)
    mean_y, mean_x = total(length * dy) / count, total(along) / count
    squares = (
        length * dx * dx
        + dx * length * (length - 1)
        + (length - 1) * length * (2 * length - 1) // 6
    )
    # 1/12 is the second moment of a pixel itself: a single pixel is a square, not a point
    yy = total(length * dy * dy) / count - mean_y**2 + 1 / 12
    xx = total(squares) / count - mean_x**2 + 1 / 12
    xy = total(along * dy) / count - mean_y * mean_x
    root = np.sqrt((xx - yy) ** 2 / 4 + xy**2)
    large, small = (xx + yy) / 2 + root, np.maximum((xx + yy) / 2 - root, 1e-9)
    centre_y, centre_x = mean_y + low_y, mean_x + low_x
    assert n >= k
    return index.astype(np.int64), {
        "y_px": centre_y,
        "x_px": centre_x,
        "y_um": centre_y * mpp,
        "x_um": centre_x * mpp,
        "box": np.stack([low_y, low_x, high_y, high_x], axis=1).astype(np.int32).reshape(-1, 4),
        "area_um2": count * mpp * mpp,
        "elongation": np.sqrt(large / small),
        "eccentricity": np.sqrt(np.maximum(1 - small / large, 0)),
        "orientation_rad": 0.5 * np.arctan2(2 * xy, xx - yy),
        "major_um": 4 * np.sqrt(large) * mpp,
        "minor_um": 4 * np.sqrt(small) * mpp,
        "probability": found.probability[index],
        "hematoxylin": found.hematoxylin[index],
    }


def paint(
    canvas: npt.NDArray[np.uint32],
    origin: tuple[int, int],
    found: RunObjects,
    ids: npt.NDArray[np.uint32],
) -> None:
    """Write the ids of objects into the part of a label image that starts at ``origin``."""
    height, width = canvas.shape
    y, x = found.y - origin[0], found.x - origin[1]
    here = (y >= 0) & (y < height) & (x < width) & (x + found.length > 0)
    if not here.any():
        return
    start = np.maximum(x[here], 0)
    stop = np.minimum(x[here] + found.length[here], width)
    rows, columns, run = _pixels(y[here], start, stop - start)
    canvas[rows, columns] = ids[found.objects[here]][run]


def _slide_pixels(
    start: int, length: int, ratio: float, image_px: int, slide_px: int
) -> tuple[slice, npt.NDArray[np.intp]]:
    """Return the slide pixels whose centres lie in a stretch of image pixels, and which of those
    each lies in.
    """
    first, last = max(int(start * ratio) - 1, 0), min(int((start + length) * ratio) + 2, slide_px)
    if start + length >= image_px:
        last = slide_px  # what is left over at the end belongs to the last pixel
    index = (
        np.minimum(((np.arange(first, last) + 0.5) / ratio).astype(np.intp), image_px - 1) - start
    )
    fits = np.flatnonzero((index >= 0) & (index < length))
    if not fits.size:
        return slice(0, 0), np.zeros(0, np.intp)
    return slice(first + int(fits[0]), first + int(fits[-1]) + 1), index[fits]


def _runs_of(canvas: npt.NDArray[np.int32]) -> tuple[IntColumn, IntColumn, IntColumn, IntColumn]:
    """Return row, first column, length and object (from 0) of the runs of a label image, in raster
    order.
    """
    height, width = canvas.shape
    flat = np.zeros((height, width + 1), np.int32)
    flat[:, :width] = canvas
    flat = flat.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], ends])
    stops = np.concatenate([ends, [flat.size]])
    objects = flat[starts]
    real = objects > 0
    y, x = np.divmod(starts[real], width + 1)
    return (
        y.astype(np.int32),
        x.astype(np.int32),
        (stops - starts)[real].astype(np.int32),
        objects[real] - 1,
    )


def _pixels(
    y: npt.NDArray[np.integer[Any]],
    x: npt.NDArray[np.integer[Any]],
    length: npt.NDArray[np.integer[Any]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return row, column and run of every pixel of runs."""
    run = np.repeat(np.arange(len(y)), length)
    first = np.cumsum(length) - length
    columns = x[run] + np.arange(run.size) - first[run]
    return y[run].astype(np.intp), columns.astype(np.intp), run


def _over_cells(
    cells: BoolMask,
    y: npt.NDArray[np.integer[Any]],
    x: npt.NDArray[np.integer[Any]],
    length: npt.NDArray[np.integer[Any]],
) -> npt.NDArray[np.bool_]:
    """Tell which runs lie on a marked cell."""
    counts = np.concatenate([np.zeros((len(cells), 1), np.int64), np.cumsum(cells, axis=1)], axis=1)
    row = y // CELL_PX
    return np.asarray(counts[row, (x + length - 1) // CELL_PX + 1] > counts[row, x // CELL_PX])


def _runs_of_pixels(
    y: npt.NDArray[np.intp], x: npt.NDArray[np.intp], owner: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Put pixels together to runs."""
    if not y.size:
        none = np.zeros(0, np.int32)
        return none, none, none, none
    order = np.lexsort((x, y, owner))
    y, x, owner = y[order], x[order], owner[order]
    begins = np.concatenate([[True], (np.diff(y) != 0) | (np.diff(x) != 1) | (np.diff(owner) != 0)])
    starts = np.flatnonzero(begins)
    length = np.diff(np.concatenate([starts, [len(y)]]))
    return y[starts], x[starts], length, owner[starts]
