"""A window takes what it owns and nearly owns, and looks further where that is cut."""

import numpy as np

from histocli.inference.tiling import TileGrid
from histocli.inference.windows import SEAM_PX, decode_window, window_objects
from histocli.instances.targets import maps_to_instances


def test_growth_ends_at_the_largest_halo():
    sizes = []

    def watch(maps):
        sizes.append(maps.shape[:2])
        return maps_to_instances(maps, 0.5)

    maps = np.ones((400, 400, 2), np.float32)
    tile = TileGrid((400, 400), 100, 10)[5]
    found = decode_window(lambda y, x: maps[y, x], (400, 400), tile, watch, 35)
    assert sizes == [(120, 120), (140, 140), (170, 170)]
    assert found.n_cut


def test_near_objects_are_those_at_the_seam():
    labels = np.zeros((40, 40), np.int32)
    # its anchor is SEAM_PX - 1 columns past the core
    labels[5:8, 19 + SEAM_PX - 1 : 22 + SEAM_PX - 1] = 1
    labels[20:23, 30:33] = 2
    labels[30:33, 5:8] = 3
    found = window_objects(labels, labels * 0.5, TileGrid((40, 40), 20, 20)[0], (40, 40))
    np.testing.assert_array_equal(found.probability, [0.5])
    np.testing.assert_array_equal(found.anchors, [[6, 20 + SEAM_PX - 1]])
    np.testing.assert_array_equal(found.owned, [False])
