"""Options of the command line, each written once: at the field of the settings that it sets.

A field of a config dataclass is made by ``option(default, help)``. The command line reads the rest
from the field: the flag is its name (``patch_px``: ``--patch-px``), the type is its annotation.
What a flag holds other than a text, a number or a switch is read by one of the parsers below.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from histocli.base.errors import InvalidOption

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """What ``--help`` and the parser know of an option beside its name, type and default."""

    help: str
    """One sentence for ``--help``."""
    flag: str | None = None
    """Long flag, or ``--yes/--no``, where it is not the name of the field."""
    short: str | None = None
    """One-letter flag, such as ``-o``."""
    metavar: str | None = None
    """What ``--help`` shows for the value; None shows its type."""
    panel: str | None = None
    """Heading under which ``--help`` lists the option."""
    parse: Callable[[Any, str], Any] | None = None
    """Makes the value from what was typed (a list of texts where ``repeatable``); is also given the
    flag, for its messages, and raises ``InvalidOption``."""
    written: str | None = None
    """The default as a user would type it, where the option has a parser."""
    repeatable: bool = False
    """Whether the option may be given several times."""
    before: str | None = None
    """Field before which ``--help`` lists an option that is no field."""


def option(default: T, help: str, **details: Any) -> T:
    """Declare a field of a config dataclass that is an option of the command line.

    Parameters
    ----------
    default : object
        Value without the option.
    help : str
        One sentence for ``--help``.
    **details
        Other attributes of :class:`Option`.
    """
    return field(default=default, metadata={"option": Option(help, **details)})


def parse_workers(text: str, flag: str) -> int:
    """Read a number of workers, or auto, which is 0."""
    if text == "auto":
        return 0
    if not text.isdecimal() or len(text) > 6:
        raise InvalidOption(f"{flag} must be auto or a whole number of at least 1, got {text!r}")
    return int(text)


def parse_duration(text: str, flag: str) -> float:
    """Read a duration such as ``90s``, ``10m``, ``1h30m`` or ``600`` (seconds); return seconds."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(
        rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower(), re.ASCII
    )
    if match is None or not any(match.groups()):
        raise InvalidOption(f"{flag} must be a duration such as 90s, 10m or 1h30m, got {text!r}")
    seconds = sum(
        float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)
    )
    if seconds <= 0:
        raise InvalidOption(f"{flag} must be longer than nothing, got {text!r}")
    return seconds


def parse_gigabytes(text: str, flag: str) -> float:
    """Read an amount of memory such as ``4G``, ``800M`` or ``2.5``; return gigabytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", text.strip().lower(), re.ASCII)
    if match is None:
        raise InvalidOption(f"{flag} must be an amount of memory such as 4G or 800M, got {text!r}")
    return float(match[1]) * {"k": 1e-6, "m": 1e-3, "": 1.0, "g": 1.0, "t": 1e3}[match[2]]


def parse_names(text: str, flag: str) -> tuple[str, ...]:
    """Read a list such as ``ome-zarr,tiff``; order is kept, repetitions are dropped."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidOption(f"{flag} must name at least one, got {text!r}")
    return names


def parse_gates(words: Sequence[str], flag: str) -> tuple[tuple[str, float], ...]:
    """Read gates such as ``pq=0.55`` (also ``pq=0.55,dice=0.7``)."""
    gates = []
    for word in (part.strip() for words_of_one in words for part in words_of_one.split(",")):
        name, equals, number = word.partition("=")
        try:
            gates.append((name.strip(), float(number)))
        except ValueError:
            equals = ""
        if not equals or not gates[-1][1] == gates[-1][1]:  # nan would never fail the gate
            raise InvalidOption(f"{flag} must look like pq=0.55, got {word!r}")
    return tuple(gates)


def parse_region(text: str, flag: str) -> tuple[int, int, int, int]:
    """Read ``y0,x0,y1,x1``."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise InvalidOption(f"{flag} must be y0,x0,y1,x1 in pixels of level 0, got {text!r}")
    y0, x0, y1, x1 = map(int, parts)
    return y0, x0, y1, x1
