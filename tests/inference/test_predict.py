"""A predictor's halo is no smaller than the network's reach, so that tiles of any size give the same maps."""

import numpy as np
import pytest
import torch

from histocli.inference.predict import Predictor
from histocli.inference.tiling import TileGrid, read_window
from histocli.model.segmenter import build_segmenter


@pytest.fixture(params=[2, 3])
def segmenter(request):
    """A network of two or three levels with large random weights, so that far pixels matter."""
    torch.manual_seed(0)
    segmenter = build_segmenter({"family": "unet", "channels": [4] * request.param}).eval()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter, mode="fan_in", nonlinearity="relu")
    return segmenter


def maps_through(predictor: Predictor, image: np.ndarray, core_px: int, halo_px: int) -> np.ndarray:
    maps = np.empty((*image.shape[:2], 2), np.float32)
    for tile in TileGrid(image.shape[:2], core_px, halo_px, predictor.multiple_px, 16):
        maps[tile.core] = predictor.maps(read_window(image, tile.window)[None].copy())[0][tile.keep]
    return maps


def test_maps_do_not_depend_on_the_tiles(segmenter):
    predictor = Predictor(segmenter, mpp=0.5, device=torch.device("cpu"), dtype=torch.float32)
    image = np.random.default_rng(0).integers(0, 255, (150, 230, 3), np.uint8)
    whole = maps_through(predictor, image, 1024, predictor.halo_px)
    for core_px in (32, 48, 64):
        np.testing.assert_allclose(maps_through(predictor, image, core_px, predictor.halo_px), whole, atol=1e-5)
    cut = maps_through(predictor, image, 32, predictor.multiple_px)
    assert np.abs(cut - whole).max() > 1e-3  # with too small a halo there is a difference to see


def test_reach(segmenter):
    """One changed pixel changes the output up to five pixels short of the halo, and no further."""
    halo_px = Predictor(segmenter, mpp=0.5, device=torch.device("cpu"), dtype=torch.float32).halo_px
    segmenter = segmenter.double()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            if parameter.ndim == 4:
                parameter.uniform_(0.1, 1)  # all positive: nothing cancels
        size = 4 * halo_px
        pixels = torch.rand(1, 3, size, 64, dtype=torch.float64)
        before = segmenter(pixels)
        reach = 0
        for offset in range(segmenter.multiple_px):
            changed = pixels.clone()
            changed[..., size // 2 + offset, 32] += 10
            rows = torch.nonzero((segmenter(changed) != before).any(dim=3).any(dim=1).any(dim=0)).flatten().numpy()
            reach = max(reach, size // 2 + offset - rows.min(), rows.max() - size // 2 - offset)
    assert reach == halo_px - 5
