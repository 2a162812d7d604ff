"""Tiles cover an image exactly once, and what is found on them does not depend on how it was
cut."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocli.inference.tiling import (
    SEAM_PX,
    TileGrid,
    WindowObjects,
    anchors,
    decode_window,
    read_window,
    renumber_by_anchor,
    stitch,
    window_objects,
)
from histocli.instances.targets import maps_to_instances

shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
grids = st.builds(
    TileGrid,
    shapes,
    st.integers(1, 40),
    st.integers(0, 20),
    st.sampled_from([1, 2, 8, 16]),
    st.none() | st.integers(0, 20),
)


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
    return stitch((decode_window(maps, tile, decoder, 200) for tile in grid), shape).labels


class TestGrid:
    @given(grids)
    def test_cores_cover_the_image_exactly_once(self, grid):
        visits = np.zeros(grid.image_shape, int)
        for tile in grid:
            visits[tile.core] += 1
        assert (visits == 1).all()

    @given(grids)
    def test_windows_are_aligned_and_hold_core_and_halo_as_far_as_the_world_goes(self, grid):
        border = grid.halo_px if grid.border_px is None else grid.border_px
        for number, tile in enumerate(grid):
            assert tile.index == number
            for core, window, keep, side, size in zip(
                tile.core, tile.window, tile.keep, tile.window_shape, grid.image_shape, strict=True
            ):
                assert window.stop - window.start == side
                assert side % grid.multiple_px == 0
                assert window.start % grid.multiple_px == 0
                assert window.start <= max(core.start - grid.halo_px, -border)
                assert window.stop >= min(core.stop + grid.halo_px, size + border)
                assert -border - grid.multiple_px < window.start
                assert window.stop < size + border + 2 * grid.multiple_px
                assert (keep.start + window.start, keep.stop + window.start) == (
                    core.start,
                    core.stop,
                )

    @given(grids)
    def test_cores_are_no_larger_than_asked_for(self, grid):
        for tile in grid:
            for core in tile.core:
                assert 0 < core.stop - core.start <= grid.core_px + grid.multiple_px - 1

    def test_a_small_image_is_not_blown_up_to_a_full_tile(self):
        assert TileGrid((100, 260), 512, 32, 16)[0].window_shape == (112 + 64, 272 + 64)
        assert TileGrid((100, 260), 512, 32, 16, border_px=0)[0].window_shape == (112, 272)

    def test_excess_is_spread_evenly(self):
        grid = TileGrid((1040, 1024), 1024, 0, 16)
        assert grid.grid_shape == (2, 1)
        assert grid.core_shape == (528, 1024)

    @pytest.mark.parametrize(
        "arguments", [((0, 5), 4, 0, 1), ((5, 5), 0, 0, 1), ((5, 5), 4, -1, 1), ((5, 5), 4, 0, 0)]
    )
    def test_nonsense_is_refused(self, arguments):
        with pytest.raises(ValueError, match="no grid"):
            TileGrid(*arguments)

    def test_past_the_end(self):
        with pytest.raises(IndexError):
            TileGrid((5, 5), 8, 0)[1]


class TestReadWindow:
    @given(
        shapes, st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 60), st.integers(1, 60)
    )
    def test_a_window_is_a_window_of_the_reflected_image(self, shape, top, left, height, width):
        image = np.arange(shape[0] * shape[1] * 3, dtype=np.int64).reshape(*shape, 3)
        pad = 200
        reflected = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        seen = read_window(image, (slice(top, top + height), slice(left, left + width)))
        np.testing.assert_array_equal(
            seen, reflected[pad + top : pad + top + height, pad + left : pad + left + width]
        )

    @given(grids, st.integers(0, 3))
    @settings(max_examples=60)
    def test_a_map_with_a_bounded_receptive_field_does_not_depend_on_the_tiles(self, grid, reach):
        """A box filter with zero padding that reaches no further than the halo: any grid gives what
        one tile gives."""
        reach = min(reach, grid.halo_px)
        image = np.random.default_rng(0).integers(0, 255, (*grid.image_shape, 3)).astype(np.int64)

        def maps_through(tiles):
            maps = np.full(image.shape, np.nan)
            for tile in tiles:
                seen = read_window(image, tile.window).astype(float)
                maps[tile.core] = ndimage.uniform_filter(
                    seen, (2 * reach + 1, 2 * reach + 1, 1), mode="constant"
                )[tile.keep]
            return maps

        border_px = grid.halo if grid.border_px is None else grid.border_px
        whole = TileGrid(grid.image_shape, 1000, 1000, grid.multiple_px, border_px)
        assert len(whole) == 1
        np.testing.assert_allclose(maps_through(grid), maps_through(whole), atol=1e-9)


class TestAnchors:
    def test_the_middle_of_a_square_and_the_first_of_equals(self):
        labels = np.zeros((6, 8), np.int32)
        labels[1:4, 1:4] = 1
        labels[1:3, 5:7] = 2
        np.testing.assert_array_equal(anchors(labels), [[2, 2], [1, 5]])

    def test_an_anchor_is_a_pixel_of_its_object(self):
        ring = np.zeros((9, 9), np.int32)
        cv2.circle(ring, (4, 4), 3, 1)
        ((y, x),) = anchors(ring)
        assert ring[y, x] == 1

    @given(st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50))
    @settings(max_examples=50)
    def test_anchors_move_with_their_objects(self, seed, down, right):
        labels = ndimage.label(np.random.default_rng(seed).random((20, 20)) > 0.6)[0]
        moved = np.zeros((80, 90), labels.dtype)
        moved[down : down + 20, right : right + 20] = labels
        np.testing.assert_array_equal(anchors(moved), anchors(labels) + np.array([down, right]))

    @given(st.integers(0, 1000))
    @settings(max_examples=30)
    def test_nearest_to_the_centroid(self, seed):
        labels = ndimage.label(np.random.default_rng(seed).random((12, 12)) > 0.5)[0]
        for number, (y, x) in enumerate(anchors(labels), start=1):
            pixels = np.argwhere(labels == number)
            distance = np.hypot(*(pixels - pixels.mean(axis=0)).T)
            assert np.hypot(*((y, x) - pixels.mean(axis=0))) <= distance.min() + 1 / 128

    def test_nothing_and_gaps(self):
        assert anchors(np.zeros((3, 3), np.int32)).shape == (0, 2)
        labels = np.array([[3, 0, 1]], np.int32)
        np.testing.assert_array_equal(anchors(labels), [[0, 2], [-1, -1], [0, 0]])
        numbered, ids = renumber_by_anchor(labels)
        np.testing.assert_array_equal(numbered, [[1, 0, 2]])
        np.testing.assert_array_equal(ids, [3, 1])

    def test_ignored_pixels_are_no_object(self):
        np.testing.assert_array_equal(
            renumber_by_anchor(np.array([[-1, 5]], np.int32))[0], [[0, 1]]
        )


class TestStitch:
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
        whole, _ = renumber_by_anchor(clumps(maps))
        np.testing.assert_array_equal(segment(maps, core_px, halo_px, clumps), whole)

    @given(st.integers(0, 100), st.integers(17, 60))
    @settings(max_examples=30)
    def test_nuclei_in_clumps_hardly_depend_on_the_windows(self, seed, core_px):
        """A watershed hands ties on through a clump of any size: a pixel between two nuclei may
        change hands, a nucleus not."""
        maps = blobs((97, 80), seed)
        whole, windowed = renumber_by_anchor(decode(maps))[0], segment(maps, core_px, 24)
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

    def test_growth_ends_at_the_largest_halo(self):
        sizes = []

        def watch(maps):
            sizes.append(maps.shape[:2])
            return decode(maps)

        maps = np.ones((400, 400, 2), np.float32)
        tile = TileGrid((400, 400), 100, 10)[5]
        found = decode_window(maps, tile, watch, 35)
        assert sizes == [(120, 120), (140, 140), (170, 170)]
        assert found.cut

    def test_two_views_of_one_object_are_one_object(self):
        """Windows disagree: both own nearly the same pixels. The first wins, and what is left of
        the second is dropped."""
        pixels = np.arange(40)
        first = WindowObjects(
            pixels[:30],
            np.zeros(30, np.int64),
            np.array([[0, 10]]),
            np.ones(1),
            np.array([True]),
            False,
        )
        second = WindowObjects(
            pixels[8:36],
            np.zeros(28, np.int64),
            np.array([[0, 20]]),
            np.zeros(1),
            np.array([True]),
            False,
        )
        stitched = stitch([first, second], (2, 20))
        labels, found = stitched.labels, stitched.anchors
        np.testing.assert_array_equal(stitched.scores, [1])
        assert labels.max() == 1
        assert (labels.ravel()[:30] == 1).all()
        assert (labels.ravel()[30:] == 0).all()
        np.testing.assert_array_equal(found, [[0, 10]])

    def test_an_object_that_each_window_leaves_to_the_other_is_kept_once(self):
        views = [
            WindowObjects(
                np.arange(10),
                np.zeros(10, np.int64),
                np.array([[0, 4 + shift]]),
                np.ones(1),
                np.array([False]),
                False,
            )
            for shift in (0, 1)
        ]
        stitched = stitch(views, (2, 20))
        assert stitched.labels.max() == 1
        np.testing.assert_array_equal(stitched.anchors, [[0, 4]])

    def test_near_objects_are_those_at_the_seam(self):
        labels = np.zeros((40, 40), np.int32)
        # its anchor is SEAM_PX - 1 columns past the core
        labels[5:8, 19 + SEAM_PX - 1 : 22 + SEAM_PX - 1] = 1
        labels[20:23, 30:33] = 2
        labels[30:33, 5:8] = 3
        found = window_objects(labels, labels * 0.5, TileGrid((40, 40), 20, 20)[0], (40, 40))
        np.testing.assert_array_equal(found.scores, [0.5])
        np.testing.assert_array_equal(found.anchors, [[6, 20 + SEAM_PX - 1]])
        np.testing.assert_array_equal(found.owned, [False])

    def test_nothing_found(self):
        stitched = stitch([], (3, 4))
        assert stitched.labels.shape == (3, 4)
        assert not stitched.labels.any()
        assert stitched.anchors.shape == (0, 2)
