"""What a person sees on a terminal, drawn by a small terminal of our own.

A command with a fake stage runs in a process whose stdout and stderr are one terminal, or whose
stdout is a pipe.
"""

import os
import re
import select
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")  # Unix only

FAKE = """
import sys, time, types
from tests.cli.conftest import FakeResult
def segment(*words, track, report, **more):
    X = {"schema": "histosynth.segment/1", "nuclei": 10, "mm2": 0.1}
    with track("segment", 5.0) as bar:
        for i in range(5):
            time.sleep(%(pause)s)
            bar.advance(0.5, f"slide_{i}.svs with a long name that no terminal has room for")
            report(FakeResult(output=f"out/slide_{i}.ome.zarr", more=X))
            bar.advance(0.5)
    return []
module = types.ModuleType("s"); module.segment = segment
sys.modules["histocli.stages.segment.run"] = module
from histocli.cli.app import run
sys.exit(run(["segment", "s", "-o", "o", *sys.argv[1:]]))
"""
CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Terminal:
    """Lines of text that a stream of bytes leaves on a terminal of so many columns."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.row, self.column = columns, [""], 0, 0

    def write(self, text: str) -> None:
        """Draw characters; of the control sequences, those that Rich sends."""
        at = 0
        while at < len(text):
            if found := CONTROL.match(text, at):
                self._control(*found.groups())
                at = found.end()
                continue
            self._draw(text[at])
            at += 1

    def _control(self, numbers: str, letter: str) -> None:
        if letter == "A":
            self.row = max(0, self.row - int(numbers or 1))
        elif letter == "K":
            self.lines[self.row] = "" if numbers == "2" else self.lines[self.row][: self.column]

    def _draw(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        else:
            if self.column == self.columns:
                self._down()
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def shown(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self.lines if line.strip()]


def on_terminal(code: str, *words: str, columns: int = 80, piped: bool = False, **variables: str):
    """Run code in a terminal; return what is on it at the end, all that was sent, and stdout."""
    main, child = pty.openpty()
    environment = {key: each for key, each in os.environ.items() if key != "NO_COLOR"}
    environment |= {"TERM": "xterm", "COLUMNS": str(columns), **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=child,
        stdout=subprocess.PIPE if piped else child,
        stderr=child,
        env=environment,
    )
    os.close(child)
    terminal, sent = Terminal(columns), b""
    while select.select([main], [], [], 60)[0]:
        try:
            part = os.read(main, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        sent += part
    out = process.stdout.read() if piped else b""
    if piped:
        process.stdout.close()
    assert process.wait(60) == 0, sent
    os.close(main)
    terminal.write(sent.decode())
    return terminal.shown, sent.decode(), out


RESULTS = [f"out/slide_{i}.ome.zarr" for i in range(5)]


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_results_stand_above_the_bar_and_never_in_it(columns):
    shown, sent, _ = on_terminal(FAKE % {"pause": 0.3}, columns=columns)
    assert shown[:5] == RESULTS
    assert re.fullmatch(r"50 nuclei on 0.5 mm2 of 5 images in \d s -> out/", shown[5])
    assert len(shown) == 6  # the bars are gone
    drawn = [line for line in CONTROL.sub("", sent).splitlines() if "━" in line]
    assert drawn
    assert all(len(part.strip()) <= columns for line in drawn for part in line.split("\r"))
    assert any("%" in line and "left" in line for line in drawn)
    noted = "slide_1" in sent.replace("out/slide_1", "")
    assert noted == (columns > 60)  # on 60 columns there is no room for notes


def test_results_in_a_pipe_leave_the_terminal_to_the_bar():
    shown, _, out = on_terminal(FAKE % {"pause": 0.3}, piped=True)
    assert out.decode().splitlines() == RESULTS
    assert len(shown) == 1


def test_json_lines_stay_whole_on_a_narrow_terminal():
    shown, _, _ = on_terminal(FAKE % {"pause": 0.3}, "--json", columns=60)
    text = "".join(shown)
    assert text.count('"status":"done"') == 5
    assert text.count('"output":"out/slide_3.ome.zarr"') == 1


def test_without_colours_there_is_none():
    """Bold and dim text are no colours; a number from 30 on is one."""

    def colours(sent: str) -> list[str]:
        codes = [each for each in CONTROL.findall(sent) if each[1] == "m"]
        return [part for numbers, _ in codes for part in numbers.split(";") if int(part or 0) > 29]

    _, coloured, _ = on_terminal(FAKE % {"pause": 0.3})
    _, plain, _ = on_terminal(FAKE % {"pause": 0.3}, NO_COLOR="1")
    assert colours(coloured)
    assert not colours(plain)


def test_a_dumb_terminal_gets_lines():
    shown, sent, _ = on_terminal(FAKE % {"pause": 0}, TERM="dumb")
    assert "\x1b" not in sent
    assert "segment: 100%" in "\n".join(shown)
