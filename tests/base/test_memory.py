"""Freed memory is kept for the next tile, where the C library is glibc."""

import subprocess
import sys

import numpy as np
import psutil
import pytest

from histocli.base import memory
from histocli.base.memory import (
    c_library,
    keep_memory_below,
    pages_of_its_own,
    reuse_freed_memory,
    tunables_against_gaps,
)

FAULTS = """
import resource, sys
import numpy as np
from histocli.base.memory import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
np.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_large_blocks_are_used_again_without_page_faults():
    left = faults("leave")
    assert left < 100 or faults("reuse") < left / 4


def test_another_c_library_is_no_error(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    memory.reuse_freed_memory()


@pytest.mark.parametrize(
    ("library", "tunables", "changes"),
    [
        ("glibc 2.36", "", True),
        ("glibc 2.38", "", True),
        ("glibc 2.39", "", False),
        ("glibc 2.4", "", True),
        ("glibc 3.0", "", False),
        ("glibc 2.36", "glibc.malloc.check=3", False),  # what the user sets holds
        ("", "", False),
        ("musl 1.2.5", "", False),
        ("glibc 2.x", "", False),
    ],
)
def test_only_old_c_libraries_get_other_settings(library, tunables, changes):
    value = tunables_against_gaps(library, tunables)
    assert (value is not None) == changes
    if value is not None:
        # so a process begins again once at most
        assert tunables_against_gaps(library, value) is None


def test_pages_of_its_own_are_an_array():
    pages = pages_of_its_own((3, 5, 2), np.float32)
    assert pages.shape == (3, 5, 2)
    assert pages.dtype == np.float32
    assert not pages.any()
    pages[1] = 7
    assert pages.sum() == 70
    assert pages_of_its_own((0, 4), np.uint8).shape == (0, 4)


def test_pages_of_its_own_go_back_with_the_array(resident_mb):
    before = resident_mb()
    pages = pages_of_its_own((64, 1 << 20), np.uint8)
    pages[:] = 1
    part = pages[3:5]
    del pages
    assert resident_mb() - before > 50  # a view keeps them
    del part
    assert resident_mb() - before < 20


def test_memory_above_the_limit_is_given_back(resident_mb):
    if not c_library().startswith("glibc"):
        pytest.skip("only the GNU C library can be told")
    reuse_freed_memory()
    blocks = [np.ones(1 << 20, np.uint8) for _ in range(200)]
    last = bytearray(1000)  # something behind them, so that they are not at the end
    full = resident_mb()
    del blocks
    assert not keep_memory_below(1e15)
    assert resident_mb() > full - 50  # kept for what comes
    assert keep_memory_below(1)
    assert resident_mb() < full - 150
    assert len(last) == 1000


@pytest.fixture
def resident_mb():
    """A function that tells how much memory this process holds."""
    process = psutil.Process()
    return lambda: process.memory_info().rss / 1e6
