"""Names, sizes, axes and types of the arrays of a label store."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from histocli.base.formats import FORMATS
from histocli.base.types import BoolMask

Labels: TypeAlias = npt.NDArray[np.uint32]
"""(H, W), 0 = background, k = nucleus k."""

CONTRACT = FORMATS["ome-zarr"].contract
LAYOUTS = ("slide", "patches")
LABEL_NAME = "nuclei"
LABELS = f"labels/{LABEL_NAME}"
TABLE = f"tables/{LABEL_NAME}"
OVERVIEW_MPP = 8.0  # um per pixel of the finest overview at most, where the slide is finer
OVERVIEW_PX = 1024  # pixels of its longer side at least, where the slide has as many
SHARD_PATCHES = 32  # patches in one file of instance_labels
COMPRESSOR = ZstdCodec(level=3)


def overview_factor(shape: tuple[int, int], mpp: float) -> int:
    """Return the width of a pixel of the finest overview in slide pixels, a power of two."""
    factor = 1
    while 2 * factor * mpp <= OVERVIEW_MPP and max(shape) >= 2 * factor * OVERVIEW_PX:
        factor *= 2
    return factor


def looked_at_mm2(tissue: BoolMask, shape: tuple[int, int], mpp: float) -> float:
    """Return the area of the True part of ``tissue``, which covers the slide, in mm2."""
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
    """Make one array, or return the array of that name that an earlier run made."""
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
