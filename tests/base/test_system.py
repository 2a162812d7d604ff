"""The smallest of what affinity, quota and scheduler grant."""

import os

import pytest

from histocli.base import system
from histocli.base.system import available_cpus, resolve_workers


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight processors, no quota, no scheduler."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(system, "CGROUP_CPU_MAX", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("quota", "slurm", "expected"),
    [
        (None, None, 8),
        ("max 100000", None, 8),
        ("300000 100000", None, 3),
        ("50000 100000", None, 1),
        ("nonsense", None, 8),
        (None, "4", 4),
        (None, "16", 8),
        (None, "many", 8),
        (None, "0", 1),
        ("200000 100000", "4", 2),
    ],
)
def test_processors_granted(machine, monkeypatch, quota, slurm, expected):
    if quota is not None:
        machine.write_text(quota)
    if slurm is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert available_cpus() == expected


def test_a_system_without_affinity_counts_its_processors(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


def test_workers_are_what_was_asked_or_all(machine):
    assert resolve_workers(3) == 3
    assert resolve_workers(0) == 8
