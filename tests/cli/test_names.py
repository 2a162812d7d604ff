"""Options with one name mean one thing on every command, or its help says why they are missing."""

import pytest
from typer.main import get_command

from histocli.cli.app import app, run
from histocli.config.common import Execution

SHARED = ("--resume", "--dry-run", "--json", "--config", "--overwrite")
COMMANDS_WITH_OUTPUT = (
    "generate",
    "refine",
    "train",
    "segment",
    "evaluate",
    "export",
    "pack",
    "info",
)


@pytest.mark.parametrize("verb", COMMANDS_WITH_OUTPUT)
def test_shared_options_are_there_or_their_absence_is_explained(verb):
    parser = get_command(app).commands[verb]
    flags = {flag for each in parser.params for flag in each.opts}
    for flag in SHARED:
        assert flag in flags or f"no {flag}" in parser.help, (verb, flag)


def test_models_has_no_output_and_none_of_them_but_json():
    parser = get_command(app).commands["models"]
    flags = {flag for each in parser.params for flag in each.opts}
    assert flags & set(SHARED) == {"--json"}


@pytest.mark.parametrize(
    ("words", "resume"), [([], None), (["--resume"], True), (["--no-resume"], False)]
)
@pytest.mark.parametrize("verb", ["generate", "refine", "train", "segment", "pack"])
def test_resume_reaches_every_stage_alike(stages, verb, words, resume):
    out = {"train": "m.safetensors", "segment": "out"}.get(verb, "a.zarr")
    inputs = ["a", "b"] if verb == "pack" else ["a"]
    run([verb, *inputs, "-o", out, *words])
    execution = next(each for each in stages.calls[0].arguments if isinstance(each, Execution))
    assert execution.resume is resume


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["train", "a.zarr", "-o", "x.pt"], "x.safetensors"),
        (["train", "a.zarr", "-o", "x"], "x.safetensors"),
        (["train", "a.zarr", "-o", "x.zarr"], "x.safetensors"),
        (["generate", "refs", "-o", "x"], "x.zarr"),
        (["generate", "refs", "-o", ""], "out.zarr"),
        (["train", "a.zarr", "-o", "/"], "out.safetensors"),
        (["refine", "a.zarr", "-o", "x.h5"], "x.zarr"),
        (["pack", "a", "b", "-o", "x.npz"], "x.zarr"),
        (["segment", "a.svs", "-o", "x.zarr"], "x"),
        (["segment", "a.svs", "-o", "x.geojson"], "x"),
        (["export", "a.ome.zarr", "-o", "x.csv"], "x"),
    ],
)
def test_outputs_of_another_kind_are_refused_with_a_name_that_fits(stages, capsys, words, name):
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert shown.rstrip().endswith(f"name it {name}")
    assert shown.count("\n") == 1
    assert not stages.calls


def test_a_folder_may_have_any_name_once_it_is_there(stages, tmp_path):
    (tmp_path / "run.csv").mkdir()
    stages.answer = []
    assert run(["segment", "a.svs", "-o", str(tmp_path / "run.csv")]) == 0
