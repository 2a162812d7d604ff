"""Random generators: every random item, such as a patch, has a generator of its own."""

import zlib

import numpy as np


def rng_for(seed: int, stage: str, index: int = 0) -> np.random.Generator:
    """Return the generator of one item.

    Item 7 draws the same numbers whether it is made alone, last, or by worker 3.

    Parameters
    ----------
    seed : int
        The user's seed, >= 0.
    stage : str
        Use of the numbers, so that two uses of one seed do not share any.
    index : int
        Number of the item, >= 0.
    """
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), index])
