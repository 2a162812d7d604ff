"""The last line of a command."""

import pytest

from histocli.cli.app import run
from histocli.cli.endings import ending
from tests.cli.conftest import FakeResult


def made(verb: str, output: str, status: str = "done", **more: object) -> dict[str, object]:
    return {"schema": f"histosynth.{verb}/1", "output": output, "status": status, **more}


X = made("segment", "out/x.ome.zarr", nuclei=2317, mm2=0.8123, input="x.svs")
Y = made("segment", "out/y.ome.zarr", nuclei=1, mm2=0.2, input="y.svs")


@pytest.mark.parametrize(
    ("results", "line"),
    [
        ([], None),
        ([made("segment", "out/x", "planned")], None),
        ([made("segment", "out/x", "failed")], None),
        ([made("tea", "cup")], None),
        ([X], "2,317 nuclei on 0.812 mm2 in 9 s -> out/x.ome.zarr"),
        ([X, Y], "2,318 nuclei on 1.01 mm2 of 2 images in 9 s -> out/"),
        (
            [X, Y | {"status": "skipped"}],
            "2,317 nuclei on 0.812 mm2 in 9 s -> out/x.ome.zarr (1 more were there already)",
        ),
        (
            [X | {"status": "skipped"}, Y | {"status": "skipped"}],
            "all 2 are complete and were made with these settings: nothing to do -> out/",
        ),
        (
            [made("generate", "a.zarr", patches=1, nuclei=20, references=3)],
            "1 patch with 20 nuclei like 3 references in 9 s -> a.zarr",
        ),
        (
            [made("refine", "r.zarr", patches=2000, steps=None)],
            "2,000 patches refined in 9 s -> r.zarr",
        ),
        (
            [made("refine", "r.zarr", patches=2, steps=1200)],
            "2 patches refined after 1,200 steps in 9 s -> r.zarr",
        ),
        (
            [made("train", "m.safetensors", patches=20, steps=300, held_out=None)],
            "300 steps on 20 patches in 9 s -> m.safetensors",
        ),
        (
            [made("train", "m.safetensors", patches=20, steps=300, held_out={"aji": 0.613})],
            "300 steps on 20 patches, AJI 0.61 on held-out synthetic ones, in 9 s -> m.safetensors",
        ),
        (
            [made("pack", "l.zarr", patches=4, nuclei=9, images=1)],
            "4 patches with 9 nuclei of 1 image in 9 s -> l.zarr",
        ),
        (  # one store in two formats holds its nuclei once
            [
                made("export", "f/x.csv", nuclei=9, input="x.ome.zarr"),
                made("export", "f/x.geojson.gz", nuclei=9, input="x.ome.zarr"),
            ],
            "2 files with 9 nuclei in 9 s -> f/",
        ),
    ],
)
def test_the_last_line_says_what_was_made(results, line):
    assert ending(results, 9.2) == line


def test_outputs_in_several_folders_share_their_parent():
    results = [X | {"output": "all/a/x.zarr"}, Y | {"output": "all/b/y.zarr"}]
    assert ending(results, 1).endswith("-> all/")
    results[1]["output"] = "elsewhere/y.zarr"
    assert ending(results, 1).endswith("-> ./")


def test_the_last_line_goes_to_stderr_once(stages, capsys):
    results = [FakeResult(more=X), FakeResult(more=Y)]
    stages.answer = results
    assert run(["segment", "slides", "-o", "out"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out/x.ome.zarr\nout/y.ome.zarr\n"
    assert shown.err.splitlines() == ["2,318 nuclei on 1.01 mm2 of 2 images in 0 s -> out/"]
    assert run(["segment", "slides", "-o", "out", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_all_files_are_named_when_asked(stages, capsys):
    files = {"ome-zarr": "out/x.ome.zarr", "geojson": "out/x.geojson.gz"}
    stages.answer = [FakeResult(more=X | {"outputs": files})]
    assert run(["segment", "slides", "-o", "out", "-v"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out/x.ome.zarr\n"
    assert "wrote out/x.geojson.gz" in shown.err
    assert "wrote out/x.ome.zarr" not in shown.err
    assert run(["segment", "slides", "-o", "out", "-v", "--json"]) == 0
    assert "wrote out/x.ome.zarr" in capsys.readouterr().err
