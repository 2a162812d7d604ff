"""Stages report progress to an argument; the command line decides what to show of it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One running task."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that ``steps`` more are done; ``note`` is a short state, such as a loss."""


class Track(Protocol):
    """Opens a bar for a task of ``total`` steps (None: unknown)."""

    def __call__(self, description: str, total: int | None) -> AbstractContextManager[Bar]:
        """Open the bar; it closes with the context."""


class _NoBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Bar]:
    """Show nothing."""
    yield _NoBar()
