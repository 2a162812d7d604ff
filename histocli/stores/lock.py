"""The lock that keeps two processes from writing the same output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from histocli.base.errors import StoreExists
from histocli.base.files import disk_errors, make_parents, partial_path


class OutputLock:
    """Keeps a second process, which gets ``StoreExists``, from writing the same output."""

    def __init__(self, target: Path) -> None:
        partial = partial_path(target)
        self._path = partial.with_name(f"{partial.name}.lock")
        with disk_errors(target):
            make_parents(target)
            # thread_local=False: a writer may be finished in another thread than it was created in.
            self._lock = filelock.FileLock(self._path, timeout=0, thread_local=False)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise StoreExists(
                    f"{target}: another process is writing it; "
                    "wait for it to end or choose another --out"
                ) from None

    @property
    def is_held(self) -> bool:
        """It was taken and not released."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let go of the output; harmless when called twice."""
        if self._lock.is_locked:
            # The file is removed while the lock is held, so that nobody can lock a file that is
            # about to go away.
            if os.name == "posix":
                self._path.unlink(missing_ok=True)
            self._lock.release()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def lock_unless_it_fails(target: Path) -> Iterator[OutputLock]:
    """Take the lock of an output and keep it after the context, unless the context ends badly."""
    lock = OutputLock(target)
    try:
        with disk_errors(target):
            yield lock
    except BaseException:
        lock.release()
        raise
