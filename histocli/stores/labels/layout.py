"""Names, sizes, axes and types of the arrays of a label store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.formats import FORMATS
from histocli.base.types import BoolMask

CONTRACT = FORMATS["ome-zarr"].contract
LAYOUTS = ("slide", "patches")
LABEL_NAME = "nuclei"
LABELS = f"labels/{LABEL_NAME}"
TABLE = f"tables/{LABEL_NAME}"
OVERVIEW_MPP = 8.0  # micrometres per pixel; the finest overview is not coarser
OVERVIEW_PX = 1024  # the longer side of the finest overview is not made smaller than this
SMALLEST_LEVEL_PX = 256  # a level whose longer side is no longer than this is the last one
CHUNK_PX = 512
SHARD_PX = 2048
SHARD_PATCHES = 32
CHUNK_ROWS = 1 << 16  # of the table
COMPRESSOR = ZstdCodec(level=3)


def overview_factor(shape: tuple[int, int], mpp: float) -> int:
    """Return how many slide pixels go along one side of an overview pixel.

    The largest power of two that keeps the overview at ``OVERVIEW_MPP`` or finer and its longer
    side at ``OVERVIEW_PX`` or more.
    """
    factor = 1
    while 2 * factor * mpp <= OVERVIEW_MPP and max(shape) >= 2 * factor * OVERVIEW_PX:
        factor *= 2
    return factor


def level_factors(shape: tuple[int, ...]) -> list[int]:
    """Return how many slide pixels go along one side of a pixel of each level of the labels.

    The overview has as many levels, because OME-Zarr asks for that, though its last ones are tiny.
    """
    factors = [1]
    while -(-max(shape) // factors[-1]) > SMALLEST_LEVEL_PX:
        factors.append(2 * factors[-1])
    return factors


def looked_at_mm2(tissue: BoolMask, shape: tuple[int, int], mpp: float) -> float:
    """Return the area of a slide that is tissue, in square millimetres."""
    return float(tissue.mean()) * shape[0] * shape[1] * mpp * mpp / 1e6


def make_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    axes: Sequence[str],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """Make one array, or return the array that an earlier start has made."""
    if name in group:
        found = group[name]
        assert isinstance(found, zarr.Array), name
        assert found.shape == shape, (name, found.shape, shape)
        return found
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=None if shards == chunks else shards,
        compressors=COMPRESSOR,
        fill_value=0,
        dimension_names=list(axes),
    )


def write_image(group: zarr.Group, name: str, values: npt.NDArray[np.uint8], axes: str) -> None:
    """Make and fill an array of pixels."""
    chunks = tuple(max(1, min(side, CHUNK_PX)) for side in values.shape)
    array = make_array(group, name, values.shape, str(values.dtype), axes, chunks)
    if values.size:
        array[...] = values
