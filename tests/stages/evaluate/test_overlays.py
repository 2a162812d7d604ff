"""Overlays of ``evaluate``: one picture an image, coloured by what became of each nucleus."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from histocli.cli.app import run
from histocli.exports.registry import read_record
from histocli.figures.colours import LINE, graded
from histocli.figures.fates import COLOURS
from tests.stages.evaluate.test_run import folders, prediction_of, truth_of, write_label_store  # noqa: F401


def pictures(folder):
    found = sorted(folder.rglob("*.overlay.png"))
    return {
        str(path.relative_to(folder)): imagecodecs.png_decode(path.read_bytes()) for path in found
    }


def colours_in(image):
    return {tuple(int(each) for each in pixel) for pixel in image.reshape(-1, 3)}


def test_every_image_shows_matched_and_missed_nuclei(folders, tmp_path, capsys):
    lost = prediction_of(2)
    lost[lost == lost.max()] = 0
    tifffile.imwrite(f"{folders[0]}/c.tif", lost)
    words = ["evaluate", *folders, "--overlays", str(tmp_path / "o"), "-q"]
    assert run(words) == 0
    printed = capsys.readouterr().out.splitlines()
    shown = pictures(tmp_path / "o")
    assert set(shown) == {"a.overlay.png", "b.overlay.png", "c.overlay.png"}
    assert sorted(printed) == sorted(str(tmp_path / "o" / name) for name in shown)
    assert COLOURS["matched"] in colours_in(shown["a.overlay.png"])
    assert COLOURS["missed"] not in colours_in(shown["a.overlay.png"])  # equal to the truth
    assert COLOURS["missed"] in colours_in(shown["c.overlay.png"])
    assert read_record(tmp_path / "o" / "a.overlay.png")["config"]["colour"] == "verdict"

    assert run(words) == 4
    assert "--overwrite" in capsys.readouterr().err
    assert run([*words, "--overwrite", "--colour", "one", "--thickness", "3"]) == 0
    again = pictures(tmp_path / "o")
    assert tuple(LINE[0]) in colours_in(again["a.overlay.png"])
    assert COLOURS["matched"] not in colours_in(again["a.overlay.png"])


def test_each_of_several_predictions_has_a_folder(folders, tmp_path):
    (tmp_path / "perfect").mkdir()
    for index, name in enumerate("abc"):
        tifffile.imwrite(tmp_path / "perfect" / f"{name}.tif", truth_of(index))
    words = [folders[0], str(tmp_path / "perfect"), "--truth", folders[1]]
    assert run(["evaluate", *words, "--overlays", str(tmp_path / "o"), "-q"]) == 0
    assert len(pictures(tmp_path / "o")) == 6
    assert (tmp_path / "o" / "perfect" / "a.overlay.png").exists()


def test_pictures_of_others_are_left_alone_and_a_dry_run_draws_nothing(folders, tmp_path, capsys):
    words = ["evaluate", *folders, "--overlays", str(tmp_path / "o"), "-q"]
    assert run([*words, "--dry-run"]) == 0
    assert not (tmp_path / "o").exists()
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "b.overlay.png").write_bytes(b"mine")
    assert run([*words, "--overwrite"]) == 4
    assert "not drawn by evaluate" in capsys.readouterr().err
    assert pictures_left(tmp_path / "o") == {"b.overlay.png": b"mine"}


def pictures_left(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("colour", ["id", "area"])
def test_predictions_by_id_and_area(folders, tmp_path, colour):
    words = ["evaluate", *folders, "--overlays", str(tmp_path / colour), "--colour", colour, "-q"]
    assert run(words) == 0
    image = pictures(tmp_path / colour)["b.overlay.png"]
    line = (prediction_of(1) > 0) & (image != 236).any(-1)
    assert line.any()


def test_predictions_by_probability_where_a_store_records_it(folders, tmp_path, capsys):
    chances = np.linspace(0.5, 1.0, len(np.unique(prediction_of(1))) - 1, dtype=np.float32)
    write_label_store(tmp_path / "b.ome.zarr", prediction_of(1), probability=chances)
    words = [str(tmp_path / "b.ome.zarr"), f"{folders[1]}/b.tif", "--colour", "probability"]
    assert run(["evaluate", *words, "--overlays", str(tmp_path / "o"), "-q"]) == 0
    shown = colours_in(pictures(tmp_path / "o")["b.overlay.png"])
    for end in graded(np.array([0.5, 1.0]), 0.5, 1.0):
        assert tuple(int(each) for each in end) in shown
    words = ["evaluate", *folders, "--overlays", str(tmp_path / "p"), "--colour", "probability"]
    assert run(words) == 3
    assert "records no probabilities" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(folders, capsys):
    assert run(["evaluate", *folders, "--images", "x"]) == 2
    assert "--overlays" in capsys.readouterr().err
    assert run(["evaluate", *folders, "--overlays", "o", "--colour", "pink"]) == 2
    assert run(["evaluate", *folders, "--overlays", "o", "--thickness", "0"]) == 2
