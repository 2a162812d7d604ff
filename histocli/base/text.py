"""Text for people and for other programs: messages of one line, and values as plain JSON."""

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shortened(error: BaseException) -> str:
    """Return up to 160 characters of an exception's message on one line, or its class if empty."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean NAME?`` for the known name most like a mistyped one, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def printable(text: str) -> str:
    """Escape characters that break lines or control the terminal; file names may hold them."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def plain_json(value: Any) -> Any:
    """Return a value as JSON can hold it: arrays and tuples as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return plain_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity, and other readers would refuse the file
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def valid_unicode(value: Any) -> Any:
    """Replace the undecodable bytes of file names in nested JSON values."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {valid_unicode(key): valid_unicode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [valid_unicode(item) for item in value]
    return value
