"""The ``histosynth`` command: runs the command that its arguments name, and returns an exit code.

An error that a user can cause ends in one line on stderr and an exit code of ``EXIT_CODES``. Any
other error is a bug of this package and is printed with its traceback.
"""

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from histocli import __version__
from histocli.base.errors import HistosynthError, Stopped
from histocli.base.interrupts import graceful_signals
from histocli.base.text import did_you_mean
from histocli.cli.console import Screen, ScreenHandler
from histocli.cli.doctor import doctor
from histocli.cli.evaluate import evaluate
from histocli.cli.export import export
from histocli.cli.generate import generate
from histocli.cli.help import show_help
from histocli.cli.info import info
from histocli.cli.models import models
from histocli.cli.pack import pack
from histocli.cli.refine import refine
from histocli.cli.resources import out_of_resources
from histocli.cli.run import run as run_chain
from histocli.cli.segment import segment
from histocli.cli.train import train
from histocli.config.options import RUN

PROGRAM = "histosynth"
# ClickException, the base class of Click's errors. Typer depends on Click or bundles a copy of it,
# depending on its version, but always exports BadParameter, whose grandparent ClickException is.
ClickError = typer.BadParameter.__mro__[2]

EXIT_CODES = (
    "Exit codes: 0 done (or already there), 1 internal error, 2 usage, 3 input missing or invalid, "
    "4 output exists, 5 some items failed, 6 no memory, disk or device, 7 a --min gate not met, "
    "75 stopped with a checkpoint (run it again to go on)."
)
COMPLETION = "_HISTOSYNTH_COMPLETE"  # set by the shell when it asks for completions
PIPELINE = f"""\
{PROGRAM} segment slides/ -o out/                   label nuclei, as a start
{PROGRAM} generate refs/ -o synth.zarr              draw patches like yours
{PROGRAM} refine synth.zarr -o refined.zarr         bring them nearer to yours
{PROGRAM} train refined.zarr -o mine.safetensors    learn your tissue
{PROGRAM} segment slides/ --model mine.safetensors -o out/     label with that
{PROGRAM} evaluate out/ truth/                      score; all: {PROGRAM} -h\
"""
STOPPED_AT_ONCE = "stopped at once; finished outputs are kept, run the same command again to go on"


class Command(TyperCommand):
    """A command whose required parameters may be missing when ``--print-config`` is given."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help`` under the heading that the other options of running have."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.rich_help_panel = RUN
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        show_help(self, ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; with ``--print-config`` no parameter is required."""
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
    """The set of commands; Ctrl-C ends them with exit code 75 (``Stopped``), not Click's."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        show_help(self, ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; raise ``Stopped`` where a second Ctrl-C ends it at once."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(STOPPED_AT_ONCE) from error


app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    run_chain, generate, refine, train, segment, evaluate, export, pack, info, models, doctor
)  # fmt: skip
for _command in COMMANDS:
    app.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


VERSION = typer.Option(
    "--version", help="Print the version.", is_eager=True, callback=_print_version
)


@app.callback()
def root(version: Annotated[bool, VERSION] = False) -> None:
    """From unlabelled H&E images to a nucleus segmenter for that tissue, with nothing labelled by
    hand.

    Example: histosynth generate refs/ -o a.zarr | histosynth train - -o m.safetensors
    """


@contextmanager
def _logging_to(screen: Screen) -> Iterator[None]:
    """Send log records and Python's warnings to the screen while the context is open."""
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
    """Run the command line and return its exit code; errors are printed, not raised.

    ``arguments`` are the words after ``histosynth``; an empty sequence shows the pipeline.
    """
    screen = Screen()
    with graceful_signals(), _logging_to(screen):
        try:
            _call(list(arguments), screen)
        except HistosynthError as error:
            screen.complain(str(error), kind="stopped" if isinstance(error, Stopped) else "error")
            return error.exit_code
        except ClickError as error:  # type: ignore[misc]
            return _usage(screen, error)
        except (KeyboardInterrupt, typer.Abort):
            screen.complain(STOPPED_AT_ONCE, kind="stopped")
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


def _call(words: list[str], screen: Screen) -> None:
    """Run the command that the words name; without words, show the pipeline."""
    if not words and COMPLETION not in os.environ:
        typer.echo(PIPELINE)
        return
    get_command(app).main(words, prog_name=PROGRAM, standalone_mode=False, obj=screen)


def _usage(screen: Screen, error: Exception) -> int:
    """Print a usage error that Click raised as one line, and return its exit code."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    message = " ".join(getattr(error, "format_message", error.__str__)().split())
    unknown = getattr(error, "option_name", None)
    if context is not None and unknown is not None and hasattr(error, "possibilities"):
        flags = [flag for each in context.command.params for flag in each.opts]
        message = f"no such option: {unknown}{did_you_mean(unknown, flags)}"
    message = message.rstrip(".?") + ("?" if message.endswith(("?", "?.")) else ".")
    screen.complain(f"{command}: {message} Try '{command} --help'.")
    return int(getattr(error, "exit_code", 2))
