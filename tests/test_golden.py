"""Golden numbers: the five commands on tissue made in code give what they gave at commit c1a6d78.

The numbers are those that a user reads: nuclei drawn and found, the area that was looked at, the
loss of a short training, the scores of the model that comes with the package. They were made with
the commands below in float32 on a processor; the tolerances leave room for another processor's
rounding, not for another method. When a method changes on purpose, its numbers here change with it.

    refs/0.png, refs/1.png    make_tissue(240, 0.25, seed=0 and 1), 16 nuclei each
"""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from histocli.cli.app import run
from histocli.stores.patches import PatchStore
from tests.tissue import make_tissue

NUCLEI_DRAWN = 47  # in the twelve patches
COVERAGE = 0.375  # share of the pixels that are nucleus
COLOUR = (198.9, 117.2, 216.9)  # mean red, green and blue of the patches
LOSS = 1.618  # mean of twelve steps
NUCLEI_FOUND = [16, 16]  # as many as there are
LOOKED_AT_MM2 = 0.0072
SCORES = {"dice": 0.9971, "aji": 0.9942, "pq": 0.9942, "f1": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """References with their truth, and a store of patches after them."""
    folder = tmp_path_factory.mktemp("golden")
    for name in ("refs", "truth"):
        (folder / name).mkdir()
    for seed in range(2):
        tissue = make_tissue(240, 0.25, seed=seed)
        Image.fromarray(tissue.image).save(folder / f"refs/{seed}.png")
        tifffile.imwrite(folder / f"truth/{seed}.tif", tissue.labels.astype(np.uint16))
    words = "-o {0}/synth.zarr --n 12 --patch-px 64 --mpp 0.25 --seed 1 -q"
    assert run(["generate", str(folder / "refs"), *words.format(folder).split()]) == 0
    return folder


def told(capsys, *words):
    """Run a command and return the JSON objects that it prints."""
    assert run([*map(str, words), "--json", "-q"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_patches(folder):
    store = PatchStore.open(folder / "synth.zarr")
    images, labels = store.read(range(12))
    assert sum(int(each.max()) for each in labels) == pytest.approx(NUCLEI_DRAWN, abs=1)
    assert (labels > 0).mean() == pytest.approx(COVERAGE, abs=0.005)
    assert images.reshape(-1, 3).mean(axis=0) == pytest.approx(COLOUR, abs=0.5)


def test_training(folder, capsys):
    words = "--steps 12 --batch 4 --crop-px 32 --precision fp32 --device cpu".split()
    out = folder / "model.safetensors"
    (result,) = told(capsys, "train", folder / "synth.zarr", "-o", out, *words)
    assert result["loss"] == pytest.approx(LOSS, abs=0.01)


def test_nuclei_and_scores_of_the_model_in_the_box(folder, capsys):
    words = "--model S --format tiff --mpp 0.25 --precision fp32 --device cpu".split()
    results = told(capsys, "segment", folder / "refs", "-o", folder / "found", *words)
    assert [result["nuclei"] for result in results] == pytest.approx(NUCLEI_FOUND, abs=1)
    assert sum(result["mm2"] for result in results) == pytest.approx(LOOKED_AT_MM2, rel=1e-3)
    (scores,) = told(capsys, "evaluate", folder / "found", folder / "truth", "--mpp", 0.25)
    found = {name: scores["mean"][name] for name in SCORES}
    assert found == pytest.approx(SCORES, abs=0.01)
