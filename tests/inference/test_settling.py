"""However an image is cut into windows, the objects are those of the whole; where windows disagree,
none is doubled and none is lost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocli.inference.runs import RunObjects, Runs, no_objects
from histocli.inference.settling import MOSTLY, SlideWindows, put_together
from histocli.inference.tiling import TileGrid
from histocli.inference.windows import decode_window
from histocli.instances.anchors import anchors, renumber_by_anchor
from histocli.instances.targets import maps_to_instances

LARGEST_HALO_PX = 200
MPP = 40 / LARGEST_HALO_PX


def blobs(
    shape: tuple[int, int], seed: int, radius: float = 4.0, density: float = 0.004
) -> np.ndarray:
    """Maps (H, W, 2) of round nuclei that touch here and there, drawn without a tile."""
    rng = np.random.default_rng(seed)
    n = max(1, int(shape[0] * shape[1] * density))
    y, x = np.mgrid[: shape[0], : shape[1]]
    depth = np.zeros(shape, np.float32)
    for cy, cx, size in zip(
        rng.uniform(0, shape[0], n),
        rng.uniform(0, shape[1], n),
        rng.uniform(0.6, 1.4, n),
        strict=True,
    ):
        depth = np.maximum(depth, 1 - np.hypot(y - cy, x - cx) / (radius * size))
    return np.stack([np.clip(depth * 2 + 0.4, 0, 1), np.clip(depth * 1.3, 0, 1)], axis=2).astype(
        np.float32
    )


def decode(maps: np.ndarray) -> np.ndarray:
    return maps_to_instances(maps, 0.5)


def clumps(maps: np.ndarray) -> np.ndarray:
    return ndimage.label(maps[..., 0] > 0.5)[0]


def segment(maps: np.ndarray, core_px: int, halo_px: int, decoder=decode) -> np.ndarray:
    shape = maps.shape[:2]
    grid = TileGrid(shape, core_px, halo_px)

    def found(window):
        return decode_window(
            lambda rows, columns: maps[rows, columns], shape, grid[window], decoder, LARGEST_HALO_PX
        )

    return put_together(SlideWindows(grid, MPP), found)


def objects(stretches, owned, window=0) -> RunObjects:
    """Objects of one run each, (row, columns); no two windows give an object the same anchor."""
    y = np.array([row for row, _ in stretches], np.int32)
    x = np.array([columns.start for _, columns in stretches], np.int32)
    length = np.array([len(columns) for _, columns in stretches], np.int32)
    n = len(stretches)
    runs = Runs(y, x, length, np.arange(n, dtype=np.int32))
    owned = np.broadcast_to(owned, n).copy()
    zeros = np.zeros(n, np.float32)
    return RunObjects(runs, np.stack([y, 10 * x + window], axis=1), owned, zeros, zeros, 0)


def settled_labels(views, shape) -> np.ndarray:
    """Settle windows that all see all of a small image."""
    grid = TileGrid(shape, -(-shape[1] // len(views)), 0)
    assert len(grid) == len(views)
    return put_together(SlideWindows(grid, MPP), views.__getitem__)


def on_a_canvas(views, shape) -> np.ndarray:
    """Write the objects of one window after the other, those over a seam last."""
    canvas = np.zeros(shape, int)
    places = []
    for over_the_seam in (False, True):
        for view in views:
            before = canvas.copy()
            for number in np.flatnonzero(view.owned != over_the_seam):
                y, x = view.runs.y[number], view.runs.x[number]
                columns = np.arange(x, x + view.runs.length[number])
                free = columns[before[y, columns] == 0]
                if len(free) >= MOSTLY * len(columns):
                    places.append(tuple(view.anchors[number]))
                    canvas[y, free] = len(places)
    order = sorted(range(len(places)), key=lambda number: places[number])
    numbers = np.zeros(len(places) + 1, int)
    numbers[np.array(order, int) + 1] = np.arange(1, len(places) + 1)
    return numbers[canvas]


class TestSettling:
    @given(
        st.integers(0, 100),
        st.sampled_from([(1, 1), (5, 90), (60, 80), (97, 64)]),
        st.integers(9, 60),
        st.integers(1, 24),
    )
    @settings(max_examples=60)
    def test_any_windows_give_what_one_window_gives(self, seed, shape, core_px, halo_px):
        """Whole clumps as objects, most of them larger than the halo."""
        maps = blobs(shape, seed)
        whole = renumber_by_anchor(clumps(maps))
        np.testing.assert_array_equal(segment(maps, core_px, halo_px, clumps), whole)

    @given(st.integers(0, 100), st.integers(17, 60))
    @settings(max_examples=30)
    def test_nuclei_in_clumps_hardly_depend_on_the_windows(self, seed, core_px):
        """A watershed hands ties on through a clump of any size: a pixel between two nuclei may
        change hands, a nucleus not."""
        maps = blobs((97, 80), seed)
        whole, windowed = renumber_by_anchor(decode(maps)), segment(maps, core_px, 24)
        assert windowed.max() == whole.max()
        np.testing.assert_array_equal(windowed > 0, whole > 0)
        assert (windowed != whole).mean() < 0.002

    def test_objects_are_numbered_by_their_anchors(self):
        labels = segment(blobs((120, 120), 3), 40, 16)
        found = anchors(labels)
        assert labels.max() == len(found) > 10
        assert sorted(map(tuple, found.tolist())) == list(map(tuple, found.tolist()))

    def test_an_object_larger_than_the_halo_is_seen_whole(self):
        """One long bar through six windows: a halo of 8 grows until the bar is whole, and it is
        counted once."""
        maps = np.zeros((40, 200, 2), np.float32)
        maps[15:25, 5:195] = 1
        labels = segment(maps, 32, 8)
        np.testing.assert_array_equal(labels, (maps[..., 0] > 0.5).astype(np.int32))

    def test_what_fills_the_whole_image_is_one_object_however_it_is_cut(self):
        assert (segment(np.ones((90, 90, 2), np.float32), 32, 8) == 1).all()

    def test_two_views_of_one_object_are_one_object(self):
        """Windows disagree: both own nearly the same pixels. The first wins, and what is left of
        the second is dropped."""
        first = objects([(0, range(30))], owned=True)
        second = objects([(0, range(8, 36))], owned=True)
        labels = settled_labels([first, second], (1, 40))
        np.testing.assert_array_equal(labels, [[1] * 30 + [0] * 10])

    def test_an_object_that_each_window_leaves_to_the_other_is_kept_once(self):
        views = [objects([(0, range(shift, 10 + shift))], owned=False) for shift in (0, 1)]
        np.testing.assert_array_equal(settled_labels(views, (1, 20)), [[1] * 10 + [0] * 10])

    @given(st.integers(0, 10**6))
    @settings(max_examples=100)
    def test_windows_that_disagree_are_settled_as_on_a_canvas(self, seed):
        """Stretches of random windows overlap anyhow; the oracle writes them on a canvas."""
        rng = np.random.default_rng(seed)
        shape = (3, 60)
        views = []
        for window in range(5):
            stretches = []
            for y in range(3):
                ends = np.sort(rng.choice(np.arange(61), 4, replace=False))
                stretches += [(y, range(ends[0], ends[1])), (y, range(ends[2], ends[3]))]
            views.append(objects(stretches, owned=rng.random(6) < 0.7, window=window))
        np.testing.assert_array_equal(settled_labels(views, shape), on_a_canvas(views, shape))

    def test_nothing_found(self):
        labels = settled_labels([no_objects()], (3, 4))
        assert labels.shape == (3, 4)
        assert not labels.any()
