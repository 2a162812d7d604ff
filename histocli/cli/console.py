"""Output of the command line: results on stdout; messages, tables and progress on stderr.

Both streams go through one :class:`Screen`, so that a result which a terminal shows never tears the
bars of running tasks. Text such as file names is never read as Rich markup, and its control
characters are escaped, so that a message stays one line.
"""

import errno
import logging
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from histocli.base.errors import InvalidOption, SomeFailed
from histocli.base.progress import Bar
from histocli.base.text import printable, valid_unicode
from histocli.cli.bars import Display, clock
from histocli.cli.endings import ending


class Result(Protocol):
    """The result of a stage, such as one output that was made, skipped or failed."""

    def to_json(self) -> dict[str, Any]:
        """Return schema, output, status, seconds, error and further facts of the result."""


class Screen:
    """Stdout and stderr of one run of the command line, and the results that it has shown."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.as_json = False
        self.verbosity = 0  # -1 with ``-q``, 0 by default, 1 with ``-v``, 2 with ``-vv``
        self.display = Display(self)
        self._summary: tuple[str, str] | None = None  # see ``sum_up``
        self._results: list[dict[str, Any]] = []
        self._left_out = 0  # inputs without which an output was made
        self._warned: Counter[str] = Counter()  # number of warnings by kind
        self._first: dict[str, str] = {}  # the first warning of each kind

    def configure(self, *, as_json: bool, verbose: int, quiet: bool) -> None:
        """Set the amount and the form of the output; ``verbose`` counts the options ``-v``."""
        if verbose and quiet:
            raise InvalidOption("-v/--verbose says more and -q/--quiet less; give one of them")
        self.as_json = as_json
        self.verbosity = -1 if quiet else verbose

    def say(self, message: str) -> None:
        """Print a message as one line on stderr, unless quiet."""
        if self.verbosity >= 0:
            self._print(Text(self._wrapped(printable(message))))

    def complain(self, message: str, *, kind: str = "error") -> None:
        """Print an error or a warning as one line on stderr, also when quiet."""
        style = {"error": "bold red", "warning": "bold yellow"}.get(kind, "bold")
        text = Text(self._wrapped(f"{kind}: {printable(message)}"))
        text.stylize(style, 0, len(kind) + 1)
        self._print(text)

    def warn(self, message: str, sort: str) -> None:
        """Print a warning; of those of one ``sort``, only the first, but all with ``-v``.

        The others are counted and mentioned when the command ends. With ``-q`` none is shown.
        """
        if self.verbosity < 0:
            return
        with self.display.lock:
            self._warned[sort] += 1
            self._first.setdefault(sort, message)
            first = self._warned[sort] == 1
        if first or self.verbosity > 0:
            self.complain(message, kind="warning")

    def show(self, table: RenderableType) -> None:
        """Print a table on stderr, unless quiet."""
        if self.verbosity >= 0:
            self._print(table, soft_wrap=False)

    def table(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        numbers_from: int = 1,
        numbers_to: int | None = None,
    ) -> None:
        """Print a table on stderr.

        Columns from ``numbers_from`` up to ``numbers_to``, without it, hold numbers and are aligned
        right; by default up to the last column.
        """
        table = Table(
            title=Text(printable(title), "bold"),
            title_justify="left",
            show_header=any(header),
            box=SIMPLE_HEAD if any(header) else None,
            pad_edge=False,
        )
        last = len(header) if numbers_to is None else numbers_to
        for i, name in enumerate(header):
            side: JustifyMethod = "right" if numbers_from <= i < last else "left"
            table.add_column(Text(name), justify=side, overflow="fold")
        for row in rows:
            table.add_row(
                *(cell if isinstance(cell, Text) else Text(printable(str(cell))) for cell in row)
            )
        self.show(Padding(table, (0, 0, 0 if any(header) else 1, 0)))

    def result(self, result: Result) -> None:
        """Print one result of a stage on stdout: its path, or with --json the whole result."""
        values = result.to_json()
        output, error = values.get("output"), values.get("error")
        name = str(output or values.get("input") or "")
        self._results.append(values)
        for lost in values.get("failed") or ():  # inputs without which the output was made
            self._left_out += 1
            self.complain(f"{lost}: left out, see above")
        if self.as_json:
            self.print_json(values)
        match values.get("status"):
            case "failed":
                self.complain(str(error or f"{name} failed"))
            case "planned":
                self.say(f"would write {name}")
            case _:
                self.print_path(output)
                if self.verbosity > 0 and values.get("status") == "done":
                    self._list_files(values)

    def sum_up(self, what: str, place: str = "") -> None:
        """Set the last line of a command whose results do not go through :meth:`result`."""
        self._summary = what, place

    def conclude(self, *, finished: bool = True) -> None:
        """Say how often the command warned of what and, if it is finished, what it has done."""
        for sort, n in self._warned.items():
            if n > 1 and self.verbosity == 0:
                more = f"{n - 1} more like the first of them" if n > 2 else "one more like"
                self.complain(f"{more}: {self._first[sort]}", kind="warning")
        self._warned.clear()
        if not finished:
            return
        line = ending(self._results, self.display.seconds)
        if self._summary is not None:
            what, place = self._summary
            line = f"{what} in {clock(self.display.seconds)}" + (f" -> {place}" if place else "")
        if line is not None:
            self.say(line)

    def raise_if_any_failed(self) -> None:
        """Raise ``SomeFailed`` when one of the results so far has failed."""
        failed = sum(values.get("status") == "failed" for values in self._results)
        if failed or self._left_out:
            of = len(self._results) + self._left_out
            raise SomeFailed(
                f"{failed + self._left_out} of {of} failed, see above; what is done stays done"
            )

    def print_json(self, values: dict[str, Any]) -> None:
        """Print a JSON object as one line on stdout; NaN and infinity become null."""
        import orjson

        form = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        try:
            line = orjson.dumps(values, default=_plain, option=form)
        except orjson.JSONEncodeError:  # a file name is no valid Unicode
            line = orjson.dumps(valid_unicode(values), default=_plain, option=form)
        self.write(line)

    def print_path(self, output: object) -> None:
        """Print the path of an output on stdout, with the bytes that the file system has.

        With ``--json`` nothing is printed: the JSON object of the result holds the path.
        """
        if output and not self.as_json:
            self.write(os.fsencode(str(output)))

    def write(self, line: bytes) -> None:
        """Write a line on stdout; where stdout is the terminal of the bars, above these.

        When the program that reads stdout has closed it, lines are dropped and the work goes on.
        """
        with self.display.lock:
            if self.display.has_bars and _is_one_terminal():
                self._print(Text(printable(os.fsdecode(line))))
                return
            try:
                sys.stdout.buffer.write(line + b"\n")
                sys.stdout.flush()
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL on Windows
                    raise
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def at_work(self, name: str) -> AbstractContextManager[None]:
        """Show, while the context is open, that the command of this name is at work."""
        return self.display.at_work(name)

    def track(self, description: str, total: float | None) -> AbstractContextManager[Bar]:
        """Show the progress of a task; see ``histocli.base.progress.Track``."""
        return self.display.track(description, total)

    def _wrapped(self, message: str) -> str:
        """Break a message between words where a terminal would break it within one.

        A word that is longer than a line, such as a path, stays whole, so that it can be copied.
        """
        if not self.console.is_terminal:
            return message
        width = self.console.width
        return textwrap.fill(message, width, break_long_words=False, break_on_hyphens=False)

    def _print(self, what: RenderableType, **options: Any) -> None:
        with self.display.lock:
            self.console.print(what, **options)
            self.display.spoke()

    def _list_files(self, values: dict[str, Any]) -> None:
        """Name the files of a result that are not named on stdout."""
        files = (values.get("outputs") or {}).values()
        named = None if self.as_json else values.get("output")
        for file in files or ([values["output"]] if values.get("output") else ()):
            if file != named:
                self.say(f"wrote {file}")


def _is_one_terminal() -> bool:
    """Tell whether stdout and stderr are the same terminal."""
    try:
        one, other = os.fstat(sys.stdout.fileno()), os.fstat(sys.__stderr__.fileno())  # type: ignore[union-attr]
        return os.isatty(sys.stdout.fileno()) and os.path.samestat(one, other)
    except (AttributeError, OSError, ValueError):  # a stream that is no file
        return False


class ScreenHandler(logging.Handler):
    """Sends log records to the screen: warnings unless quiet, INFO with -v, DEBUG with -vv.

    Records of other packages and Python's warnings appear with -vv only, because a user cannot act
    on them. Errors appear with -q, too. Of warnings that differ only in their arguments, such as
    file names, the first is shown and the others are counted.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record as one line, if the verbosity of the screen asks for its level."""
        ours = record.name == "histocli" or record.name.startswith("histocli.")
        levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
        lowest = levels.get(self._screen.verbosity, logging.DEBUG)
        if record.levelno < lowest or (not ours and self._screen.verbosity < 2):
            return
        try:
            message = record.getMessage()
            if record.levelno == logging.WARNING:
                # "%s" alone forwards messages of errors, which differ from one to the next
                sort = message if record.msg == "%s" else f"{record.name} {record.msg}"
                self._screen.warn(message, sort)
            elif record.levelno > logging.WARNING:
                self._screen.complain(message, kind=record.levelname.lower())
            else:
                self._screen.say(message)
        except Exception:
            self.handleError(record)


def _plain(value: Any) -> Any:
    """Return an object that orjson cannot encode, such as a path, as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
