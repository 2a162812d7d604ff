"""Progress for a terminal, for a log file, and for nobody."""

import logging
import threading
import warnings

import pytest
from rich.console import Console

from histocli.base.text import printable
from histocli.cli import bars
from histocli.cli.app import _logging_to
from histocli.cli.bars import clock
from histocli.cli.console import Screen


@pytest.fixture
def screen():
    """A screen that is not a terminal, with its text in ``console.file``."""
    import io

    made = Screen()
    made.console = Console(file=io.StringIO(), width=80, soft_wrap=True, highlight=False)
    return made


def text_of(screen: Screen) -> str:
    return screen.console.file.getvalue()


def test_a_pipe_gets_a_line_at_the_end(screen):
    with screen.track("drawing", 40) as bar:
        for _ in range(40):
            bar.advance()
    assert text_of(screen).startswith("drawing: 40 of 40 (100%) in 0 s")


@pytest.fixture
def now(monkeypatch):
    """The time that the display sees, in seconds; a test sets ``now[0]``."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_lines_at_intervals(screen, now):
    with screen.track("training", 4) as bar:
        for _ in range(4):
            now[0] += 6
            bar.advance(note="loss 0.5")
    lines = text_of(screen).splitlines()
    assert lines[0] == "training: 2 of 4 (50%), loss 0.5, 12 s left"
    assert lines[-1] == "training: 4 of 4 (100%), loss 0.5 in 24 s"
    assert len(lines) == 3


def test_a_task_of_unknown_length_counts(screen):
    with screen.track("reading", None) as bar:
        bar.advance(3)
    assert "reading: 3 in" in text_of(screen)


def test_quiet_shows_nothing(screen):
    screen.configure(as_json=False, verbose=0, quiet=True)
    with screen.track("drawing", 1) as bar:
        bar.advance()
    screen.say("hello")
    screen.table("t", ("a",), [("b",)])
    assert text_of(screen) == ""
    screen.complain("but errors are shown")
    assert "error: but errors are shown" in text_of(screen)


def test_a_terminal_gets_bars_also_nested_and_from_threads(screen):
    screen.console = Console(file=screen.console.file, force_terminal=True, width=100)
    with screen.track("slides [/]", 2) as outer, screen.track("tiles", 8) as inner:
        threads = [threading.Thread(target=inner.advance, args=(2, "busy")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outer.advance()
        screen.display._bars.refresh()
    shown = text_of(screen)
    assert "slides [/]" in shown
    assert "100%" in shown
    assert "busy" in shown
    assert not screen.display.has_bars


def test_bars_close_when_the_task_fails(screen):
    screen.console = Console(file=screen.console.file, force_terminal=True, width=100)
    with pytest.raises(ZeroDivisionError), screen.track("drawing", 2):
        raise ZeroDivisionError
    assert not screen.display.has_bars


def test_foreign_text_is_shown_as_it_is(screen):
    screen.table("t", ("name", "value"), [("[red]a.tif[/red]", "\x1b[31m")])
    screen.say("[link=x]b.tif")
    shown = text_of(screen)
    assert "[red]a.tif[/red]" in shown
    assert "\x1b" not in shown
    assert "[link=x]b.tif" in shown


def test_control_characters_do_not_break_the_line():
    assert printable("a\nb\x1b[2Jc\udce9") == "a\\nb\\x1b[2Jc\\udce9"
    assert printable("Größe µm") == "Größe µm"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-1, {"fail"}),
        (0, {"fail", "warn"}),
        (1, {"fail", "warn", "decide"}),
        (2, {"fail", "warn", "decide", "detail", "foreign"}),
    ],
)
def test_what_is_said_at_which_verbosity(screen, verbosity, shown):
    screen.verbosity = verbosity
    ours = logging.getLogger("histocli.stages.fake")
    with _logging_to(screen):
        ours.error("fail")
        ours.warning("warn")
        ours.info("decide")
        ours.debug("detail")
        logging.getLogger("tifffile").warning("foreign")
    assert {
        word for word in ("fail", "warn", "decide", "detail", "foreign") if word in text_of(screen)
    } == shown


def test_warnings_of_others_do_not_reach_the_user(screen):
    with _logging_to(screen), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("internals", stacklevel=1)
    assert text_of(screen) == ""


def test_an_amount_of_work_is_a_percentage(screen):
    with screen.track("segment", 1.0) as bar:
        bar.advance(0.25)
        bar.advance(0.5, "a.svs")
    assert text_of(screen).startswith("segment: 75%, a.svs in 0 s")


class Beats:
    """An event that is over after some beats, each of which takes seconds of a made-up time."""

    def __init__(self, now, beats, seconds):
        self.now, self.left, self.seconds = now, beats, seconds

    def wait(self, _):
        self.left -= 1
        self.now[0] += self.seconds
        return self.left < 0


def test_a_command_is_never_silent_for_long(now, screen):
    """First without a task, then with one that does not move."""
    screen.display._name = "refine"
    screen.display._beat(Beats(now, 25, 1.0))
    assert text_of(screen).splitlines() == ["refine: at work for 10 s", "refine: at work for 20 s"]
    with screen.track("judging", None):
        screen.display._beat(Beats(now, 12, 1.0))
        assert text_of(screen).splitlines()[2:] == ["judging for 4 s"]  # 10 s after the last line


def test_a_quiet_command_stays_silent(now, screen):
    screen.verbosity = -1
    screen.display._name = "refine"
    screen.display._beat(Beats(now, 60, 1.0))
    assert text_of(screen) == ""


def test_a_terminal_shows_the_command_where_no_task_does(now, screen):
    screen.console = Console(file=screen.console.file, force_terminal=True, width=80)
    screen.display._name = "refine"
    screen.display._beat(Beats(now, 3, 1.0))
    try:
        assert screen.display.has_bars
        screen.display._bars.refresh()
        assert "refine" in text_of(screen)
    finally:
        screen.display._close_bars()


def test_one_warning_for_many_of_a_kind(screen):
    ours = logging.getLogger("histocli.stages.fake")
    with _logging_to(screen):
        for name in ("a", "b", "c"):
            ours.warning("%s.png: records no pixel size", name)
        ours.warning("another")
    screen.conclude()
    assert text_of(screen).splitlines() == [
        "warning: a.png: records no pixel size",
        "warning: another",
        "warning: 2 more like the first of them: a.png: records no pixel size",
    ]


def test_errors_that_are_passed_on_as_warnings_are_all_shown(screen):
    with _logging_to(screen):
        for name in ("a", "b"):
            logging.getLogger("histocli.stages.fake").warning("%s", f"{name}.png: is damaged")
    screen.conclude()
    assert text_of(screen).count("damaged") == 2


def test_all_warnings_are_shown_when_asked(screen):
    screen.verbosity = 1
    with _logging_to(screen):
        for name in ("a", "b"):
            logging.getLogger("histocli.stages.fake").warning("%s.png: no", name)
    screen.conclude()
    assert text_of(screen).splitlines() == ["warning: a.png: no", "warning: b.png: no"]


def test_lines_on_a_terminal_end_between_words(screen):
    screen.console = Console(
        file=screen.console.file, force_terminal=True, width=20, soft_wrap=True
    )
    path = "a/path/that/is/longer/than/the/line.zarr"
    screen.say(f"some words and {path}")
    assert text_of(screen).splitlines() == ["some words and", path]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (200, "3:20"), (7500, "2:05:00")]
)
def test_stopwatch(seconds, text):
    assert bars.stopwatch(seconds) == text
