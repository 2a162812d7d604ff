"""The memory of this process: what the C library keeps of what was freed, and when it goes back to
the system.

Networks on the CPU and whole slides ask for the same large blocks again and again. Fresh pages cost
as much time as the network, so freed blocks are kept; kept blocks must then fit what comes next,
and what does not must go back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line asks for the tunables before anything heavy is imported
    import numpy.typing as npt

MEMORY_STATUS = Path("/proc/self/statm")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # parameters of mallopt, from malloc.h
AGAINST_GAPS = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"


def reuse_freed_memory() -> None:
    """Let the allocator keep large freed blocks, where the C library is glibc; elsewhere do
    nothing.

    By default glibc returns every large block to the system, and a network on the CPU spends half
    its time on the page faults of fresh memory: a tile of 2048 px took 0.64 s, and 0.34 s when
    blocks are kept.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def share_freed_memory() -> None:
    """Let all threads allocate from one place, where the C library is glibc; elsewhere do nothing.
    Call before threads start.

    By default threads have places of their own, and what one of them has freed is of no use to the
    others: where blocks are kept (:func:`reuse_freed_memory`) and pass from thread to thread,
    memory would go on growing.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)


def pages_of_its_own(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of zeros whose memory goes back to the system with it.

    For what is large and outlives the work that made it: among the allocator's blocks it would
    leave gaps that what comes later does not fit into (:func:`reuse_freed_memory`).
    """
    import numpy as np

    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, kind)
    # private, as shared pages are never huge; other systems have no such flags
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    )
    pages = mmap.mmap(-1, count * kind.itemsize, **private)
    with suppress(OSError, AttributeError):  # another system
        pages.madvise(mmap.MADV_HUGEPAGE)  # where the kernel grants it, far fewer page faults
    return np.frombuffer(pages, kind, count).reshape(shape)


def keep_memory_below(limit_bytes: float) -> bool:
    """Give what the allocator keeps back to the system if the process holds more memory than a
    limit; glibc only.

    Fresh pages cost time, so the limit should leave room for what is in use. Returns whether memory
    was given back.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        resident = int(MEMORY_STATUS.read_text().split()[1]) * mmap.PAGESIZE
        if resident > limit_bytes:
            return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    return False


def tunables_against_gaps(library: str, tunables: str) -> str | None:
    """Return the value of ``GLIBC_TUNABLES`` that keeps freed memory usable, or None where nothing
    is to be changed.

    torch asks for aligned memory. Until version 2.39 the GNU C library puts the few bytes before
    each aligned block on a list of its own when it hands the block out, so that a freed block
    cannot be joined with them and is too small for the next request of the very same size
    (sourceware bug 30723). With the shipped model on a quarter of a gigapixel of tissue it held 4.5
    GB, of which 0.9 were in use at most; without those lists 2.5 GB, in the same time. They can be
    switched off only before a process starts.

    Parameters
    ----------
    library : str
        Name and version of the C library, such as "glibc 2.36".
    tunables : str
        What the variable holds now; what the user has set is left alone.
    """
    name, _, version = library.partition(" ")
    numbers = version.split(".")
    if (
        name != "glibc"
        or not all(number.isdigit() for number in numbers)
        or tuple(map(int, numbers)) >= (2, 39)
        or tunables
    ):
        return None
    return AGAINST_GAPS


def c_library() -> str:
    """Return name and version of the C library, or nothing where the system does not tell."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""
