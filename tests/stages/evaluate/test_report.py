"""The report of real scores: what is on the page, what is refused, and that names are only names.

The images of test_evaluate: three with a handful of square nuclei, predictions shifted by 0, 1 and
2 pixels.
"""

import numpy as np
import pytest
import tifffile
from PIL import Image

from histocli.cli.app import run
from histocli.figures.report import MARK
from histocli.stages.evaluate import drawn, pairs, pictures
from histocli.stages.evaluate.drawn import find_pictures
from histocli.stages.evaluate.scores import short_names
from histocli.stores.labels import LabelStore
from tests.stages.evaluate.test_run import (  # noqa: F401
    folders,
    prediction_of,
    truth_of,
    write_label_store,
    write_patch_store,
)

NASTY = "<script>alert('x')</script>&\"quoted\".tif".replace("/", "\u2215")


def page_of(words, target):
    assert run(["evaluate", *words, "--html", str(target), "-q"]) == 0
    return target.read_text(encoding="utf-8")


def test_the_page_of_one_prediction(folders, tmp_path, capsys):
    target = tmp_path / "out" / "report.html"
    target.parent.mkdir()
    page = page_of(folders, target)
    assert capsys.readouterr().out == f"{target}\n"
    assert MARK in page[:200]
    for heading in (
        "Scores",
        "Kinds of error",
        "All scores",
        "Distributions",
        "Worst images",
        "Best images",
        "Images",
        "Where this comes from",
    ):
        assert f">{heading}</h2>" in page
    assert page.count("<img ") == 3
    assert "Calibration" not in page
    assert str(folders[0]) in page


def test_the_same_scores_give_the_same_page(folders, tmp_path):
    one, two = (page_of(folders, tmp_path / name) for name in ("a.html", "b.html"))
    assert one == two
    workers = page_of([*folders, "--workers", "3"], tmp_path / "c.html")
    assert one == workers


def test_names_of_files_are_text(tmp_path):
    """The worst that a file system takes."""
    for folder, make in (("p", prediction_of), ("t", truth_of)):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / NASTY, make(1))
        tifffile.imwrite(tmp_path / folder / "b.tif", make(2))
    page = page_of([str(tmp_path / "p"), str(tmp_path / "t")], tmp_path / "r.html")
    assert page.count("<script") == 1
    assert "alert(&#39;x&#39;)" in page


def test_models_beside_each_other_with_pictures_and_groups(folders, tmp_path):
    (tmp_path / "perfect").mkdir()
    (tmp_path / "images").mkdir()
    for index, name in enumerate("abc"):
        tifffile.imwrite(tmp_path / "perfect" / f"{name}.tif", truth_of(index))
        Image.fromarray(np.full((40, 48, 3), 77, np.uint8)).save(
            tmp_path / "images" / f"{name}.png"
        )
    (tmp_path / "t.csv").write_text("truth,group\ntruth/a.tif,g1\ntruth/b.tif,g1\ntruth/c.tif,g2\n")
    words = [
        folders[0],
        str(tmp_path / "perfect"),
        "--truth",
        str(tmp_path / "t.csv"),
        "--images",
        str(tmp_path / "images"),
    ]
    page = page_of(words, tmp_path / "r.html")
    for text in (
        "mean · prediction",
        "mean · perfect",
        "fewer than six independent ones",
        "perfect minus prediction",
        "By group · perfect",
    ):
        assert text in page
    assert 'href="#picture-0">' in page.split(">Images · prediction</h2>")[1]
    # two worst images as both predictions have them; the third is the same for both
    assert page.count("<img ") == 4


def test_a_store_shows_calibration_and_provenance(folders, tmp_path):
    write_label_store(
        tmp_path / "b.ome.zarr",
        prediction_of(1),
        probability=np.linspace(0.1, 0.9, 5, dtype=np.float32),
    )
    page = page_of([str(tmp_path / "b.ome.zarr"), f"{folders[1]}/b.tif"], tmp_path / "r.html")
    assert "Calibration of probability" in page
    assert "Provenance of" in page


def test_patch_stores_bring_their_pictures_and_are_shown(tmp_path):
    labels = np.stack([np.pad(truth_of(i), ((0, 8), (0, 0))) for i in range(3)])
    write_patch_store(tmp_path / "synth.zarr", labels)
    store = str(tmp_path / "synth.zarr")
    page = page_of([store, store, "--show", store], tmp_path / "r.html")
    assert ">Patches</h2>" in page
    assert "labelled patches" in page


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("r.txt", None, 2, "ends in .html"),
        ("r.html", "<p>somebody else's</p>", 4, "no report of histosynth"),
        ("r.html", MARK, 4, "--overwrite"),
    ],
)
def test_what_lies_there_is_left_alone(folders, tmp_path, capsys, name, content, code, said):
    target = tmp_path / name
    if content is not None:
        target.write_text(content)
    assert run(["evaluate", *folders, "--html", str(target)]) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1  # refused before any work
    assert content is None or target.read_text() == content
    if content == MARK:
        assert run(["evaluate", *folders, "--html", str(target), "--overwrite", "-q"]) == 0


@pytest.mark.parametrize("option", ["--images", "--show"])
def test_what_is_not_there_is_said_before_any_work(folders, tmp_path, capsys, option):
    assert (
        run(
            [
                "evaluate",
                *folders,
                "--html",
                str(tmp_path / "r.html"),
                option,
                str(tmp_path / "nowhere"),
            ]
        )
        == 3
    )
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_dry_run_writes_nothing(folders, tmp_path):
    assert run(["evaluate", *folders, "--html", str(tmp_path / "r.html"), "--dry-run"]) == 0
    assert not (tmp_path / "r.html").exists()


def test_a_gate_fails_after_the_report_is_there(folders, tmp_path):
    assert (
        run(["evaluate", *folders, "--html", str(tmp_path / "r.html"), "--min", "pq=0.99", "-q"])
        == 7
    )
    assert (tmp_path / "r.html").exists()


def test_a_slide_is_never_read_whole_for_its_picture(folders, tmp_path, monkeypatch):
    """With a few pixels counting as large: the square with most mistakes, read with a margin."""
    for name, make in (("p", prediction_of), ("t", truth_of)):
        write_label_store(tmp_path / f"{name}.ome.zarr", make(2))
    for module in (pairs, drawn):
        monkeypatch.setattr(module, "LARGE_PX", 9)
    for module in (pairs, drawn, pictures):
        monkeypatch.setattr(module, "SQUARE_PX", 16)
    monkeypatch.setattr(LabelStore, "labels", lambda *_: pytest.fail("read whole"))
    page = page_of(
        [str(tmp_path / "p.ome.zarr"), str(tmp_path / "t.ome.zarr")], tmp_path / "r.html"
    )
    assert "the part with most mistakes" in page
    assert page.count("<img ") == 1


def test_short_names_tell_apart():
    assert short_names(["x/a", "y/b"]) == ["a", "b"]
    assert short_names(["x/a", "y/a"]) == ["x/a", "y/a"]


def test_pictures_by_stem(tmp_path):
    for name in ("a.png", "b.jpg", "z.png"):
        (tmp_path / name).write_bytes(b"")
    found = find_pictures(str(tmp_path), ["a", "b", "c"])
    assert {name: path.name for name, path in found.items()} == {"a": "a.png", "b": "b.jpg"}
