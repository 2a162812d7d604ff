"""Devices and number formats are resolved once, and what cannot be met is said."""

import pytest
import torch

from histocli.base import device as module
from histocli.base.device import cpu_flags, resolve_device, resolve_precision
from histocli.base.errors import DeviceUnavailable, InvalidOption

CPU = torch.device("cpu")


def offer(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_takes_what_is_there(monkeypatch):
    offer(monkeypatch)
    assert resolve_device("auto") == CPU
    offer(monkeypatch, cuda=1)
    assert resolve_device("auto").type == "cuda"


def test_what_is_there_can_be_named(monkeypatch):
    offer(monkeypatch, cuda=2, mps=True)
    for name in ("cpu", "cuda", "cuda:1", "mps"):
        assert str(resolve_device(name)) == name


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_what_is_not_there_is_said(monkeypatch, name):
    offer(monkeypatch)
    with pytest.raises(DeviceUnavailable, match=f"--device {name}") as refused:
        resolve_device(name)
    assert refused.value.exit_code == 6


def test_a_number_too_high_is_said(monkeypatch):
    offer(monkeypatch, cuda=2)
    with pytest.raises(DeviceUnavailable, match="2 CUDA devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "cpu:0", "mps:1", "", "CUDA"])
def test_names_that_are_no_device(monkeypatch, name):
    offer(monkeypatch, cuda=1)
    with pytest.raises(InvalidOption, match="--device"):
        resolve_device(name)


def test_precision_follows_the_processor(monkeypatch):
    for flags, expected in (
        (frozenset(), torch.float32),
        (frozenset({"amx_bf16"}), torch.bfloat16),
    ):
        monkeypatch.setattr(module, "cpu_flags", lambda flags=flags: flags)
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", torch.device("mps")) == torch.float32
    with pytest.raises(InvalidOption, match="--precision"):
        resolve_precision("fp16", CPU)


def test_flags_are_read_where_the_system_lists_them(monkeypatch, tmp_path):
    listing = tmp_path / "cpuinfo"
    listing.write_text(
        "processor : 0\nflags\t\t: fpu amx_bf16 avx2\n\nprocessor : 1\nflags : other\n"
    )
    monkeypatch.setattr(module, "CPU_INFO", listing)
    assert cpu_flags() == {"fpu", "amx_bf16", "avx2"}
    monkeypatch.setattr(module, "CPU_INFO", tmp_path / "none")
    assert cpu_flags() == frozenset()
