"""Options that commands share: one spelling, one meaning, one place.

``option`` gives each of them its environment variable, ``HISTOSYNTH_`` and the long flag.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from histocli.base.errors import InvalidOption
from histocli.cli.settings import take_config_file
from histocli.config.common import Execution

RUNNING = "Running"  # panel of --help
TALKING = "Input of settings, output of results"

INPUTS = "Files, folders, quoted globs, @list.txt, or - for paths on stdin."


def environment_name(flag: str) -> str:
    """Return the environment variable of a long flag, ``HISTOSYNTH_PATCH_PX`` for
    ``--patch-px``.
    """
    return "HISTOSYNTH_" + flag.lstrip("-").replace("-", "_").upper()


def option(*flags: str, help: str, panel: str | None = None, **extra: Any) -> Any:
    """Declare an option that also reads its environment variable.

    Parameters
    ----------
    *flags : str
        Spellings; the long one (``--name``, or the first of ``--name/--no-name``) names the
        variable.
    help : str
        One sentence for ``--help``.
    panel : str, optional
        Heading under which ``--help`` lists it.
    **extra
        What else ``typer.Option`` takes.
    """
    long_flag = next(flag for flag in flags if flag.startswith("--")).split("/")[0]
    return typer.Option(
        *flags,
        help=help,
        rich_help_panel=panel,
        envvar=environment_name(long_flag),
        show_envvar=False,
        **extra,
    )


Out = Annotated[Path, option("-o", "--out", help="What to make.")]
Seed = Annotated[int, option("--seed", help="Seed of everything that is drawn.")]
Mpp = Annotated[
    float | None,
    option(
        "--mpp",
        help="Micrometres per pixel of the inputs; overrides what they record.",
        show_default=False,
    ),
]

Device = Annotated[
    str,
    option(
        "--device", metavar="auto|cpu|cuda[:i]|mps", help="Where the networks run.", panel=RUNNING
    ),
]
Precision = Annotated[
    str,
    option(
        "--precision",
        metavar="auto|fp32|bf16",
        help="Number format of the networks.",
        panel=RUNNING,
    ),
]
Workers = Annotated[
    str,
    option(
        "--workers",
        metavar="auto|N",
        help="Parallel workers; auto is one a processor.",
        panel=RUNNING,
    ),
]
Resume = Annotated[bool, option("--resume", help="Go on with a partial output.", panel=RUNNING)]
Overwrite = Annotated[
    bool,
    option(
        "--overwrite", help="Replace an output of ours made with other settings.", panel=RUNNING
    ),
]
OnError = Annotated[
    str,
    option(
        "--on-error",
        metavar="stop|continue",
        help="Whether one bad input ends the batch (continue: exit 5).",
        panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool, option("--dry-run", help="Check the inputs and say what would be made.", panel=RUNNING)
]

Config = Annotated[
    Path | None,
    option(
        "--config",
        metavar="FILE.yaml",
        help="Settings; flags and HISTOSYNTH_* variables win over them.",
        panel=TALKING,
        is_eager=True,
        callback=take_config_file,
        show_default=False,
    ),
]
PrintConfig = Annotated[
    bool,
    option("--print-config", help="Print the settings in force as YAML, and stop.", panel=TALKING),
]
AsJson = Annotated[bool, option("--json", help="One JSON object a line on stdout.", panel=TALKING)]
Verbose = Annotated[
    int,
    option(
        "-v",
        "--verbose",
        count=True,
        help="Say more; -vv says all.",
        panel=TALKING,
        show_default=False,
        metavar="",
    ),
]
Quiet = Annotated[bool, option("-q", "--quiet", help="Errors only.", panel=TALKING)]

DEFAULTS = Execution()


def parse_workers(text: str) -> int:
    """Read ``--workers``: a number, or auto, which is 0.

    Raises
    ------
    InvalidOption
        Neither.
    """
    if text == "auto":
        return 0
    if not text.isdecimal() or len(text) > 6:
        raise InvalidOption(f"--workers must be auto or a whole number of at least 1, got {text!r}")
    return int(text)


def parse_duration(text: str | None, flag: str) -> float | None:
    """Read a duration such as ``90s``, ``10m``, ``1h30m`` or ``600`` (seconds).

    Returns
    -------
    float or None
        Seconds; None where nothing was given.

    Raises
    ------
    InvalidOption
        Not a duration, or not positive.
    """
    if text is None:
        return None
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


def parse_gigabytes(text: str | None, flag: str) -> float | None:
    """Read an amount of memory such as ``4G``, ``800M`` or ``2.5`` (gigabytes).

    Returns
    -------
    float or None
        Gigabytes; None where nothing was given.

    Raises
    ------
    InvalidOption
        Not an amount.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", text.strip().lower(), re.ASCII)
    if match is None:
        raise InvalidOption(f"{flag} must be an amount of memory such as 4G or 800M, got {text!r}")
    return float(match[1]) * {"k": 1e-6, "m": 1e-3, "": 1.0, "g": 1.0, "t": 1e3}[match[2]]


def parse_names(text: str, flag: str) -> tuple[str, ...]:
    """Read a comma-separated list such as ``ome-zarr,tiff``; order is kept, repetitions are
    dropped.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidOption(f"{flag} must name at least one, got {text!r}")
    return names


def parse_gates(words: Sequence[str], flag: str) -> tuple[tuple[str, float], ...]:
    """Read gates such as ``pq=0.55`` (also ``pq=0.55,dice=0.7``).

    Raises
    ------
    InvalidOption
        A word is not ``name=number``.
    """
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


def refuse_by_suffix(words: Sequence[str], what: str, meant: Mapping[tuple[str, ...], str]) -> None:
    """Refuse a positional that is plainly of another kind, and name the option that was meant.

    Parameters
    ----------
    words : sequence of str
        The positionals.
    what : str
        The command and what it takes, for the message.
    meant : mapping
        Endings of file names, and what to do with such a file.

    Raises
    ------
    InvalidOption
        One of the words has such an ending.
    """
    for word in words:
        for suffixes, remedy in meant.items():
            if word.lower().endswith(suffixes):
                raise InvalidOption(f"{word}: {what}; {remedy}")


def execution(*, workers: str = "auto", **values: Any) -> Execution:
    """Build the settings of how a command runs from its parsed options."""
    return Execution(workers=parse_workers(workers), **values)
