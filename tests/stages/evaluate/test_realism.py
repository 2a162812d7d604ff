"""Realism of a small store against real tissue that scikit-image carries: the command, its JSON and
its errors."""

from functools import partial

import numpy as np
import orjson
import pytest
import skimage.data
from PIL import Image

from histocli.base.errors import InputNotFound
from histocli.cli.app import run
from histocli.stages.evaluate import realism
from histocli.stages.shared.references import recorded_references
from histocli.stores.patches import PatchStore
from histocli.training.two_sample import TwoSampleSchedule
from tests.stages.evaluate.test_run import truth_of, write_patch_store


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Four quarters of one image as references, and a store of 16 patches drawn after them."""
    folder = tmp_path_factory.mktemp("realism")
    (folder / "refs").mkdir()
    tissue = skimage.data.immunohistochemistry()
    for k, (y, x) in enumerate(((0, 0), (0, 256), (256, 0), (256, 256))):
        Image.fromarray(tissue[y : y + 256, x : x + 256]).save(folder / "refs" / f"{k}.png")
    words = [
        "generate",
        str(folder / "refs"),
        "-o",
        str(folder / "s.zarr"),
        "--n",
        "16",
        "--patch-px",
        "64",
        "--workers",
        "1",
        "-q",
    ]
    assert run(words) == 0
    return folder


def test_a_store_is_judged(material, capsys, monkeypatch):
    # the rest is as it is
    monkeypatch.setattr(realism, "TwoSampleSchedule", partial(TwoSampleSchedule, steps=8, batch=4))
    capsys.readouterr()
    words = [
        "evaluate",
        "--realism",
        str(material / "s.zarr"),
        "--refs",
        str(material / "refs"),
        "--realism-patches",
        "16",
    ]
    assert run([*words, "--workers", "1", "--json"]) == 0
    shown = capsys.readouterr()
    values = orjson.loads(shown.out)
    assert values["schema"] == "histosynth.realism/1"
    assert (values["synthetic"], values["images"]) == (16, 4)
    keys = {
        "auc",
        "kid_named",
        "kid_random",
        "stain",
        "texture",
        "spectrum",
        "morphology_area",
        "own_reference",
        "memorisation",
    }
    assert keys <= set(values["measures"])
    for each in values["measures"].values():
        assert each["meaning"]
        assert each["ci95"][0] <= each["value"] <= each["ci95"][1] or each["name"].startswith("AUC")
    assert "memorisation" in shown.err
    assert run([*words, "--dry-run"]) == 0
    assert "would judge" in capsys.readouterr().err


def test_recorded_references_are_taken_when_none_are_named(material):
    store = PatchStore.open(material / "s.zarr")
    assert sorted(image.path.name for image in recorded_references(store)) == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
    ]


def test_what_cannot_be_judged(material, tmp_path, capsys):
    capsys.readouterr()
    store = str(material / "s.zarr")
    assert run(["evaluate", "--realism", store, "--refs", str(material / "refs" / "0.png")]) == 3
    assert "at least two images" in capsys.readouterr().err
    assert (
        run(["evaluate", "--realism", str(tmp_path / "no.zarr"), "--refs", str(material / "refs")])
        == 3
    )
    write_patch_store(
        tmp_path / "p.zarr", np.stack([np.pad(truth_of(i), ((0, 8), (0, 0))) for i in range(3)])
    )
    with pytest.raises(InputNotFound, match="name them with --refs"):
        recorded_references(PatchStore.open(tmp_path / "p.zarr"))
    assert run(["evaluate", "--realism", store, "--realism-patches", "2"]) == 2
