"""Freed memory: whether the C library keeps it for this process or returns it to the system.

Networks on the CPU and whole slides ask for the same large blocks again and again. Fresh pages from
the system cost as much time as the network, so freed blocks are kept. Kept blocks that fit no later
request would make the process grow, so they are returned.
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

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # parameters of mallopt, from malloc.h


def reuse_freed_memory() -> None:
    """Let the allocator keep large freed blocks; glibc only, elsewhere nothing happens.

    By default glibc returns every large block to the system, and a network on the CPU spends half
    its time on the page faults of fresh memory: a tile of 2048 px took 0.64 s, and 0.34 s when
    blocks are kept.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)  # bytes: keep blocks below 1 GiB
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)  # the largest int: keep all of them


def share_freed_memory() -> None:
    """Let all threads share one pool of freed blocks; glibc only. Call before threads start.

    By default each thread has a pool, and a block that one thread has freed is of no use to the
    others. Where blocks are kept (:func:`reuse_freed_memory`) and pass from thread to thread,
    memory would go on growing.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)


def pages_of_its_own(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of zeros whose memory returns to the system when the array is deleted.

    Use it for large arrays that outlive the work that made them. Among the allocator's kept blocks
    (:func:`reuse_freed_memory`) such arrays would leave gaps into which later blocks do not fit.
    """
    import numpy as np

    kind, count = np.dtype(dtype), int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, kind)
    # Pages are private because shared pages are never huge; Windows has no such flags.
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    )
    pages = mmap.mmap(-1, count * kind.itemsize, **private)
    with suppress(OSError, AttributeError):  # another system
        pages.madvise(mmap.MADV_HUGEPAGE)  # where the kernel grants it, far fewer page faults
    return np.frombuffer(pages, kind, count).reshape(shape)


def keep_memory_below(limit_bytes: float) -> bool:
    """Return kept blocks to the system if the process holds more memory than a limit; glibc only.

    Fresh pages cost time, so the limit should be above the memory in use. The result tells whether
    memory was returned.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
        if resident > limit_bytes:
            return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    return False


def tunables_against_gaps(library: str, tunables: str) -> str | None:
    """Return the value of ``GLIBC_TUNABLES`` that keeps freed memory usable; None: do not set it.

    torch asks for aligned memory. Before version 2.39 the GNU C library puts the few bytes before
    each aligned block on a list when it hands the block out. A freed block then cannot be joined
    with these bytes and is too small for the next request of the same size (sourceware bug 30723).
    With the shipped model on a quarter of a gigapixel of tissue, the process held 4.5 GB, of which
    at most 0.9 GB were in use; without such lists it held 2.5 GB, in the same time. The lists can
    be switched off only before a process starts.

    ``library`` is name and version, such as "glibc 2.36"; ``tunables`` is the variable's present
    value, which is left alone where the user has set one.
    """
    name, _, version = library.partition(" ")
    numbers = version.split(".")
    if tunables or name != "glibc" or not all(number.isdigit() for number in numbers):
        return None
    is_fixed = tuple(map(int, numbers)) >= (2, 39)
    return None if is_fixed else "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"


def c_library() -> str:
    """Return name and version of the C library, or an empty text where they are not known."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""
