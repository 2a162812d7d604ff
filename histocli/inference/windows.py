"""Windows on the maps of an image, and the objects that are found in each window.

A network turns pixels into maps (nucleus probability and border distance) on tiles of any size.
Objects are found on windows of the finished maps; the grid of windows is fixed and independent of
the tiles. A window is a core and a halo of context around it; the cores partition the image.

An object that lies in several windows is found several times. The window whose core holds the
anchor of the object owns it; the anchor is the pixel that stands for the object's place
(:mod:`histocli.instances.anchors`). Where two windows find different outlines or anchors,
:mod:`histocli.inference.settling` decides.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from histocli.base.types import FloatArray, InstanceLabels
from histocli.inference.runs import RunObjects, Runs
from histocli.inference.tiling import Tile, TileGrid, clipped
from histocli.instances.anchors import anchors_of_pixels

WINDOW_PX = 1536
"""Largest side of a window's core, in pixels: small enough to keep workers busy, large enough that
halos cost little."""
WINDOW_HALO_UM = 20.0
"""Halo of a window, in micrometres: more than the radius of a nucleus, and enough for the
neighbours that change its outline."""
LARGEST_HALO_UM = 40.0
"""Largest halo, in micrometres, of a window that is enlarged because an object leaves it. A nucleus
is not larger."""
SEAM_PX = 4
"""A window also keeps objects with anchors up to so many pixels outside its core, because the next
window may place the anchor on this side of the seam, the line between two cores."""


def window_grid(image_shape: tuple[int, int], mpp: float) -> TileGrid:
    """Return the windows of an image of this height and width, at a pixel size."""
    return TileGrid(image_shape, WINDOW_PX, round(WINDOW_HALO_UM / mpp))


def largest_halo_px(mpp: float) -> int:
    """Return the largest halo of a window, in pixels, at a pixel size."""
    return round(LARGEST_HALO_UM / mpp)


def window_objects(
    labels: InstanceLabels, scores: FloatArray, tile: Tile, image_shape: tuple[int, int]
) -> RunObjects:
    """Return the objects of a label image with anchors in a window's core or up to ``SEAM_PX``
    outside it; of those outside, only objects that no border of the window cuts.

    Parameters
    ----------
    labels : ndarray of int32, shape of the part of ``tile.window`` that lies inside the image
        0 = background, 1..n.
    scores : ndarray of float, of the same shape
        Nucleus probability; averaged over each object.
    tile : Tile
    image_shape : (int, int)
        Height and width of the image.
    """
    height, width = labels.shape
    top, left = max(tile.window[0].start, 0), max(tile.window[1].start, 0)
    flat = labels.ravel()
    inside = np.flatnonzero(flat > 0)
    index = flat[inside].astype(np.int64) - 1
    found = anchors_of_pixels(inside, index, width) + np.array([top, left])
    n = len(found)
    cut = np.zeros(n + 1, bool)
    for line, image_goes_on in (
        (labels[0], top > 0),
        (labels[-1], top + height < image_shape[0]),
        (labels[:, 0], left > 0),
        (labels[:, -1], left + width < image_shape[1]),
    ):
        if image_goes_on:
            cut[np.maximum(line, 0)] = True
    cut = cut[1:]
    owned = tile.owns(found[:, 0], found[:, 1])
    taken = np.flatnonzero(owned | (tile.owns(found[:, 0], found[:, 1], SEAM_PX) & ~cut))
    number = np.zeros(n + 1, np.int32)
    number[taken + 1] = np.arange(1, len(taken) + 1)
    size = np.maximum(np.bincount(index, minlength=n), 1)
    mean = np.bincount(index, scores[np.divmod(inside, width)], n) / size
    return RunObjects(
        Runs.of_labels(number[np.maximum(labels, 0)], (top, left)),
        anchors=found[taken].astype(np.int32),
        owned=owned[taken],
        probability=mean[taken].astype(np.float32),
        hematoxylin=np.zeros(len(taken), np.float32),
        n_cut=int((cut & owned).sum()),
    )


def decode_window(
    maps_of: Callable[[slice, slice], FloatArray],
    image_shape: tuple[int, int],
    tile: Tile,
    decode: Callable[[FloatArray], InstanceLabels],
    largest_halo_px: int,
) -> RunObjects:
    """Find the objects of one window of an image's maps; enlarge the window if it cuts an object
    that it owns.

    Parameters
    ----------
    maps_of : callable
        Returns the maps, shape (rows, columns, 2), of any part of the image; the first map is the
        nucleus probability.
    image_shape : (int, int)
        Height and width of the image.
    tile : Tile
        Core and first size of the window.
    decode : callable
        Turns maps into labels 1..n.
    largest_halo_px : int
        The halo is doubled until no owned object is cut, or until it has reached this.
    """
    while True:
        seen = maps_of(*clipped(tile.window, image_shape))
        found = window_objects(decode(seen), seen[..., 0], tile, image_shape)
        halo_px = tile.core[0].start - tile.window[0].start
        if not found.n_cut or halo_px >= largest_halo_px:
            return found
        halo_px = min(max(2 * halo_px, 1), largest_halo_px)
        rows, columns = (slice(side.start - halo_px, side.stop + halo_px) for side in tile.core)
        tile = replace(tile, window=(rows, columns))
