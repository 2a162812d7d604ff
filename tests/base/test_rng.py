"""Item 7 draws the same numbers whether it is made alone, last, or by worker 3."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.rng import rng_for


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 2**20))
def test_the_same_item_draws_the_same_numbers(seed, stage, index):
    first = rng_for(seed, stage, index)
    np.random.default_rng(0).random(5)  # what others draw has no say
    np.testing.assert_array_equal(first.random(4), rng_for(seed, stage, index).random(4))


def test_seed_stage_and_index_each_part_the_numbers():
    draws = {
        rng_for(seed, stage, index).random()
        for seed in (0, 1, 2**32, 2**33) for stage in ("a", "b", "") for index in range(20)
    }  # fmt: skip
    assert len(draws) == 4 * 3 * 20


def test_another_process_draws_the_same_numbers():
    """Python salts the hashes of strings, so they must have no part in it."""
    program = "from histocli.base.rng import rng_for; print(rng_for(3, 'patch', 7).random())"
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert float(said) == rng_for(3, "patch", 7).random()
