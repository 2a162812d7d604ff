"""One rule says which window has which object of a slide: windows are settled in their order.

Where two windows agree about an object, one of them owns it and there is nothing to decide. Where
they disagree, the earlier window wins: an object most of whose pixels are taken has been seen
before and is dropped, any other object keeps its free pixels. An object that each of two windows
ascribed to the other, by an anchor just over the seam, comes in at the end, where there is room. So
no object is doubled and none is lost.

Only neighbours can meet, so a slide needs a few windows in memory at a time. Its objects are
numbered in the order of their anchors, y then x, a row of windows at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from histocli.base.types import BoolMask, InstanceLabels
from histocli.inference.runs import Columns, Ids, RunObjects, Runs, paint
from histocli.inference.tiling import TileGrid
from histocli.inference.windows import SEAM_PX, largest_halo_px

MOSTLY = 0.5  # above one half of its pixels taken, an object has been seen before
CELL_PX = 32  # pixels of other windows' objects are looked for in cells of this size first


def settle(window: RunObjects, chosen: BoolMask, others: Sequence[RunObjects]) -> RunObjects:
    """Give the chosen objects of a window, (n,), the pixels that no other object has.

    Parameters
    ----------
    others : sequence of RunObjects
        Objects that have been settled before, around this window.

    Returns
    -------
    RunObjects
        Runs of the chosen objects only, without objects that are mostly taken; the objects keep
        their numbers.
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
    """Pixels of other objects, in the box around the runs in question."""
    top: int
    left: int
    """Where that box begins."""
    suspicious: BoolMask
    """The runs in question that may have such pixels."""


def _taken_pixels(mine: Runs, others: Sequence[Runs]) -> _Taken | None:
    """Find pixels that others have where some runs are; None where there cannot be any."""
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
    """The windows of a slide that were looked at, and how far their objects reach.

    Parameters
    ----------
    grid : TileGrid
        All windows of the slide, at the model's resolution.
    mpp : float
        Micrometres per pixel of that grid.
    ratio : float
        Slide pixels along a side of a pixel of the grid.
    wanted : callable
        Tells whether a window was looked at.
    """

    grid: TileGrid
    mpp: float
    ratio: float = 1.0
    wanted: Callable[[int], bool] = lambda window: True

    @property
    def reach_px(self) -> int:
        """How far an object may lie outside the core of its window, in pixels of the grid."""
        return largest_halo_px(self.mpp) + SEAM_PX

    def __iter__(self) -> Iterator[int]:
        return filter(self.wanted, range(len(self.grid)))

    def in_row(self, row: int) -> Iterator[int]:
        """Yield the windows of a row."""
        across = self.grid.grid_shape[1]
        return filter(self.wanted, range(row * across, (row + 1) * across))

    def around(self, window: int) -> Iterator[int]:
        """Yield the windows whose objects may meet the objects of a window."""
        row, column = divmod(window, self.grid.grid_shape[1])
        down, across = (max(1, -(-2 * self.reach_px // core)) for core in self.grid.core_shape)
        near = self._in((row - down, row + down), (column - across, column + across))
        return (other for other in near if other != window)

    def touching(self, rows: slice, columns: slice) -> Iterator[int]:
        """Yield the windows that may have pixels in a part of the slide, in slide pixels."""
        reach = self.reach_px + 2
        down, across = (
            (
                int((side.start / self.ratio - reach) // core),
                int((side.stop / self.ratio + reach) // core),
            )
            for side, core in zip((rows, columns), self.grid.core_shape, strict=True)
        )
        return self._in(down, across)

    def anchors_from(self, row: int) -> float:
        """Return the slide row above which no window of this row and the rows below has an
        anchor.
        """
        if row == self.grid.grid_shape[0]:
            return np.inf
        above = self.grid[(row - 1) * self.grid.grid_shape[1]]
        return float((above.core[0].stop - self.reach_px) * self.ratio - SEAM_PX)

    def _in(self, rows: tuple[int, int], columns: tuple[int, int]) -> Iterator[int]:
        """Yield the windows from a first to a last row and column, as far as there are any."""
        across = self.grid.grid_shape[1]
        y, x = (
            range(max(first, 0), min(last + 1, n))
            for (first, last), n in zip((rows, columns), self.grid.grid_shape, strict=True)
        )
        return filter(self.wanted, (row * across + column for row in y for column in x))


class SettledObjects(Protocol):
    """The objects that each window has in the end; a dict, or something that keeps them on disk."""

    def __getitem__(self, window: int) -> RunObjects:
        """Return the objects of a window."""

    def __setitem__(self, window: int, own: RunObjects) -> None:
        """Keep the objects of a window."""


class Counts(NamedTuple):
    """How many objects a slide has."""

    objects: int
    cut: int
    """Objects that go on beyond what was looked at."""


def settle_windows(
    windows: SlideWindows,
    found: Callable[[int], RunObjects],
    settled: SettledObjects,
    between: Callable[[], None] = lambda: None,
) -> Counts:
    """Decide which window has which object, given what each window found; ``between`` is called
    before each window and may raise.
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
    """``id`` and what was measured, a row for each object."""
    complete: dict[int, Ids]
    """Ids by object of the windows whose objects all have a number now."""


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
        For each row of windows, the objects that no object of later rows can precede.
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
        columns = {name: table[name] for name in table if name not in PLACES}
        yield Numbered({"id": numbers} | columns, {window: ids.pop(window) for window in done})


PLACES = ("anchor_y", "anchor_x", "window", "object")
"""Columns that say where an object without a number is."""


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
