"""Help that can be read and copied: a sentence, an example that runs, panels, real placeholders."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from typer.main import get_command

from histocli.cli.app import COMMANDS, app, run
from histocli.config.options import PANELS

COMMAND_OF = get_command(app).commands
TINY = {
    "N": "8",
    "PATCH_PX": "64",
    "STEPS": "2",
    "BATCH": "2",
    "CROP_PX": "32",
    "WEIGHTS": "0",
    "BOOTSTRAP": "10",
    "DEVICE": "cpu",
    "WORKERS": "1",
}


@pytest.fixture
def shown(capsys, monkeypatch):
    """Return the help of a command on a terminal of so many columns."""

    def show(verb: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run([verb, "-h"]) == 0
        return capsys.readouterr().out

    return show


def test_all_examples_run_in_order(tmp_path, monkeypatch, capsys):
    """With real tissue in the folders that the examples name, and settings of a small run."""
    from skimage.data import immunohistochemistry

    tissue = immunohistochemistry()
    labels = np.zeros((96, 96), np.int32)
    labels[20:40, 20:40], labels[60:70, 50:80] = 1, 2
    for index in range(2):
        piece = np.ascontiguousarray(tissue[200 * index : 200 * index + 96, :96])
        for folder in ("refs", "slides", "images"):
            (tmp_path / folder).mkdir(exist_ok=True)
            imagecodecs.imwrite(str(tmp_path / folder / f"piece_{index}.png"), piece)
        for folder in ("truth", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"piece_{index}.tif", labels)
    monkeypatch.chdir(tmp_path)
    for name, value in TINY.items():
        monkeypatch.setenv(f"HISTOSYNTH_{name}", value)
    made = set()
    for function in COMMANDS:
        program, verb, *words = shlex.split(function.example)
        assert (program, verb) == ("histosynth", function.__name__)
        code = run([verb, *words])
        assert code == 0, (function.example, capsys.readouterr().err)
        made |= set(capsys.readouterr().out.split())
    assert {"synth.zarr", "refined.zarr", "model.safetensors", "labelled.zarr"} <= made
    assert "out/piece_0.ome.zarr" in made
    assert "files/piece_1.csv" in made


@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_help_begins_with_a_sentence_and_an_example(shown, function):
    lines = shown(function.__name__, 100).splitlines()
    assert lines[0].startswith(f"Usage: histosynth {function.__name__}")
    assert lines[2][0].isupper()
    assert f"  {function.example}" in lines[4:8]


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("verb", COMMAND_OF)
def test_help_fits_the_terminal(shown, verb, columns):
    """All but the example, which is one line so that it can be copied."""
    text = shown(verb, columns)
    for line in text.splitlines():
        assert len(line) <= columns or line.strip() == COMMAND_OF[verb].callback.example
    words = " ".join(text.replace("│", " ").split())
    for each in COMMAND_OF[verb].params:
        for flag in each.opts if each.param_type_name == "option" else ():
            assert flag in words


def test_panels_have_one_order_everywhere(shown):
    for verb in COMMAND_OF:
        headings = [
            line.split("─ ")[1].split(" ─")[0]
            for line in shown(verb).splitlines()
            if line.startswith("╭")
        ]
        kinds = [each.param_type_name for each in COMMAND_OF[verb].params]
        first = ["Arguments"] if "argument" in kinds else []
        assert headings == [*first, *(name for name in PANELS if name in headings)]
    assert len(headings) < len(PANELS)  # the last command has no settings


def test_every_panel_has_options():
    panels = {each.rich_help_panel for each in COMMAND_OF["train"].params if each.envvar}
    assert panels == set(PANELS)


def test_placeholders_say_what_a_value_is():
    for verb, parser in COMMAND_OF.items():
        for each in parser.params:
            if each.param_type_name == "option" and not (each.is_flag or each.count):
                assert each.metavar not in (None, "TEXT", "INTEGER", "FLOAT"), (verb, each.name)


def test_environment_variables_are_shown(shown):
    text = shown("train", 200)
    for each in COMMAND_OF["train"].params:
        if getattr(each, "envvar", None):
            assert each.envvar in text


def test_the_budget_says_that_it_counts_anew(shown):
    words = " ".join(shown("train").replace("│", " ").split())
    assert "a command that goes on with an unfinished output has it anew" in words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segmnt"], "Did you mean 'segment'?"),
        (["segment", "a", "-o", "b", "--formt", "x"], "did you mean --format?"),
        (["train", "a", "-o", "m.safetensors", "--time-buget", "1m"], "did you mean --time-budget"),
    ],
)
def test_a_mistyped_name_gets_the_nearest_one(capsys, words, said):
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_name_like_no_other_gets_no_guess(capsys):
    assert run(["segment", "a", "-o", "b", "--xyzzy", "x"]) == 2
    assert "mean" not in capsys.readouterr().err


def test_a_mistyped_variable_gets_the_nearest_one(stages, monkeypatch, capsys):
    monkeypatch.setenv("HISTOSYNTH_PATCHPX", "64")
    assert run(["generate", "refs", "-o", "a.zarr"]) == 0
    shown = capsys.readouterr().err
    assert "HISTOSYNTH_PATCHPX" in shown
    assert "did you mean HISTOSYNTH_PATCH_PX?" in shown


SHELLS = ["bash", "zsh", "fish"]


def answer(**variables):
    """Return what the program prints when a shell asks it by environment variables."""
    words = [sys.executable, "-m", "histocli"]
    environment = os.environ | variables
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_completion_for_shells(shell):
    """The documentation says how to write this script where the shell finds it."""
    script = answer(_HISTOSYNTH_COMPLETE=f"source_{shell}")
    assert "_HISTOSYNTH_COMPLETE=complete_" in script or f"complete_{shell}" in script


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_reads(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(answer(_HISTOSYNTH_COMPLETE=f"source_{shell}"))
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("eva", {"evaluate"}),
        ("segment --dev", {"--device"}),
        ("segment a --device ", {"auto", "cpu", "cuda", "mps"}),
        ("export a --colour ", {"one", "id", "area", "probability"}),
    ],
)
def test_commands_flags_and_choices_are_completed(shell, typed, expected):
    words = f"histosynth {typed}"
    found = answer(
        _HISTOSYNTH_COMPLETE=f"complete_{shell}",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
        _TYPER_COMPLETE_ARGS=words,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    if shell == "zsh":  # a call of _arguments: each choice in quotes, with its help behind a colon
        offered = set(re.findall(r'^(?:_arguments.*\(\()?"([^":]+)"', found, re.MULTILINE))
    else:
        offered = {line.split("\t")[0] for line in found.splitlines()}
    assert offered == expected
