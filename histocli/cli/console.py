"""Output of the command line: results on stdout; messages, tables and progress on stderr.

Progress is shown as bars on a terminal, as plain lines at intervals where stderr is a pipe or file,
and not at all with ``-q``. Text such as file names is never read as Rich markup, and its control
characters are escaped, so that a message stays one line.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from histocli.base.errors import InvalidOption, SomeFailed
from histocli.base.progress import Bar, silent
from histocli.base.text import printable, valid_unicode

LINE_INTERVAL_S = 10.0  # least seconds between two lines of progress, where stderr is no terminal
REFRESH_PER_S = 4  # drawings of the progress bars a second; each takes time from the workers


class Result(Protocol):
    """The result of a stage, such as one output that was made, skipped or failed."""

    def to_json(self) -> dict[str, Any]:
        """Return schema, output, status, seconds, error and further facts of the result."""


def clock(seconds: float) -> str:
    """Return a duration as text: ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _RichBar:
    """A progress bar on a terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar by ``steps``; any thread may call this."""
        if note:
            self._progress.update(self._task, advance=steps, note=printable(note))
        else:
            self._progress.advance(self._task, steps)


class _LineBar:
    """Progress as lines of text, at most one in ``LINE_INTERVAL_S`` seconds, for log files."""

    def __init__(self, screen: "Screen", description: str, total: int | None) -> None:
        self._screen, self._description, self._total = screen, description, total
        self._done, self._note, self._lock = 0, "", threading.Lock()
        self._start = self._last = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps``, and print a line if the interval is over; any thread may call this."""
        with self._lock:
            self._done += steps
            self._note = note or self._note
            now = time.monotonic()
            if now - self._last < LINE_INTERVAL_S:
                return
            self._last = now
            left = ""
            if self._total and self._done:
                seconds = (now - self._start) * (self._total - self._done) / self._done
                left = f", {clock(seconds)} left"
            self._screen.say(self._line() + left)

    def close(self) -> None:
        """Print the last line, with the duration of the task."""
        self._screen.say(f"{self._line()} in {clock(time.monotonic() - self._start)}")

    def _line(self) -> str:
        done = str(self._done)
        if self._total:
            done += f" of {self._total} ({self._done / self._total:.0%})"
        return f"{self._description}: {done}" + (f", {self._note}" if self._note else "")


class Screen:
    """Stdout and stderr of one run of the command line, and the count of failed results."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.as_json = False
        self.verbosity = 0  # -1 with ``-q``, 0 by default, 1 with ``-v``, 2 with ``-vv``
        self._progress: Progress | None = None
        self._open_bars = 0
        self._failed = self._seen = 0

    def configure(self, *, as_json: bool, verbose: int, quiet: bool) -> None:
        """Set the amount and the form of the output; ``verbose`` counts the options ``-v``."""
        if verbose and quiet:
            raise InvalidOption("-v/--verbose says more and -q/--quiet less; give one of them")
        self.as_json = as_json
        self.verbosity = -1 if quiet else verbose

    def say(self, message: str) -> None:
        """Print a message as one line on stderr, unless quiet."""
        if self.verbosity >= 0:
            self.console.print(Text(printable(message)))

    def complain(self, message: str, *, kind: str = "error") -> None:
        """Print an error or a warning as one line on stderr, also when quiet."""
        style = {"error": "bold red", "warning": "bold yellow"}.get(kind, "bold")
        self.console.print(Text.assemble((f"{kind}: ", style), printable(message)))

    def show(self, table: Table) -> None:
        """Print a table on stderr, unless quiet."""
        if self.verbosity >= 0:
            self.console.print(table, soft_wrap=False)

    def table(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        numbers_from: int = 1,
    ) -> None:
        """Print a table on stderr; columns from ``numbers_from`` on hold numbers, aligned right."""
        table = Table(title=Text(printable(title)), title_justify="left", show_header=any(header))
        for i, name in enumerate(header):
            side: JustifyMethod = "right" if i >= numbers_from else "left"
            table.add_column(Text(name), justify=side, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(str(cell))) for cell in row))
        self.show(table)

    def result(self, result: Result) -> None:
        """Print one result of a stage on stdout: its path, or with --json the whole result."""
        values = result.to_json()
        output, error = values.get("output"), values.get("error")
        name = str(output or values.get("input") or "")
        self._seen += 1
        for lost in values.get("failed") or ():  # inputs without which the output was made
            self._failed += 1
            self._seen += 1
            self.complain(f"{lost}: left out, see above")
        if self.as_json:
            self.print_json(values)
        match values.get("status"):
            case "failed":
                self._failed += 1
                self.complain(str(error or f"{name} failed"))
            case "planned":
                self.say(f"would write {name}")
            case "skipped":
                self.say(f"{name} is complete and was made with these settings: nothing to do")
                self.print_path(output)
            case _:
                self.print_path(output)

    def raise_if_any_failed(self) -> None:
        """Raise ``SomeFailed`` when one of the results so far has failed."""
        if self._failed:
            raise SomeFailed(
                f"{self._failed} of {self._seen} failed, see above; what is done stays done"
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
        """Write a line on stdout.

        When the program that reads stdout has closed it, lines are dropped and the work goes on.
        """
        try:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.flush()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL on Windows
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[Bar]:
        """Show the progress of a task; see ``histocli.base.progress.Track``."""
        description = printable(description)
        if self.verbosity < 0:
            with silent(description, total) as bar:
                yield bar
        elif self.console.is_terminal:
            progress = self._progress or self._new_progress()
            if not self._open_bars:
                progress.start()
            self._progress, self._open_bars = progress, self._open_bars + 1
            try:
                yield _RichBar(progress, progress.add_task(description, total=total, note=""))
            finally:
                self._open_bars -= 1
                if not self._open_bars:
                    progress.stop()
                    self._progress = None
        else:
            lines = _LineBar(self, description, total)
            yield lines
            lines.close()

    def _new_progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            refresh_per_second=REFRESH_PER_S,
        )


class ScreenHandler(logging.Handler):
    """Sends log records to the screen: warnings unless quiet, INFO with -v, DEBUG with -vv.

    Records of other packages and Python's warnings appear with -vv only, because a user cannot act
    on them. Errors appear with -q, too.
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
            kind = record.levelname.lower() if record.levelno >= logging.WARNING else ""
            if kind:
                self._screen.complain(message, kind=kind)
            else:
                self._screen.say(message)
        except Exception:
            self.handleError(record)


def _plain(value: Any) -> Any:
    """Return an object that orjson cannot encode, such as a path, as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
