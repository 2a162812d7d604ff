"""Turn Ctrl-C and SIGTERM into a flag that loops check where they can stop safely.

The first signal sets the flag: the command finishes its present step, saves, and raises
``Stopped`` (exit 75). A second signal raises KeyboardInterrupt at once; outputs stay valid even
then, because everything is written beside its target and renamed.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from histocli.base.errors import Stopped

_requested = threading.Event()


def stop_requested() -> bool:
    """Whether the user or the scheduler asked this process to stop."""
    return _requested.is_set()


def raise_if_stopped(what: str) -> None:
    """Raise ``Stopped`` when a stop was asked for; the message ``what`` says how to go on."""
    if stop_requested():
        raise Stopped(what)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _requested.is_set():
        raise KeyboardInterrupt
    _requested.set()


@contextmanager
def graceful_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into the flag while the context lasts (main thread only)."""
    _requested.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, _on_signal) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        _requested.clear()
