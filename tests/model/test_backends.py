"""The choice of a backend by time."""

import pytest
import torch

from histocli.model import backends


class Slow:
    """A network that takes some seconds of a clock that only it moves."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, iter(seconds)

    def maps(self, tiles, out):
        assert out.shape == (1, 2, *tiles.shape[1:3])
        self.clock[0] += next(self.seconds)


@pytest.mark.parametrize(
    ("torch_s", "other_s", "chosen"),
    [
        ([1, 1, 1], [1, 0.5, 0.5], "other"),
        ([1, 1, 1], [9, 0.9, 0.9], "torch"),  # not clearly faster
        ([1, 1, 1], [1, 2, 2], "torch"),
        ([1, 1, 1], [60, 0.5, 0.5], "other"),  # its first run prepares
        ([0.1, 1, 1], [1, 0.5, 0.5], "other"),
        ([1, 1, 1], [1, 7, 0.5], "other"),  # another program was busy for a moment
    ],
)
def test_another_backend_is_taken_where_it_is_clearly_faster(monkeypatch, torch_s, other_s, chosen):
    clock = [0.0]
    monkeypatch.setattr(backends.time, "perf_counter", lambda: clock[0])
    networks = {"torch": Slow(clock, torch_s), "other": Slow(clock, other_s)}
    assert backends.fastest(networks, torch.zeros((1, 32, 32, 3), dtype=torch.uint8)) == chosen
