"""Progress of a call, reported to a function of the caller."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeAlias

from histocli.base.progress import Bar, Track, silent

Progress: TypeAlias = Callable[[str, float, float | None], object]
"""Called with the name of the present task, its steps done, and its steps in all (None: unknown).

Calls may come from any thread, but one at a time; an exception ends the work and is passed on.
``progress=print`` shows every call.
"""


class _Counter:
    """Counts the steps of one task and reports each advance."""

    def __init__(self, report: Progress, description: str, total: float | None) -> None:
        self._report, self._description, self._total = report, description, total
        self._done: float = 0
        self._lock = Lock()

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Report that ``steps`` more are done; an advance of none reports nothing."""
        if not steps:
            return
        with self._lock:
            self._done += steps
            self._report(self._description, self._done, self._total)


def track_of(progress: Progress | None) -> Track:
    """Return what stages report to, given a function of the caller, or None for silence."""
    if progress is None:
        return silent
    report = progress

    @contextmanager
    def track(description: str, total: float | None) -> Iterator[Bar]:
        report(description, 0, total)
        yield _Counter(report, description, total)

    return track
