"""The commands with their real stages: in a chain, on bad input, interrupted, and on a full disk.

Two small pieces of the tissue image that scikit-image bundles, eight patches of 64 px and a
training of two steps: enough for every path, too little for a good model.
"""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import orjson
import pytest
import tifffile
import zarr

from histocli.cli.app import run
from histocli.cli.console import Screen
from histocli.metrics.counts import count
from tests.tissue import make_tissue

GENERATE = "--n 8 --patch-px 64 --mpp 0.5 --reference-mpp 0.5 --device cpu --workers 1 -q".split()
TRAIN = "--steps 2 --batch 2 --crop-px 32 --device cpu --precision fp32 --workers 1 -q".split()
REFINE = "--steps 2 --batch 2 --no-weights --device cpu --precision fp32 --workers 1 -q".split()
SEGMENT = ["--device", "cpu", "--precision", "fp32", "--workers", "1", "--mpp", "0.5", "-q"]


@pytest.fixture(scope="module")
def tissue():
    from skimage.data import immunohistochemistry

    return immunohistochemistry()


@pytest.fixture(scope="module")
def house(tmp_path_factory, tissue):
    """``images/`` with two pieces, ``synth.zarr`` and ``model.safetensors`` made from them; tests
    copy what they change."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "images").mkdir()
    for index in range(2):
        piece = np.ascontiguousarray(tissue[200 * index : 200 * index + 128, :160])
        imagecodecs.imwrite(str(folder / "images" / f"piece_{index}.png"), piece)
    assert (
        run(["generate", str(folder / "images"), "-o", str(folder / "synth.zarr"), *GENERATE]) == 0
    )
    assert (
        run(["train", str(folder / "synth.zarr"), "-o", str(folder / "model.safetensors"), *TRAIN])
        == 0
    )
    return folder


@pytest.fixture
def words(house, tmp_path):
    """The words of each command, writing into an empty folder."""
    images, store, model = (
        str(house / "images"),
        str(house / "synth.zarr"),
        str(house / "model.safetensors"),
    )
    return {
        "generate": ["generate", images, "-o", str(tmp_path / "a.zarr"), *GENERATE],
        "refine": ["refine", store, "-o", str(tmp_path / "r.zarr"), *REFINE],
        "train": ["train", store, "-o", str(tmp_path / "m.safetensors"), *TRAIN],
        "segment": ["segment", images, "--model", model, "-o", str(tmp_path / "out"), *SEGMENT],
    }


def one_error(capsys, code: int, arguments: list[str], *said: str) -> None:
    """The command ends with this code and one line that says these things."""
    capsys.readouterr()
    assert run(arguments) == code
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, shown.err
    assert "Traceback" not in shown.err
    for word in said:
        assert word in errors[0]


def test_the_chain_from_images_to_scores(house, words, tmp_path, capsys):
    assert run([*words["segment"], "--format", "ome-zarr,tiff,overlay", "--json"]) == 0
    results = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(result["output"]).name for result in results] == [
        "piece_0.ome.zarr",
        "piece_1.ome.zarr",
    ]
    assert {(result["status"], result["mpp"], result["error"]) for result in results} == {
        ("done", 0.5, None)
    }
    names = {
        "piece_0.ome.zarr",
        "piece_0.tif",
        "piece_0.overlay.png",
        "piece_1.ome.zarr",
        "piece_1.tif",
        "piece_1.overlay.png",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} >= names

    assert run(["evaluate", str(tmp_path / "out"), str(tmp_path / "out"), "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["mean"]["pq"] == 1

    assert (
        run(
            [
                "segment",
                str(house / "synth.zarr"),
                *words["segment"][2:5],
                str(tmp_path / "patches"),
                *SEGMENT[:-3],
                "-q",
            ]
        )
        == 0
    )
    assert (
        run(["evaluate", str(tmp_path / "patches"), str(house / "synth.zarr"), "--json", "-q"]) == 0
    )
    scores = orjson.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(scores["images"]) == 8


def test_a_second_run_skips_and_prints_the_same(house, words, capsys):
    for verb in ("generate", "refine", "train", "segment"):
        assert run(words[verb]) == 0
        first = capsys.readouterr().out
        assert run([*words[verb], "--json"]) == 0
        assert all(
            orjson.loads(line)["status"] == "skipped"
            for line in capsys.readouterr().out.splitlines()
        )
        assert run(words[verb]) == 0
        assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("verb", "change"),
    [
        ("generate", ["--seed", "1"]),
        ("refine", ["--seed", "1"]),
        ("train", ["--seed", "1"]),
        ("segment", ["--mpp", "0.6"]),
    ],
)
def test_other_settings_do_not_replace_what_is_there(words, capsys, verb, change):
    assert run(words[verb]) == 0
    one_error(capsys, 4, [*words[verb], *change], "--overwrite")
    assert run([*words[verb], *change, "--overwrite"]) == 0


@pytest.mark.parametrize("verb", ["generate", "refine", "train", "segment"])
def test_a_dry_run_writes_nothing(words, tmp_path, capsys, verb):
    assert run([*words[verb], "--dry-run", "--json"]) == 0
    assert all(
        orjson.loads(line)["status"] == "planned" for line in capsys.readouterr().out.splitlines()
    )
    assert list(tmp_path.iterdir()) == []


def test_stores_and_models_are_described(house, capsys, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert (
        run(["info", str(house / "synth.zarr"), "--sheet", str(sheet), "--sheet-patches", "2"]) == 0
    )
    shown = capsys.readouterr()
    assert shown.out == f"{sheet}\n"
    assert imagecodecs.imread(str(sheet)).ndim == 3
    assert "piece_0.png" in shown.err
    assert run(["info", str(house / "model.safetensors"), "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["kind"] == "model"


def test_refined_patches_train_a_segmenter(house, words, tmp_path, capsys):
    assert (
        run([*words["refine"], "--json", "--refs", str(house / "images"), "--reference-mpp", "0.5"])
        == 0
    )
    result = orjson.loads(capsys.readouterr().out)
    assert (result["schema"], result["status"], result["patches"]) == (
        "histosynth.refine/1",
        "done",
        8,
    )
    assert run(["train", str(tmp_path / "r.zarr"), *words["train"][2:]]) == 0


def test_unlabelled_references_adapt_a_model(house, words, capsys):
    more = [
        "--init",
        str(house / "model.safetensors"),
        "--refs",
        str(house / "images"),
        "--reference-mpp",
        "0.5",
        "--not-shippable",
    ]
    assert run([*words["train"], *more, "--json"]) == 0
    result = orjson.loads(capsys.readouterr().out)
    assert (result["schema"], result["status"], result["shippable"]) == (
        "histosynth.train/1",
        "done",
        False,
    )
    assert result["rounds"][0]["round"] == 1
    assert result["effective_share"] == 1
    assert result["failed"] == []


@pytest.fixture
def box(house, tmp_path, monkeypatch):
    """A box that holds the model of the house."""
    folder = tmp_path / "box"
    folder.mkdir()
    shutil.copy(house / "model.safetensors", folder / "tiny.safetensors")
    digest = hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest()
    entry = {
        "name": "tiny",
        "file": "tiny.safetensors",
        "sha256": digest,
        "description": "for tests",
    }
    (folder / "models.json").write_bytes(orjson.dumps({"default": "tiny", "models": [entry]}))
    monkeypatch.setattr("histocli.stores.box.WEIGHTS", folder)
    return folder


def test_the_model_in_the_box_segments_without_being_named(box, house, words, tmp_path, capsys):
    images = str(house / "images")
    assert run(["segment", images, "-o", str(tmp_path / "out"), *SEGMENT]) == 0
    assert run(["segment", images, "--model", "tiny", "-o", str(tmp_path / "named"), *SEGMENT]) == 0
    assert run([*words["segment"][: -len(SEGMENT)], *SEGMENT]) == 0
    capsys.readouterr()
    one_error(
        capsys,
        2,
        ["segment", images, "--model", "huge", "-o", str(tmp_path / "x"), *SEGMENT],
        "huge",
        "tiny",
    )
    one_error(
        capsys,
        3,
        ["segment", images, "--model", "gone.safetensors", "-o", str(tmp_path / "x"), *SEGMENT],
        "gone.safetensors",
    )


def test_the_shipped_model_finds_nuclei_that_it_has_never_seen(tmp_path):
    """Dark ellipses on pink, made here: far from its patches, and every one is found."""
    made = make_tissue(192)
    imagecodecs.imwrite(str(tmp_path / "made.png"), made.image)
    assert (
        run(
            [
                "segment",
                str(tmp_path / "made.png"),
                "-o",
                str(tmp_path / "out"),
                "--format",
                "tiff",
                *SEGMENT,
            ]
        )
        == 0
    )
    found = tifffile.imread(tmp_path / "out" / "made.tif").astype(np.int32)
    assert abs(int(found.max()) - int(made.labels.max())) <= 2
    assert count(made.labels, found).aji > 0.85


def test_models_are_listed_found_and_verified(box, capsys):
    file = str(box / "tiny.safetensors")
    for words in (["list"], ["path"], ["path", "tiny"], ["verify"], []):
        assert run(["models", *words]) == 0
        assert capsys.readouterr().out == f"{file}\n"
    assert run(["models", "verify", "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert (found["schema"], found["name"], found["default"], found["verified"]) == (
        "histosynth.models/1",
        "tiny",
        True,
        True,
    )
    (box / "tiny.safetensors").write_bytes(b"\0" * 100)
    one_error(capsys, 3, ["models", "verify"], "tiny.safetensors")
    one_error(capsys, 2, ["models", "burn"], "list, path, verify")


def test_pipes_carry_paths(house, words, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{house / 'synth.zarr'}\n"))
    assert run(["refine", "-", *words["refine"][2:]]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r.zarr'}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{house / 'synth.zarr'}\n"))
    assert run(["train", "-", *words["train"][2:]]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm.safetensors'}\n"


# -------------------------------------------------------------------------------------------------
# bad input


def odd_images(tissue) -> dict[str, bytes]:
    """Files that are images, each odd in its way."""
    piece = np.ascontiguousarray(tissue[:96, :96])
    opaque = np.dstack([piece, np.full(piece.shape[:2], 255, np.uint8)])
    return {
        "grey.png": imagecodecs.png_encode(np.ascontiguousarray(piece[..., 0])),
        "rgba.png": imagecodecs.png_encode(opaque),
        "deep.png": imagecodecs.png_encode(piece.astype(np.uint16) * 257),
        "white.png": imagecodecs.png_encode(np.full((96, 96, 3), 255, np.uint8)),
        "black.png": imagecodecs.png_encode(np.zeros((96, 96, 3), np.uint8)),
        "pixel.png": imagecodecs.png_encode(np.full((1, 1, 3), 128, np.uint8)),
        "thin.png": imagecodecs.png_encode(np.ascontiguousarray(piece[:3])),
    }


def broken_images(tissue) -> dict[str, bytes]:
    """Files that cannot be read."""
    whole = imagecodecs.png_encode(np.ascontiguousarray(tissue[:96, :96]))
    return {
        "empty.png": b"",
        "text.png": b"this is no image",
        "truncated.png": whole[: len(whole) // 2],
    }


def test_odd_images_are_segmented(house, words, tissue, tmp_path, capsys):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, content in odd_images(tissue).items():
        (folder / name).write_bytes(content)
    assert run(["segment", str(folder), *words["segment"][2:], "--format", "tiff"]) == 0
    for path in folder.iterdir():
        labels = tifffile.imread(tmp_path / "out" / f"{path.stem}.tif")
        assert labels.shape == imagecodecs.imread(str(path)).shape[:2]


def test_odd_references_give_patches_or_one_line(words, tissue, tmp_path, capsys):
    for name, content in odd_images(tissue).items():
        (tmp_path / name).write_bytes(content)
        code = run(
            ["generate", str(tmp_path / name), "-o", str(tmp_path / f"{name}.zarr"), *GENERATE]
        )
        shown = capsys.readouterr().err
        assert code in (0, 3), shown
        assert "Traceback" not in shown


def test_broken_images_are_exit_3_or_5(words, tissue, tmp_path, capsys, house):
    (tmp_path / "broken").mkdir()
    for name, content in broken_images(tissue).items():
        (tmp_path / "broken" / name).write_bytes(content)
        for verb in ("generate", "segment"):
            one_error(capsys, 3, [verb, str(tmp_path / "broken" / name), *words[verb][2:]], name)
    mixed = [str(house / "images" / "piece_0.png"), str(tmp_path / "broken")]
    assert run(["segment", *mixed, *words["segment"][2:], "--on-error", "continue", "--json"]) == 5
    statuses = [orjson.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    assert statuses == ["done", "failed", "failed", "failed"]


def test_missing_and_empty_inputs_are_exit_3(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    for verb in ("generate", "segment"):
        one_error(capsys, 3, [verb, str(tmp_path / "nowhere"), *words[verb][2:]], "nowhere")
        one_error(capsys, 3, [verb, str(tmp_path / "empty"), *words[verb][2:]], "empty", ".png")
        one_error(capsys, 3, [verb, "-", *words[verb][2:]], "no input")
    one_error(
        capsys, 3, ["train", str(tmp_path / "nowhere.zarr"), *words["train"][2:]], "nowhere.zarr"
    )
    one_error(capsys, 3, ["info", str(tmp_path / "nowhere.zarr")], "nowhere.zarr")


def test_a_tiff_of_unknown_pixel_size_names_the_flag(words, tissue, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "t.tif", np.ascontiguousarray(tissue[:96, :96]), photometric="rgb")
    without = [word for word in words["segment"][2:] if word not in ("--mpp", "0.5")]
    one_error(capsys, 3, ["segment", str(tmp_path / "t.tif"), *without], "t.tif", "--mpp")


def test_segment_without_a_model_names_the_flag_where_the_box_is_empty(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("histocli.stores.box.WEIGHTS", tmp_path)
    at = words["segment"].index("--model")
    one_error(capsys, 2, words["segment"][:at] + words["segment"][at + 2 :], "--model")


def test_a_pickle_is_no_model(words, tmp_path, capsys):
    import torch

    torch.save({"weight": torch.zeros(2)}, tmp_path / "m.pt")
    at = words["segment"].index("--model") + 1
    one_error(
        capsys,
        3,
        [*words["segment"][:at], str(tmp_path / "m.pt"), *words["segment"][at + 1 :]],
        "m.pt",
    )


def spoil_contract(store: Path) -> None:
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace("histosynth-patches/1", "histosynth-patches/99"))


def spoil_completeness(store: Path) -> None:
    text = (store / "zarr.json").read_text()
    assert '"complete": true' in text
    (store / "zarr.json").write_text(text.replace('"complete": true', '"complete": false'))


def spoil_metadata(store: Path) -> None:
    (store / "zarr.json").write_text((store / "zarr.json").read_text()[:100])


def spoil_pixels(store: Path) -> None:
    for path in (store / "image").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.write_bytes(path.read_bytes()[:-200])


def spoil_by_removal(store: Path) -> None:
    shutil.rmtree(store / "instance_labels")


def spoil_identity(store: Path) -> None:
    (store / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_contract,
        spoil_completeness,
        spoil_metadata,
        spoil_pixels,
        spoil_by_removal,
        spoil_identity,
    ],
)
def test_spoilt_stores_are_exit_3(house, words, tmp_path, capsys, spoil):
    store = tmp_path / "spoilt.zarr"
    shutil.copytree(house / "synth.zarr", store)
    spoil(store)
    one_error(capsys, 3, ["train", str(store), *words["train"][2:]], "spoilt.zarr")
    one_error(capsys, 3, ["info", str(store)], "spoilt.zarr")


def test_labels_that_do_not_match_are_exit_3(house, tmp_path, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    for index in range(2):
        tifffile.imwrite(labels / f"piece_{index}.tif", np.zeros((128, 160 - index), np.uint16))
    out = str(tmp_path / "a.zarr")
    one_error(
        capsys,
        3,
        ["pack", str(house / "images"), str(labels), "-o", out, "--patch-px", "64", "--mpp", "0.5"],
        "piece_1",
    )
    (labels / "piece_1.tif").unlink()
    one_error(
        capsys,
        3,
        ["pack", str(house / "images"), str(labels), "-o", out, "--patch-px", "64", "--mpp", "0.5"],
        "piece_1",
    )


# -------------------------------------------------------------------------------------------------
# interruption


class _Tap:
    """A bar that calls ``action`` at its first advance."""

    def __init__(self, bar, action):
        self.bar, self.action = bar, action

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.bar.advance(steps, note)
        action, self.action = self.action, None
        if action is not None:
            action()


def tap_progress(monkeypatch, wanted: str, action) -> None:
    """Call ``action`` once a task whose description holds ``wanted`` makes its first step."""
    track = Screen.track

    @contextmanager
    def tapped(self, description, total):
        with track(self, description, total) as bar:
            yield _Tap(bar, action) if wanted in description else bar

    monkeypatch.setattr(Screen, "track", tapped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    ("verb", "wanted", "more"),
    [
        ("generate", "drawing", ["--n", "100"]),
        ("train", "training", ["--steps", "4"]),
        ("segment", "segment", []),
    ],
)
def test_interrupted_commands_go_on_where_they_were(
    words, tmp_path, monkeypatch, capsys, verb, wanted, more, number
):
    with monkeypatch.context() as patch:
        tap_progress(patch, wanted, lambda: os.kill(os.getpid(), number))
        assert run([*words[verb], *more]) == 75
        shown = capsys.readouterr()
        assert len([line for line in shown.err.splitlines() if line.startswith("stopped: ")]) == 1
        assert "Traceback" not in shown.err
    assert run([*words[verb], *more]) == 0
    capsys.readouterr()
    assert run([*words[verb], *more, "--json"]) == 0
    assert all(
        orjson.loads(line)["status"] == "skipped" for line in capsys.readouterr().out.splitlines()
    )


@contextmanager
def files_of_at_most(n_bytes: int):
    """Make every write beyond this size fail, the way it does on a full disk."""
    resource = pytest.importorskip(
        "resource", reason="no limit on the size of files on this system"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("verb", ["generate", "refine", "train", "segment"])
def test_a_full_disk_is_exit_6_and_loses_nothing_earlier(words, capsys, verb):
    with files_of_at_most(4096):
        one_error(capsys, 6, words[verb])
    assert run([*words[verb], "--resume"]) == 0


def test_priors_come_from_a_model_on_the_command_line(house, tmp_path, capsys):
    out = tmp_path / "second.zarr"
    arguments = ["generate", str(house / "images"), "-o", str(out), *GENERATE]
    assert run([*arguments, "--priors", str(house / "model.safetensors")]) == 0
    assert zarr.open_group(out, mode="r").attrs["histosynth"]["config"]["priors"] == str(
        house / "model.safetensors"
    )
    capsys.readouterr()
    one_error(
        capsys,
        3,
        [*arguments, "--overwrite", "--priors", str(tmp_path / "none.safetensors")],
        "none.safetensors",
    )


def test_an_empty_word_is_no_output(tmp_path, monkeypatch):
    """``-o "$UNSET"`` must not write into the working folder."""
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "histocli", "segment", "a.png", "-o", "", "--mpp", "0.25"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "empty word" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="closes file descriptors by a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&-"])
def test_closed_streams_are_no_errors(tmp_path, closed):
    out = tmp_path / "models.txt"
    script = f'exec "$0" -m histocli models list {closed}'
    with out.open("wb") as stream:
        done = subprocess.run(["sh", "-c", script, sys.executable], stdout=stream, check=False)
    assert done.returncode == 0
