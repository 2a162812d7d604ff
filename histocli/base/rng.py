"""Random generators: every random item, such as a patch, has a generator of its own."""

import zlib

import numpy as np


def rng_for(seed: int, stage: str, index: int = 0) -> np.random.Generator:
    """Return the generator of one item.

    Item 7 draws the same numbers whether it is made alone, last, or by worker 3. ``stage`` names
    the use of the numbers, so that two uses of one seed do not share any.
    """
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), index])
