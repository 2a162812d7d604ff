"""``train --hard``: crops are made harder while the segmenter learns."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image

from histocli.base.errors import InputNotFound, InvalidInput, InvalidOption, InvalidStore, Stopped
from histocli.base.rng import rng_for
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.refine import RefineConfig
from histocli.config.train import TrainConfig
from histocli.model.segmenter import build_segmenter
from histocli.stages.generate.run import generate
from histocli.stages.refine.run import refine
from histocli.stages.train import hard
from histocli.stages.train.run import train
from histocli.stores.logs import log_path
from histocli.stores.models import read_model
from histocli.stores.patches import PatchStore
from histocli.training.hard_refiner import RefinerAscent
from histocli.training.loop import Moment
from tests.stages.train.conftest import metrics
from tests.stages.train.conftest import run as run_small
from tests.tissue import make_tissue

MPP = 0.5
EXECUTION = Execution(device="cpu", precision="fp32", workers=1)
CONFIG = TrainConfig(steps=10, batch=4, crop_px=32, validation=0.25, hard="refiner")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard")
    (folder / "references").mkdir()
    for seed in range(3):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / "references" / f"{seed}.png")
    config = GenerateConfig(n=8, patch_px=64, mpp=MPP, reference_mpp=MPP)
    generate([str(folder / "references")], folder / "synth.zarr", config, EXECUTION)
    once = RefineConfig(steps=6, batch=2, proof=0, weights=False)
    refine(str(folder / "synth.zarr"), [], folder / "refined.zarr", once, EXECUTION)
    return folder


def run(folder, out, execution=EXECUTION, config=CONFIG, stop_after=None):
    return train([str(folder / "refined.zarr")], out, config, execution, stop_after=stop_after)


@pytest.mark.parametrize("targets", ["distance", "contact"])
def test_the_refiner_learns_along_and_its_crops_are_learnt(folder, tmp_path, monkeypatch, targets):
    made = []
    original = hard.RefinerAscent
    monkeypatch.setattr(
        hard,
        "RefinerAscent",
        lambda *given, **more: made.append(original(*given, **more)) or made[-1],
    )
    result = run(folder, tmp_path / "m.safetensors", config=replace(CONFIG, targets=targets))
    (ascent,) = made
    assert isinstance(ascent, RefinerAscent)
    # ten steps, two of them warm-up, one of the refiner for four of the segmenter
    assert ascent.training.step == 2
    assert ascent.training.moves == 2
    assert ascent.pool.filled == 2 * hard.REFINED_AT_ONCE
    before = hard.networks_of(PatchStore.open(folder / "refined.zarr"), 0).refiner.state_dict()
    after = ascent.training.networks.refiner.state_dict()
    assert any((before[name] != after[name]).any() for name in before)
    assert result.hard.keys() == {"patches", "loss", "aji", "change", "label_agreement"}
    assert 0 < result.hard["change"] < 1
    run(
        folder,
        tmp_path / "without.safetensors",
        config=replace(CONFIG, hard="none", targets=targets),
    )
    first, second = (
        read_model(tmp_path / name)[1] for name in ("m.safetensors", "without.safetensors")
    )
    assert any((first[name] != second[name]).any() for name in first)


def test_it_works_against_the_segmenter(folder, tmp_path, monkeypatch):
    """With all its weight on the segmenter's loss, steps of the refiner raise it; without, they do
    not as much."""
    gains = {}
    made = []
    original = RefinerAscent
    for ratio in (0.0, 50.0):
        keep = partial(
            lambda ratio, *given, **more: (
                made.append(original(*given, **more, ratio=ratio)) or made[-1]
            ),
            ratio,
        )
        monkeypatch.setattr(hard, "RefinerAscent", keep)
        run(folder, tmp_path / f"{ratio}.safetensors", config=replace(CONFIG, steps=5))
        ascent = made[-1]
        for group in ascent.training.optimizers["refiner"].param_groups:
            group["lr"] = 5e-3
        torch.manual_seed(0)
        segmenter = build_segmenter({"family": "unet", "channels": [4, 4]})
        rng = rng_for(0, "test")
        found = []
        for _ in range(12):
            ascent.move(segmenter, 1.0, Moment(rng, 1.0, torch.float32, measure=True))
            found.append(ascent.hardness)
        gains[ratio] = sum(each.after - each.before for each in found[6:]) / 6
    assert gains[50.0] > gains[0.0]


def test_a_stop_changes_nothing(folder, tmp_path):
    run(folder, tmp_path / "whole.safetensors")
    with pytest.raises(Stopped):
        run(folder, tmp_path / "cut.safetensors", stop_after=7)
    run(folder, tmp_path / "cut.safetensors", execution=replace(EXECUTION, resume=True))
    whole, cut = (
        read_model(tmp_path / name)[1] for name in ("whole.safetensors", "cut.safetensors")
    )
    assert all((whole[name] == cut[name]).all() for name in whole)


def test_what_it_needs_is_asked_for(folder, tmp_path):
    with pytest.raises(
        InvalidInput, match="--hard refiner goes on with the networks of a refined store"
    ):
        train([str(folder / "synth.zarr")], tmp_path / "m.safetensors", CONFIG, EXECUTION)
    shutil.copytree(folder / "refined.zarr", tmp_path / "alone" / "refined.zarr")
    with pytest.raises(
        InputNotFound,
        match=r"starts from the initial patches, but synth\.zarr does not lie beside it",
    ):
        run(tmp_path / "alone", tmp_path / "m.safetensors")
    config = RefineConfig(model=str(folder / "refined.zarr"), weights=False)
    refine(str(folder / "synth.zarr"), [], folder / "again.zarr", config, EXECUTION)
    with pytest.raises(InvalidStore, match="the store holds no realism, refiner, style"):
        train([str(folder / "again.zarr")], tmp_path / "m.safetensors", CONFIG, EXECUTION)


def test_hard_examples_change_what_is_learnt_and_are_reported(store, tmp_path):
    ordinary, hard = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run_small(store, ordinary, steps=25)
    result = run_small(store, hard, steps=25, hard="appearance", validation=0.3)
    (_, first), (_, second) = read_model(ordinary), read_model(hard)
    assert any((first[name] != second[name]).any() for name in first)
    assert result.hard.keys() == {"patches", "loss", "aji", "change", "label_agreement"}
    assert result.hard["loss"]["hard"] > result.hard["loss"]["ordinary"]
    assert result.hard["change"] > 0
    assert 0 <= result.hard["label_agreement"]["hard"] <= 1
    assert read_model(hard)[0].training["hard"] == result.hard
    assert any("hard" in line for line in metrics(hard))
    assert list(log_path(hard).rglob("hard.png"))
    assert run_small(store, tmp_path / "c.safetensors").hard is None
    with pytest.raises(InvalidOption, match="--hard"):
        TrainConfig(hard="style")
