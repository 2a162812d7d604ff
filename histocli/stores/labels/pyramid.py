"""The resolution levels of a slide's label image, their shards and their OME-Zarr metadata.

Level 0 has a pixel for each slide pixel, and a pixel of level k is 2**k slide pixels wide (the
*factor* of the level). A shard is a square of a level that is one file.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from histocli.base.pyramid import nearest_level
from histocli.base.types import Json
from histocli.stores.labels.layout import LABEL_NAME, Labels, make_array

SMALLEST_LEVEL_PX = 256  # a level whose longer side is no longer than this is the last one
CHUNK_PX = 512  # side of the squares that are compressed and read at once
SHARD_PX = 2048  # side of a shard, in pixels of its level
OME_VERSION = "0.5"

Shard = tuple[int, int]
"""Row and column of a shard of level 0."""


def level_factors(shape: tuple[int, ...]) -> list[int]:
    """Return the factor of each level of the labels of a slide of (height, width): 1, 2, 4, ...

    OME-Zarr wants as many levels of the overview, whose last levels are therefore tiny.
    """
    factors = [1]
    while -(-max(shape) // factors[-1]) > SMALLEST_LEVEL_PX:
        factors.append(2 * factors[-1])
    return factors


def write_image(group: zarr.Group, name: str, values: npt.NDArray[np.uint8], axes: str) -> None:
    """Write a uint8 array with a name for each axis, such as ``cyx``, in chunks without shards."""
    chunks = tuple(max(1, min(side, CHUNK_PX)) for side in values.shape)
    array = make_array(group, name, values.shape, str(values.dtype), axes, chunks)
    if values.size:
        array[...] = values


def create_pyramid(
    root: zarr.Group, shape: tuple[int, int], factors: list[int], mpp: float
) -> None:
    """Make the label arrays of all levels, all background, and ``tiles_done``, all 0."""
    listed = {"version": OME_VERSION, "labels": [LABEL_NAME]}
    about = {
        "version": OME_VERSION,
        "multiscales": [_multiscale(LABEL_NAME, "yx", factors, mpp)],
        "image-label": {"version": OME_VERSION, "source": {"image": "../../"}},
    }
    folder = root.create_group("labels", attributes={"ome": listed})
    nuclei = folder.create_group(LABEL_NAME, attributes={"ome": about})
    chunks = tuple(min(side, CHUNK_PX) for side in shape)
    grid = tuple(-(-side // SHARD_PX) for side in shape)
    make_array(root, "tiles_done", grid, "uint8", "yx", chunks=grid)
    for level, factor in enumerate(factors):
        size = tuple(-(-side // factor) for side in shape)
        sides = tuple(min(side, chunk) for side, chunk in zip(size, chunks, strict=True))
        shards = tuple(
            min(SHARD_PX // side, -(-length // side)) * side
            for side, length in zip(sides, size, strict=True)
        )
        make_array(nuclei, str(level), size, "uint32", "yx", sides, shards)


def image_metadata(name: str, factors: list[int], mpp: float) -> Json:
    """Return the metadata of overviews; a pixel of level k is ``factors[k]`` slide pixels wide."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {
        "version": OME_VERSION,
        "multiscales": [_multiscale(name, "cyx", factors, mpp)],
        "omero": {
            "channels": [
                {"label": label, "color": colour, "window": window, "active": True}
                for label, colour in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
            ],
            "rdefs": {"model": "color"},
        },
    }


def _multiscale(name: str, axes: str, factors: list[int], mpp: float) -> Json:
    def transform(kind: str, space: list[float], channel: float) -> Json:
        return {"type": kind, kind: [channel, *space] if axes == "cyx" else space}

    return {
        "name": name,
        "type": "nearest" if axes == "yx" else "mean",
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "micrometer"}
            for axis in axes
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    transform("scale", [factor * mpp] * 2, 1.0),
                    # from the centre of the slide's first pixel to that of the level's first
                    transform("translation", [(factor - 1) / 2 * mpp] * 2, 0.0),
                ],
            }
            for level, factor in enumerate(factors)
        ],
    }


def shards_of(shape: tuple[int, int]) -> list[Shard]:
    """Return the shards of level 0, all that belong to one shard of a level k in succession."""
    down, across = (-(-side // SHARD_PX) for side in shape)
    return sorted(((row, column) for row in range(down) for column in range(across)), key=_morton)


def region_of(shard: Shard, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the pixel rows and columns of a shard of a level with this height and width."""
    rows, columns = (
        slice(index * SHARD_PX, min((index + 1) * SHARD_PX, side))
        for index, side in zip(shard, shape, strict=True)
    )
    return rows, columns


def _morton(shard: Shard) -> int:
    """Interleave the bits of row and column, each below 2**32: the sort key of Morton order."""
    row, column = shard
    return sum((2 * (row >> bit & 1) | column >> bit & 1) << 2 * bit for bit in range(32))


class CoarseLevels:
    """Fills the coarser levels from the shards of level 0, given in the order of ``shards_of``.

    It holds one shard of each coarser level in memory and writes a shard when the next one begins.
    """

    def __init__(self, levels: list[zarr.Array[Any]]) -> None:
        self._levels = levels
        self._canvases: dict[int, tuple[Shard, Labels]] = {}

    def add(self, shard: Shard, labels: Labels) -> None:
        """Copy the labels of a shard of level 0 into the current shard of every coarser level."""
        for level in range(1, len(self._levels)):
            factor = 2**level
            is_small = factor <= SHARD_PX
            coarse = nearest_level(labels, factor) if is_small else labels[:1, :1]
            step = SHARD_PX // factor if is_small else 0
            canvas = self._canvas(level, (shard[0] // factor, shard[1] // factor))
            y, x = (index % factor * step for index in shard)
            canvas[y : y + coarse.shape[0], x : x + coarse.shape[1]] = coarse

    def flush(self) -> None:
        """Write the shards that are still in memory."""
        for level in list(self._canvases):
            self._write(level)

    def _canvas(self, level: int, owner: Shard) -> Labels:
        """Return the pixels of shard ``owner`` of a level, after writing the shard before."""
        if level not in self._canvases or self._canvases[level][0] != owner:
            self._write(level)
            rows, columns = region_of(owner, self._levels[level].shape)
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            self._canvases[level] = (owner, np.zeros(shape, np.uint32))
        return self._canvases[level][1]

    def _write(self, level: int) -> None:
        if level in self._canvases:
            owner, canvas = self._canvases.pop(level)
            array = self._levels[level]
            array[region_of(owner, array.shape)] = canvas
