"""Tiles cover an image exactly once, and what is found on them does not depend on how it was
cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocli.inference.tiling import TileGrid, read_window

shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
grids = st.builds(
    TileGrid,
    shapes,
    st.integers(1, 40),
    st.integers(0, 20),
    st.sampled_from([1, 2, 8, 16]),
    st.none() | st.integers(0, 20),
)


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
