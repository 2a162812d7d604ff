"""Assign each object that several windows saw to one of them: the earlier window wins.

Nuclei are found on overlapping windows (:mod:`histocli.inference.windows`). A window is a core and
a halo of context around it. The cores partition the slide; a seam is the line between two cores.
The anchor of an object is the one pixel that stands for its place. A window owns the objects whose
anchors lie in its core. An object is stored as runs: stretches of pixels in rows of the image.

Windows are settled in their order, row by row. If objects of earlier windows cover more than half
of an owned object, the object counts as seen before and is dropped, even if it is another nucleus;
otherwise it keeps the pixels that are free. Two windows may each place the anchor of one object on
the other's side of the seam, so that neither owns it; a second pass adds such objects by the same
rule.

Only objects of windows near each other can overlap, so few windows are in memory at a time. The
objects of a slide are numbered in the order of their anchors, y then x.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from histocli.base.types import BoolMask, InstanceLabels
from histocli.inference.runs import Columns, Ids, RunObjects, Runs, paint
from histocli.inference.tiling import TileGrid
from histocli.inference.windows import SEAM_PX, largest_halo_px

MOSTLY = 0.5  # an object counts as seen before if others cover more than this share of its pixels
CELL_PX = 32  # side, in pixels, of the cells of a quick first test for overlap


def settle(window: RunObjects, chosen: BoolMask, others: Sequence[RunObjects]) -> RunObjects:
    """Give the chosen objects of a window, (n,), the pixels that no other object has.

    Parameters
    ----------
    others : sequence of RunObjects
        Settled objects of this window and of windows around it.

    Returns
    -------
    RunObjects
        Runs of the chosen objects, without those objects that others cover by more than half. The
        index of an object stays the same, whether or not the object still has runs.
    """
    mine = window.runs.where(chosen[window.runs.objects])
    taken = _taken_pixels(mine, [other.runs for other in others])
    if taken is None:
        return replace(window, runs=mine)
    doubtful = np.zeros(len(window), bool)
    doubtful[mine.objects[taken.suspicious]] = True
    part = mine.where(doubtful[mine.objects])
    pixels = part.pixels()
    owner = part.objects[pixels.run]
    free = ~taken.occupied[pixels.y - taken.top, pixels.x - taken.left]
    size = np.bincount(owner, minlength=len(window))
    lost = size - np.bincount(owner[free], minlength=len(window))
    if not lost.any():
        return replace(window, runs=mine)
    trimmed = (lost > 0) & (lost <= MOSTLY * size)
    stays = free & trimmed[owner]
    rest = Runs.of_pixels(pixels.y[stays], pixels.x[stays], owner[stays])
    return replace(window, runs=Runs.joined([mine.where(lost[mine.objects] == 0), rest]))


class _Taken(NamedTuple):
    occupied: BoolMask
    """Pixels of other windows' objects, in the smallest box around this window's runs."""
    top: int
    left: int
    """First row and column of the box."""
    suspicious: BoolMask
    """This window's runs that touch a cell with pixels of other windows' objects."""


def _taken_pixels(mine: Runs, others: Sequence[Runs]) -> _Taken | None:
    """Find the pixels of others in the box around a window's runs; None if no run is near any."""
    if not len(mine):
        return None
    top, left = int(mine.y.min()), int(mine.x.min())
    bottom, right = int(mine.y.max()) + 1, int(mine.end.max())
    near = [
        other.where((other.y >= top) & (other.y < bottom) & (other.x < right) & (other.end > left))
        for other in others
    ]
    if not any(map(len, near)):
        return None
    pixels = [other.pixels() for other in near]
    y, x = np.concatenate([part.y for part in pixels]), np.concatenate([part.x for part in pixels])
    within = (x >= left) & (x < right)
    y, x = y[within] - top, x[within] - left
    cells = np.zeros(((bottom - top) // CELL_PX + 1, (right - left) // CELL_PX + 1), bool)
    cells[y // CELL_PX, x // CELL_PX] = True
    before = np.concatenate([np.zeros((len(cells), 1), np.int64), np.cumsum(cells, axis=1)], axis=1)
    row, first = (mine.y - top) // CELL_PX, mine.x - left
    last = first + mine.length - 1
    suspicious = before[row, last // CELL_PX + 1] > before[row, first // CELL_PX]
    if not suspicious.any():
        return None
    occupied = np.zeros((bottom - top, right - left), bool)
    occupied[y, x] = True
    return _Taken(occupied, top, left, suspicious)


@dataclass(frozen=True)
class SlideWindows:
    """The windows of a slide in which nuclei were looked for, and how far their objects reach.

    Parameters
    ----------
    grid : TileGrid
        All windows of the slide, at the model's resolution.
    mpp : float
        Micrometres per pixel of that grid.
    ratio : float
        Slide pixels along a side of a pixel of the grid.
    wanted : callable
        Tells whether nuclei were looked for in a window; windows without tissue are left out.
    """

    grid: TileGrid
    mpp: float
    ratio: float = 1.0
    wanted: Callable[[int], bool] = lambda window: True

    @property
    def reach_px(self) -> int:
        """How far an object may extend beyond its window's core, in pixels of the grid."""
        # an object ends with the largest halo; SEAM_PX is a margin
        return largest_halo_px(self.mpp) + SEAM_PX

    def __iter__(self) -> Iterator[int]:
        return filter(self.wanted, range(len(self.grid)))

    def in_row(self, row: int) -> Iterator[int]:
        """Yield the windows of a row of the grid."""
        across = self.grid.grid_shape[1]
        return filter(self.wanted, range(row * across, (row + 1) * across))

    def around(self, window: int) -> Iterator[int]:
        """Yield the windows whose objects may overlap those of a window."""
        # objects of both windows may extend beyond their cores: hence twice the reach
        row, column = divmod(window, self.grid.grid_shape[1])
        down, across = (max(1, -(-2 * self.reach_px // core)) for core in self.grid.core_shape)
        near = self._in((row - down, row + down), (column - across, column + across))
        return (other for other in near if other != window)

    def touching(self, rows: slice, columns: slice) -> Iterator[int]:
        """Yield the windows that may have pixels in a part of the slide, in slide pixels."""
        reach = self.reach_px + 2  # a margin for rounding to slide pixels
        down, across = (
            (
                int((side.start / self.ratio - reach) // core),
                int((side.stop / self.ratio + reach) // core),
            )
            for side, core in zip((rows, columns), self.grid.core_shape, strict=True)
        )
        return self._in(down, across)

    def anchors_from(self, row: int) -> float:
        """Return the least y, in slide pixels, that anchors of windows in this row of the grid or
        later rows can have; infinity past the last row.
        """
        if row == self.grid.grid_shape[0]:
            return np.inf
        above = self.grid[(row - 1) * self.grid.grid_shape[1]]
        return float((above.core[0].stop - self.reach_px) * self.ratio - SEAM_PX)

    def _in(self, rows: tuple[int, int], columns: tuple[int, int]) -> Iterator[int]:
        """Yield the windows from a first to a last row and column of the grid, both included."""
        across = self.grid.grid_shape[1]
        y, x = (
            range(max(first, 0), min(last + 1, n))
            for (first, last), n in zip((rows, columns), self.grid.grid_shape, strict=True)
        )
        return filter(self.wanted, (row * across + column for row in y for column in x))


class SettledObjects(Protocol):
    """The settled objects of each window: a dict, or a class that keeps them on disk."""

    def __getitem__(self, window: int) -> RunObjects:
        """Return the objects of a window."""

    def __setitem__(self, window: int, own: RunObjects) -> None:
        """Keep the objects of a window."""


class Counts(NamedTuple):
    """Numbers of objects of a slide."""

    objects: int  # left after settling
    cut: int
    """Owned objects that reach the border of their window, counted before settling."""


def settle_windows(
    windows: SlideWindows,
    found: Callable[[int], RunObjects],
    settled: SettledObjects,
    between: Callable[[], None] = lambda: None,
) -> Counts:
    """Decide which window keeps which object.

    Parameters
    ----------
    windows : SlideWindows
    found : callable
        Returns the objects that a window found, in slide pixels; called again in the second pass.
    settled : SettledObjects
        Takes the objects that each window keeps.
    between : callable
        Called before each window of the first pass; may raise to stop.

    Returns
    -------
    Counts
    """
    objects, cut, doubtful = 0, 0, []
    for window in windows:
        between()
        seen = found(window)
        before = [settled[other] for other in windows.around(window) if other < window]
        own = settle(seen, seen.owned, before)
        settled[window] = own
        objects += np.unique(own.runs.objects).size
        cut += seen.n_cut
        if not seen.owned.all():
            doubtful.append(window)
    # second pass: objects just over the seam that no window has taken so far
    for window in doubtful:
        seen, own = found(window), settled[window]
        others = [own, *(settled[other] for other in windows.around(window))]
        extra = settle(seen, ~seen.owned, others).runs
        if len(extra):
            objects += np.unique(extra.objects).size
            settled[window] = replace(own, runs=Runs.joined([own.runs, extra]))
    return Counts(objects, cut)


@dataclass(frozen=True)
class Numbered:
    """Objects that have got their numbers, in the order of the numbers."""

    columns: Columns
    """``id`` and the measured columns, a row for each object."""
    complete: dict[int, Ids]
    """For windows with no object left to number: the id of each object, (n,); 0 if dropped."""


def number_objects(
    windows: SlideWindows,
    settled: SettledObjects,
    measure: Callable[[RunObjects], Columns] = lambda own: {},
) -> Iterator[Numbered]:
    """Number the objects of a slide 1..n in the order of their anchors, y then x.

    Parameters
    ----------
    windows : SlideWindows
    settled : mapping
        From :func:`settle_windows`.
    measure : callable, optional
        Returns columns of a table, a row for each object that has runs.

    Yields
    ------
    Numbered
        For each row of windows, the objects whose place in the order is now final.
    """
    ids: dict[int, Ids] = {}
    left: dict[int, int] = {}
    waiting: list[Columns] = []
    given = 0
    for row in range(windows.grid.grid_shape[0]):
        for window in windows.in_row(row):
            own = settled[window]
            rows = _unnumbered(window, own) | measure(own)
            ids[window] = np.zeros(len(own), np.uint32)
            left[window] = len(rows["object"])
            waiting.append(rows)
        if not waiting:
            continue
        table = {name: np.concatenate([rows[name] for rows in waiting]) for name in waiting[0]}
        order = np.lexsort((table["anchor_x"], table["anchor_y"]))
        early = table["anchor_y"][order] < windows.anchors_from(row + 1)
        later = np.sort(order[~early])
        waiting = [{name: column[later] for name, column in table.items()}]
        table = {name: column[order[early]] for name, column in table.items()}
        numbers = np.arange(given + 1, given + early.sum() + 1, dtype=np.uint32)
        given += len(numbers)
        for window in np.unique(table["window"]).tolist():
            mine = table["window"] == window
            ids[window][table["object"][mine]] = numbers[mine]
            left[window] -= int(mine.sum())
        done = [window for window, missing in left.items() if not missing]
        left = {window: missing for window, missing in left.items() if missing}
        # without the columns that only this module needs: PLACES, below
        columns = {name: table[name] for name in table if name not in PLACES}
        yield Numbered({"id": numbers} | columns, {window: ids.pop(window) for window in done})


PLACES = ("anchor_y", "anchor_x", "window", "object")
"""Columns of an object that waits for a number: anchor, window, index in the window."""


def _unnumbered(window: int, own: RunObjects) -> Columns:
    index = np.unique(own.runs.objects).astype(np.int64)
    y, x = own.anchors[index].T.astype(np.int64)
    return dict(zip(PLACES, (y, x, np.full(len(index), window), index), strict=True))


def put_together(windows: SlideWindows, found: Callable[[int], RunObjects]) -> InstanceLabels:
    """Return the label image of a slide that fits into memory, at the resolution of its grid.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 = background, 1..n in the order of anchors, y then x.
    """
    settled: dict[int, RunObjects] = {}
    settle_windows(windows, found, settled)
    canvas = np.zeros(windows.grid.image_shape, np.uint32)
    for numbered in number_objects(windows, settled):
        for window, ids in numbered.complete.items():
            paint(canvas, (0, 0), settled[window].runs, ids)
    return canvas.astype(np.int32)
