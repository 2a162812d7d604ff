"""The ``histosynth`` command: words in, exit codes out.

Everything a user can cause ends in one line on stderr and a documented exit code; anything else is
a bug of ours and keeps its traceback.
"""

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from histocli import __version__
from histocli.base.errors import HistosynthError, OutOfResources, Stopped
from histocli.base.interrupts import graceful_signals
from histocli.base.memory import c_library, tunables_against_gaps
from histocli.cli.console import Screen, ScreenHandler
from histocli.cli.evaluate import evaluate
from histocli.cli.export import export
from histocli.cli.generate import generate
from histocli.cli.info import info
from histocli.cli.models import models
from histocli.cli.pack import pack
from histocli.cli.refine import refine
from histocli.cli.segment import segment
from histocli.cli.train import train

PROGRAM = "histosynth"
# Typer wraps or bundles Click, depending on its version; BadParameter is exported by all, and this
# is its ancestor.
ClickError = typer.BadParameter.__mro__[2]

EXIT_CODES = """Exit codes: 0 done (or already there), 1 internal error, 2 usage, 3 input missing or invalid, 4 output exists,
5 some items failed, 6 no memory, disk or device, 7 a --min gate not met, 75 stopped with a checkpoint (go on with --resume)."""

NO_ROOM = {
    code
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM", "EACCES", "EPERM", "EROFS")
    if (code := getattr(errno, name, None)) is not None
}

# how NumPy reports a full disk, without its number
SHORT_WRITE = re.compile(r"requested and \d+ written")
DEVICE_LOST = re.compile(
    r"\b(CUDA|HIP|cuDNN|cuBLAS|NCCL|MPS) (driver |runtime |backend )?error", re.IGNORECASE
)


class Command(TyperCommand):
    """A command that prints its settings without asking for its inputs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; with ``--print-config`` nothing is required."""
        required = [parameter for parameter in self.params if parameter.required]
        relax = "--print-config" in args
        try:
            for parameter in required:
                parameter.required = not relax
            return super().parse_args(ctx, args)
        finally:
            for parameter in required:
                parameter.required = True


class Group(TyperGroup):
    """The set of commands; keeps Ctrl-C from becoming Click's exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a second Ctrl-C ends it at once, with what is on disk."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(
                "stopped at once; finished outputs are kept, go on with --resume"
            ) from error


app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[Callable[..., None], ...] = (
    generate,
    refine,
    train,
    segment,
    evaluate,
    export,
    pack,
    info,
    models,
)
for _command in COMMANDS:
    app.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """From unlabelled H&E images to a nucleus segmenter for that tissue, with nothing labelled by
    hand.

    histosynth generate refs/ -o a.zarr | histosynth train - -o m.safetensors
    """


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def out_of_resources(error: BaseException) -> OutOfResources | None:
    """Recognise an error that says that memory, disk, device or a place to write is missing,
    wherever it was raised.
    """
    for link in _causes(error):
        if isinstance(link, OutOfResources):
            return link
        missing = _what_is_missing(link)
        if missing is not None:
            return OutOfResources(missing)
    return None


def _what_is_missing(link: BaseException) -> str | None:
    """Return what to tell of an error that a missing resource made; None for any other error."""
    kind, message = type(link), str(link)
    if (
        isinstance(link, MemoryError)
        or kind.__name__ == "OutOfMemoryError"
        or "can't allocate memory" in message
    ):
        where = "GPU memory" if "CUDA" in message else "memory"
        return (
            f"not enough {where}; use smaller tiles or batches, fewer --workers or another --device"
        )
    if kind.__name__ == "AcceleratorError" or (
        isinstance(link, RuntimeError) and DEVICE_LOST.search(message)
    ):
        said = message.strip().splitlines()[0] if message.strip() else kind.__name__
        return f"the device failed ({said}); what was saved is kept, go on with --resume, or with --device cpu"
    if kind.__name__ == "BrokenProcessPool":
        return "a worker process died, most often for lack of memory; use fewer --workers"
    if isinstance(link, OSError) and link.errno is None and SHORT_WRITE.search(message):
        return f"the disk is full ({message}); free some space, or write to another place with -o/--out"
    if isinstance(link, OSError) and link.errno in NO_ROOM:
        where = f"{os.fsdecode(link.filename)}: " if isinstance(link.filename, (str, bytes)) else ""
        return f"{where}{link.strerror or message}; free some space, or write to another place with -o/--out"
    return None


@contextmanager
def _logging_to(screen: Screen) -> Iterator[None]:
    """Send log records and Python's warnings to the screen for the length of the context."""
    root_logger, ours = logging.getLogger(), logging.getLogger("histocli")
    handler, before = ScreenHandler(screen), ours.level
    root_logger.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.setLevel(before)
        root_logger.removeHandler(handler)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; nothing is raised.

    Parameters
    ----------
    arguments : sequence of str
        What stands after ``histosynth``; none shows the help.
    """
    screen = Screen()
    with graceful_signals(), _logging_to(screen):
        try:
            get_command(app).main(
                list(arguments) or ["--help"], prog_name=PROGRAM, standalone_mode=False, obj=screen
            )
        except HistosynthError as error:
            screen.complain(str(error), kind="stopped" if isinstance(error, Stopped) else "error")
            return error.exit_code
        except ClickError as error:  # type: ignore[misc]
            return _usage(screen, error)
        except (KeyboardInterrupt, typer.Abort):
            screen.complain(
                "stopped at once; finished outputs are kept, go on with --resume", kind="stopped"
            )
            return Stopped.exit_code
        except Exception as error:
            resources = out_of_resources(error)
            if resources is not None:
                screen.complain(str(resources))
                return resources.exit_code
            traceback.print_exception(error)
            screen.complain(
                f"this is a bug of {PROGRAM} {__version__}; please report it with the lines above"
            )
            return HistosynthError.exit_code
    return 0


def _usage(screen: Screen, error: Exception) -> int:
    """Print a usage error of the parser as one line and return its exit code."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    message = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
    screen.complain(f"{command}: {message}. Try '{command} --help'.")
    return int(getattr(error, "exit_code", 2))


def main() -> None:
    """Run the command line with the process's arguments and exit."""
    # Threads of OpenMP that wait by spinning make training ten times slower where other processes
    # want the same processors, as on shared nodes and under quotas; the library reads this once,
    # when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "segment" in sys.argv[1:]:
        _begin_again_with_tunables()
    sys.exit(run(sys.argv[1:]))


def _begin_again_with_tunables() -> None:
    """Replace this process by itself with another setting of the C library, if that would save
    memory on large slides.
    """
    tunables = tunables_against_gaps(c_library(), os.environ.get("GLIBC_TUNABLES", ""))
    if tunables is None or not sys.executable or getattr(sys, "frozen", False):
        return
    with suppress(OSError):  # then it goes on as it is
        os.execve(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            os.environ | {"GLIBC_TUNABLES": tunables},
        )
