"""An overview is fine enough and no smaller than useful."""

from hypothesis import given
from hypothesis import strategies as st

from histocli.stores.labels import layout, overview_factor


class TestOverview:
    @given(st.integers(1, 200_000), st.floats(0.05, 5))
    def test_fine_enough_and_no_smaller_than_useful(self, side, mpp):
        factor = overview_factor((side, side // 2 + 1), mpp)
        assert factor * mpp <= layout.OVERVIEW_MPP
        assert factor == 1 or side / factor >= layout.OVERVIEW_PX
        larger = 2 * factor
        assert larger * mpp > layout.OVERVIEW_MPP or side / larger < layout.OVERVIEW_PX
