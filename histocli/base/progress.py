"""Stages report progress to an argument; the command line decides what to show of it."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

_began: ContextVar[float | None] = ContextVar("began", default=None)


def seconds_before() -> float:
    """Return the seconds since the command began, which include the loading of libraries.

    0 where no command of the command line is at work.
    """
    began = _began.get()
    return 0.0 if began is None else time.perf_counter() - began


@contextmanager
def command_at_work() -> Iterator[None]:
    """Count the seconds of a command from here on."""
    token = _began.set(time.perf_counter())
    try:
        yield
    finally:
        _began.reset(token)


class Bar(Protocol):
    """One running task."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Report that ``steps`` more are done; ``note`` is a short state, such as a loss."""


class Track(Protocol):
    """Opens a bar for a task.

    The total says what a step is: an integer counts things that a person would count, such as
    patches, and a float is an amount of work that is shown as a percentage. None is unknown.
    """

    def __call__(self, description: str, total: float | None) -> AbstractContextManager[Bar]:
        """Open the bar; it closes with the context."""


class _NoBar:
    def advance(self, steps: float = 1, note: str = "") -> None:
        """Do nothing."""


@contextmanager
def silent(description: str, total: float | None) -> Iterator[Bar]:
    """Show nothing."""
    yield _NoBar()
