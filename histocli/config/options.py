"""How an option of the command line is declared, and parsers of the values that users type.

Most options are fields of a config dataclass, made by ``option(default, help)``. The flag comes
from the name of the field (``patch_px``: ``--patch-px``), the type from its annotation. Options
that set no such field, for instance ``--out``, are parameters of the command functions in ``cli/``.
Texts, numbers and switches need no parser; a field of another type names one of those below. Each
parser takes the typed text and the flag, for messages, and raises ``InvalidOption``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from histocli.base.errors import InvalidOption

T = TypeVar("T")

# headings of ``--help``, in their order
ESSENTIAL = "Essential"  # what most calls name
FILES = "Input and output"
METHOD = "Method"  # how the result is made
RUN = "Run"  # how the command runs
RESEARCH = "Research"  # what was tried and may help elsewhere
PANELS = (ESSENTIAL, FILES, METHOD, RUN, RESEARCH)


@dataclass(frozen=True)
class Option:
    """Details of an option that the name, type and default of its field do not give."""

    help: str  # one sentence for ``--help``
    flag: str | None = None
    """Long flag, where the field's name does not give it; two as in ``--weights/--no-weights``."""
    short: str | None = None  # one-letter flag, such as ``-o``
    metavar: str | None = None  # placeholder for the value in ``--help``; None: of the type
    panel: str = METHOD  # heading under which ``--help`` lists the option, one of ``PANELS``
    parse: Callable[[Any, str], Any] | None = None
    """Parser of the typed text, or of all texts of a repeatable option; None leaves it to Typer."""
    written: str | None = None  # the default as a user types it, where that differs from its value
    repeatable: bool = False  # whether the option may be given several times
    before: str | None = None  # field before which ``--help`` lists it; None: order of the code


def option(default: T, help: str, **details: Any) -> T:
    """Declare a field of a config dataclass that is also an option of the command line.

    ``help`` is one sentence for ``--help``; ``details`` are other attributes of :class:`Option`.
    """
    return field(default=default, metadata={"option": Option(help, **details)})


def parse_workers(text: str, flag: str) -> int:
    """Read ``auto``, which is 0, or a whole number of at most six digits; 0 means auto, too."""
    if text == "auto":
        return 0
    if not text.isdecimal() or len(text) > 6:
        raise InvalidOption(f"{flag} must be auto or a whole number of at least 1, got {text!r}")
    return int(text)


def parse_duration(text: str, flag: str) -> float:
    """Read a duration such as ``90s``, ``10m``, ``1h30m`` or ``0.5h``; return seconds.

    Hours, minutes and seconds stand in this order. A last number without a unit is in seconds:
    ``600`` is ten minutes, ``1h30`` is one hour and 30 seconds.
    """
    number, typed = r"(\d+(?:\.\d+)?)", text.strip().lower()
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", typed, re.ASCII)
    if match is None or not any(match.groups()):
        raise InvalidOption(f"{flag} must be a duration such as 90s, 10m or 1h30m, got {text!r}")
    parts = zip(match.groups(), (3600, 60, 1), strict=True)
    seconds = sum(float(part or 0) * unit for part, unit in parts)
    if seconds <= 0:
        raise InvalidOption(f"{flag} must be longer than nothing, got {text!r}")
    return seconds


def parse_gigabytes(text: str, flag: str) -> float:
    """Read an amount of memory such as ``4G``, ``800M`` or ``2.5`` (gigabytes); return gigabytes.

    ``G`` and ``GB`` are 1000^3 bytes, ``GiB`` is 1024^3; likewise for K, M and T, in either case.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?b)?|b?)", text.strip().lower(), re.ASCII)
    if match is None:
        raise InvalidOption(f"{flag} must be an amount of memory such as 4G or 800M, got {text!r}")
    unit = match[2] or "g"
    base = 1024 if match[3] == "ib" else 1000
    return float(float(match[1]) * base ** (1 + "kmgt".index(unit)) / 1e9)


def parse_names(text: str, flag: str) -> tuple[str, ...]:
    """Read a comma-separated list; order is kept, repeated and empty names are dropped."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidOption(f"{flag} must name at least one, got {text!r}")
    return names


def parse_gates(words: Sequence[str], flag: str) -> tuple[tuple[str, float], ...]:
    """Read gates, which are bounds of metrics: ``pq=0.55``, or several as ``pq=0.55,dice=0.7``.

    Names of metrics are not checked here. NaN is refused.
    """
    gates = []
    for word in (part.strip() for text in words for part in text.split(",")):
        name, equals, number = word.partition("=")
        try:
            gates.append((name.strip(), float(number)))
        except ValueError:
            equals = ""
        if not equals or not gates[-1][1] == gates[-1][1]:  # NaN equals nothing, itself included
            raise InvalidOption(f"{flag} must look like pq=0.55, got {word!r}")
    return tuple(gates)


def parse_region(text: str, flag: str) -> tuple[int, int, int, int]:
    """Read ``y0,x0,y1,x1``, four whole numbers: pixels of the full resolution (level 0) of a slide.

    The region has the rows y0 to y1 - 1 and the columns x0 to x1 - 1. The order is not checked.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise InvalidOption(f"{flag} must be y0,x0,y1,x1 in pixels of level 0, got {text!r}")
    y0, x0, y1, x1 = map(int, parts)
    return y0, x0, y1, x1
