"""In bands, a segmenter gives the maps that it gives on the whole, and the same for bands of any
height."""

import numpy as np
import pytest
import torch

from histocli.base.errors import Stopped
from histocli.model.bands import BandedNetwork
from histocli.model.segmenter import TARGETS, Architecture, Segmenter, combine_maps


def segmenter(**design):
    """Return one whose normalisations have statistics and weights that matter."""
    torch.manual_seed(0)
    made = Segmenter(Architecture(**{"channels": (4, 6, 8), **design})).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return made


def tiles(n, height, width, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    )


def in_bands(network, pixels, dtype=torch.float32, **options):
    out = torch.full((pixels.shape[0], 2, *pixels.shape[1:3]), torch.nan)
    BandedNetwork(network, dtype, **options).maps(pixels, out)
    return out


@pytest.mark.parametrize("channels", [(4, 6), (4, 6, 8), (3, 5, 7, 9)])
@pytest.mark.parametrize("resolution", ["half", "full"])
@pytest.mark.parametrize("targets", sorted(TARGETS))
def test_the_maps_are_those_of_the_segmenter(channels, resolution, targets):
    network = segmenter(channels=channels, resolution=resolution, targets=targets)
    pixels = tiles(2, 48, 80)
    with torch.inference_mode():
        expected = combine_maps(torch.sigmoid(network(pixels.permute(0, 3, 1, 2).float() / 255)))
    torch.testing.assert_close(in_bands(network, pixels), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(in_bands(network, pixels, band_bytes=1), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("band_bytes", [1, 3e3, 10e3, 100e3])
def test_bands_of_any_height_give_the_same_bits(dtype, band_bytes):
    network = segmenter()
    pixels = tiles(1, 88, 40)
    assert torch.equal(
        in_bands(network, pixels, dtype, band_bytes=band_bytes), in_bands(network, pixels, dtype)
    )


def test_bfloat16_is_float32_up_to_rounding():
    network = segmenter()
    pixels = tiles(1, 64, 64)
    torch.testing.assert_close(
        in_bands(network, pixels, torch.bfloat16), in_bands(network, pixels), atol=0.05, rtol=0
    )


def test_what_comes_between_bands_may_stop_it():
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 3:
            raise Stopped("enough")

    with pytest.raises(Stopped, match="enough"):
        in_bands(segmenter(), tiles(1, 64, 64), band_bytes=1, between=stop)
    assert len(calls) == 3


def test_what_is_kept_is_counted():
    """Of a tile of 64 px at half resolution: 4 numbers in 32**2, 6 in 16**2, 8 in 8**2 and, on the
    way, 4 in 16**2."""
    expected = (4 * 32**2 + 6 * 16**2 + 8 * 8**2 + 4 * 16**2) / 64**2
    assert segmenter().kept_per_px == pytest.approx(expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same_maps_up_to_rounding(dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    network, pixels = segmenter(), tiles(2, 64, 80)
    expected = in_bands(network, pixels)
    out = torch.full((2, 2, 64, 80), torch.nan, device="cuda")
    BandedNetwork(network.to("cuda"), dtype, band_bytes=10e3).maps(pixels.to("cuda"), out)
    torch.testing.assert_close(
        out.cpu(), expected, atol=0.05 if dtype == torch.bfloat16 else 5e-3, rtol=0
    )
