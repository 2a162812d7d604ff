"""Progress as bars on a terminal and as lines of text elsewhere.

A terminal shows the bars of the running tasks below all that is printed; they vanish when the
command ends. A log file gets a line at intervals, and one when a task ends.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from histocli.base.progress import Bar, command_at_work, silent
from histocli.base.text import printable

BEAT_S = 0.5  # seconds between two looks at whether the display has been silent for too long
SILENT_S = 1.0  # seconds without a bar after which a terminal shows that the command is at work
LINE_INTERVAL_S = 10.0  # least seconds between two lines of progress, where stderr is no terminal
REFRESH_PER_S = 4  # drawings of the progress bars a second; each takes time from the workers
# For terminals of at least so many columns: widths of the description, of the bar and of the count.
# The widths of percentage and times are fixed, and the note has what is left.
LAYOUTS = ((120, 28, 30, 12), (90, 27, 15, 0), (70, 20, 10, 0), (0, 16, 8, 0))
TIMES_WIDTH = 20  # of "1:02:05, 1:30:00 left"
LEAST_NOTE = 12  # columns below which a note is left out


def clock(seconds: float) -> str:
    """Return a duration as text: ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def stopwatch(seconds: float) -> str:
    """Return a duration in few characters: ``0:45``, ``3:20`` or ``2:05:00``."""
    minutes, whole = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


class _Percentage(ProgressColumn):
    """The share that is done; nothing where the total is unknown."""

    def render(self, task: Task) -> Text:
        """Return the percentage."""
        return Text("" if task.total is None else f"{task.percentage:3.0f}%")


class _Count(ProgressColumn):
    """Things that are done and in all; nothing for an amount of work."""

    def render(self, task: Task) -> Text:
        """Return ``3/12``, or ``3`` where the total is unknown."""
        done = f"{task.completed:.0f}"
        if task.total is None:
            return Text(done if task.completed else "")
        return Text("" if isinstance(task.total, float) else f"{done}/{task.total}")


class _Times(ProgressColumn):
    """Elapsed and remaining time."""

    def render(self, task: Task) -> Text:
        """Return ``0:12, 0:45 left``."""
        shown = stopwatch(task.elapsed or 0)
        left = task.time_remaining
        if left is None and task.total and task.completed:  # too few steps to know the speed of now
            left = (task.elapsed or 0) * (task.total / task.completed - 1)
        if left is not None and not task.finished:
            shown += f", {stopwatch(left)} left"
        return Text(shown)


def _cell(width: int) -> Column:
    """Return a column whose text is cut where it is longer."""
    return Column(width=width, no_wrap=True, overflow="ellipsis")


class Bars(Progress):
    """The bars of all running tasks, laid out for the width that the terminal has at the moment."""

    def __init__(self, console: Console) -> None:
        self._terminal = console
        super().__init__(
            console=console,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
            redirect_stdout=False,  # results go to stdout as bytes; see ``Screen.write``
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the drawing of the tasks."""
        self.columns = _columns(self._terminal.width)
        yield self.make_tasks_table(self.tasks)


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Return the columns of the bars for a terminal of ``width`` columns."""
    _, name, bar, count = next(each for each in LAYOUTS if width >= each[0])
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=_cell(name)),
        BarColumn(bar),
        _Percentage(table_column=_cell(4)),
    ]
    if count:
        columns.append(_Count(table_column=_cell(count)))
    columns.append(_Times(table_column=_cell(TIMES_WIDTH)))
    used = name + bar + 4 + count + TIMES_WIDTH + len(columns)
    if width - used >= LEAST_NOTE:
        note = _cell(width - used)
        columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=note))
    return tuple(columns)


class RichBar:
    """A progress bar on a terminal."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Move the bar by ``steps``; any thread may call this."""
        if note:
            self._bars.update(self._task, advance=steps, note=printable(note))
        else:
            self._bars.advance(self._task, steps)


class LineBar:
    """Progress as lines of text, at most one in ``LINE_INTERVAL_S`` seconds, for log files.

    ``say`` prints a line. Any thread may move the bar: ``lock`` is that of all who print.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        description: str,
        total: float | None,
        lock: threading.RLock,
    ) -> None:
        self._lock = lock
        self._say, self._description, self._total = say, description, total
        self._done: float = 0
        self._note = ""
        self._start = self._last = time.monotonic()

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Count ``steps``, and print a line if the interval is over."""
        with self._lock:
            self._done += steps
            self._note = note or self._note
            if time.monotonic() - self._last >= LINE_INTERVAL_S:
                self.show()

    def show(self) -> None:
        """Print a line."""
        now = self._last = time.monotonic()
        line = self._line()
        if not self._total:
            line += f" for {clock(now - self._start)}"
        elif self._done:
            seconds = (now - self._start) * max(self._total - self._done, 0) / self._done
            line += f", {clock(seconds)} left"
        self._say(line)

    def close(self) -> None:
        """Print the last line, with the duration of the task."""
        self._say(f"{self._line()} in {clock(time.monotonic() - self._start)}")

    def _line(self) -> str:
        """Return the state of the task."""
        parts = []
        if isinstance(self._total, float) and self._total:
            parts.append(f"{self._done / self._total:.0%}")
        elif self._total:
            parts.append(f"{self._done:.0f} of {self._total} ({self._done / self._total:.0%})")
        elif self._done:
            parts.append(f"{self._done:.0f}")
        if self._note:
            parts.append(self._note)
        return f"{self._description}: {', '.join(parts)}" if parts else self._description


class Speaker(Protocol):
    """The screen, as far as a display needs it."""

    console: Console
    verbosity: int  # below 0 nothing is shown

    def say(self, message: str) -> None:
        """Print a message as one line on stderr."""


class Display:
    """The running tasks of a command, shown as bars or lines.

    ``lock`` is held by all who print. While a command is at work, it is never silent for long: a
    terminal has at least the bar of the command itself, and a log file gets a line every
    ``LINE_INTERVAL_S`` seconds.
    """

    def __init__(self, screen: Speaker) -> None:
        self.lock = threading.RLock()
        self._screen = screen
        self._bars: Bars | None = None
        self._own: TaskID | None = None  # the bar of the command, shown while no task has one
        self._lines: list[LineBar] = []  # of the open tasks, where stderr is no terminal
        self._open = 0  # tasks that have bars
        self._name: str | None = None  # of the command at work
        self._start = self._spoken = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._start

    @property
    def has_bars(self) -> bool:
        """Whether bars are on the terminal now."""
        return self._bars is not None

    def spoke(self) -> None:
        """Note that something was printed."""
        self._spoken = time.monotonic()

    @contextmanager
    def at_work(self, name: str) -> Iterator[None]:
        """Show that a command is at work while the context is open."""
        self._name, self._start = name, time.monotonic()
        self.spoke()
        over = threading.Event()
        beat = threading.Thread(target=self._beat, args=(over,), name="display", daemon=True)
        beat.start()
        try:
            with command_at_work():
                yield
        finally:
            over.set()
            beat.join()
            with self.lock:
                self._name = None
                self._close_bars()

    @contextmanager
    def track(self, description: str, total: float | None) -> Iterator[Bar]:
        """Show the progress of a task; see ``histocli.base.progress.Track``."""
        description = printable(description)
        if self._screen.verbosity < 0:
            with silent(description, total) as bar:
                yield bar
        elif self._is_terminal:
            yield from self._on_terminal(description, total)
        else:
            lines = LineBar(self._screen.say, description, total, self.lock)
            with self.lock:
                self._lines.append(lines)
            try:
                yield lines
                lines.close()
            finally:
                with self.lock:
                    self._lines.remove(lines)

    def _on_terminal(self, description: str, total: float | None) -> Iterator[Bar]:
        start = time.monotonic()
        with self.lock:
            bars = self._open_bars()
            self._open += 1
            if self._own is not None:
                bars.update(self._own, visible=False)
            task = bars.add_task(description, total=total, note="")
        try:
            yield RichBar(bars, task)
            if self._screen.verbosity > 0:
                self._screen.say(f"{description}: done in {clock(time.monotonic() - start)}")
        finally:
            with self.lock:
                self._open -= 1
                bars.remove_task(task)
                if not self._open and self._own is not None:
                    bars.update(self._own, visible=True)
                elif not self._open:
                    self._close_bars()

    @property
    def _is_terminal(self) -> bool:
        console = self._screen.console
        return console.is_terminal and not console.is_dumb_terminal

    def _open_bars(self) -> Bars:
        """Return the bars; put them on the terminal if they are not there."""
        if self._bars is None:
            self._bars = Bars(self._screen.console)
            if self._name is not None:
                self._own = self._bars.add_task(self._name, total=None, note="")
            self._bars.start()
        return self._bars

    def _close_bars(self) -> None:
        """Take the bars off the terminal."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._own = None

    def _beat(self, over: threading.Event) -> None:
        """Look now and then whether the command has been silent for too long."""
        while not over.wait(BEAT_S):
            if self._screen.verbosity < 0:
                continue
            with self.lock:
                silent_s = time.monotonic() - self._spoken
                if self._is_terminal:
                    if silent_s >= SILENT_S and self._name is not None:
                        self._open_bars()
                elif silent_s >= LINE_INTERVAL_S and self._lines:
                    self._lines[-1].show()
                elif silent_s >= LINE_INTERVAL_S:
                    self._screen.say(f"{self._name}: at work for {clock(self.seconds)}")
