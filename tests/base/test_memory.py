"""Freed memory is kept for the next tile, where the C library is glibc."""

import subprocess
import sys

import pytest

from histocli.base import system

FAULTS = """
import resource, sys
import numpy as np
from histocli.base.system import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
np.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_are_used_again_without_page_faults():
    assert faults("reuse") < faults("leave") / 4 or faults("leave") < 100


def test_another_c_library_is_no_error(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(system.ctypes, "CDLL", missing)
    system.reuse_freed_memory()
