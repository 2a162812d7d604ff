"""Networks that OpenVINO runs give the maps of PyTorch: up to rounding, or nearly in 8 bits."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from histocli.inference.predict import Predictor
from histocli.model.backends import in_bands
from histocli.model.calibration import drawn_tissue
from histocli.model.compiled import CompiledNetwork
from histocli.model.segmenter import build_segmenter
from histocli.stores.box import read_trunk_weights

# found, but not imported here, which would send a message
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra 'fast' is not installed"
)
UNET = {"family": "unet", "channels": [8, 12, 16]}
ARCHITECTURES = {
    "U-Net": UNET,
    "contacts": UNET | {"targets": "contact"},
    "full resolution": UNET | {"resolution": "full"},
    "trunk": {"family": "trunk", "channels": [16, 24, 32], "targets": "contact"},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request):
    """A network whose statistics are those of drawn tissue, as after training."""
    torch.manual_seed(0)
    made = build_segmenter(ARCHITECTURES[request.param])
    if request.param == "trunk":
        made.trunk.load_state_dict(read_trunk_weights())
    norms = [each for each in made.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
    pixels = torch.from_numpy(drawn_tissue(None)[:, :128, :128]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        made.train()(pixels)
        made.head.weight.mul_(3)  # probabilities that differ from one half
    return made.eval()


def tiles(n=1, height=96, width=128):
    return torch.from_numpy(drawn_tissue(None)[:n, :height, :width].copy())


def maps_of(network, pixels):
    out = torch.full((len(pixels), 2, *pixels.shape[1:3]), torch.nan)
    network.maps(pixels, out)
    return out.numpy()


def compiled(network, precision, threads=1, **more):
    return CompiledNetwork(network, precision, adaptation=None, threads=threads, **more)


def test_maps_are_those_of_pytorch(network):
    expected = maps_of(in_bands(network, torch.float32), tiles(2))
    assert expected.std() > 0.05
    found = maps_of(compiled(network, "fp32"), tiles(2))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_maps_in_8_bits_are_nearly_those_of_pytorch(network):
    expected = maps_of(in_bands(network, torch.float32), tiles(2))
    found = maps_of(compiled(network, "int8"), tiles(2))
    difference = np.abs(found - expected)
    assert 1e-5 < difference.mean() < 0.02
    assert np.quantile(difference, 0.99) < 0.1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_maps_depend_neither_on_threads_nor_on_the_batch_nor_on_earlier_tiles(network, precision):
    together = maps_of(compiled(network, precision), tiles(2))
    other = compiled(network, precision, threads=2)
    maps_of(other, tiles(1, 64, 32))
    assert np.array_equal(maps_of(other, tiles(2)[1:]), together[1:])


def test_the_predictor_turns_tiles_for_every_backend(network):
    settings = {"mpp": 0.5, "device": torch.device("cpu"), "dtype": torch.float32, "views": 8}
    expected = Predictor(network, **settings).maps(tiles().numpy())
    found = Predictor(network, **settings, compiled=compiled(network, "fp32"))
    np.testing.assert_allclose(found.maps(tiles().numpy()), expected, atol=1e-4)


def test_it_may_be_stopped_between_tiles(network):
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        maps_of(compiled(network, "fp32", between=stop), tiles())


def test_importing_it_tells_nobody(tmp_path):
    code = (
        "import sys; from histocli.model.graph import without_telemetry;"
        "without_telemetry().Core();"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    )
    away = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    left = {name: value for name, value in os.environ.items() if name != "CI"}
    subprocess.run([sys.executable, "-c", code], env=left | away, check=True)
    assert not list(tmp_path.iterdir())


FREED_ELSEWHERE = """
import signal, threading
import torch
from histocli.model.compiled import CompiledNetwork
from histocli.model.segmenter import build_segmenter

network = build_segmenter({"family": "unet", "channels": [4, 4, 6, 6]}).eval()
compiled = [CompiledNetwork(network, "int8", adaptation=None, threads=1)]
compiled[0].maps(torch.zeros((1, 64, 64, 3), dtype=torch.uint8), torch.empty(1, 2, 64, 64))
thread = threading.Thread(target=compiled.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_after_a_network_was_freed_in_another_thread():
    """OpenVINO lends the thread that made it a stack for signals."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FREED_ELSEWHERE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
