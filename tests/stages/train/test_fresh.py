"""Patches drawn while training goes on are those that ``generate`` would have drawn next, whoever
is faster."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from histocli.base.distributed import Team
from histocli.base.errors import InputNotFound, InvalidInput, Stopped
from histocli.base.progress import silent
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.train import TrainConfig
from histocli.instances.targets import contacts, normalised_distance
from histocli.model.normalisation import glass_to_white
from histocli.stages.generate.run import generate
from histocli.stages.shared.references import patch_glass_levels
from histocli.stages.train import fresh as module
from histocli.stages.train.fresh import BATCH, FreshPatches
from histocli.stages.train.run import train
from histocli.stores.models import read_model
from histocli.stores.patches import PatchStore
from histocli.training.sampling import PatchSet
from tests.tissue import make_tissue

MPP = 0.5
SIDE = 48
EXECUTION = Execution(device="cpu", precision="fp32", workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "references").mkdir()
    for seed in range(3):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / "references" / f"{seed}.png")
    for name, n in (("few.zarr", 8), ("many.zarr", 8 + 3 * BATCH)):
        config = GenerateConfig(n=n, patch_px=SIDE, mpp=MPP, reference_mpp=MPP)
        generate([str(folder / "references")], folder / name, config, EXECUTION)
    return folder


@pytest.fixture(autouse=True)
def workers(request, monkeypatch):
    """Draws in a thread: processes take seconds to start. One test has real ones."""

    class Thread(ThreadPoolExecutor):
        def __init__(self, workers, mp_context, initializer):
            super().__init__(1)

    if "generate_draws_next" not in request.node.name:
        monkeypatch.setattr(module, "ProcessPoolExecutor", Thread)


def empty_set(n):
    """Black patches without anything to learn."""
    labels = np.full((n, SIDE, SIDE), -1, np.int32)
    empty = PatchSet.labelled(np.zeros((*labels.shape, 3), np.uint8), labels, contacts_mpp=MPP)
    return replace(empty, weight=np.zeros(n, np.float32))


def fresh(store, places, per_step=float(BATCH), **more):
    return FreshPatches(
        PatchStore.open(store),
        np.array(places),
        per_step,
        learns_contacts=True,
        execution=EXECUTION,
        track=silent,
        **more,
    )


def test_fresh_patches_are_those_that_generate_draws_next(folder):
    many = PatchStore.open(folder / "many.zarr")
    batch = range(8, 8 + 2 * BATCH)
    images, labels = many.read(range(len(many)))
    images, labels = images[batch.start : batch.stop], labels[batch.start : batch.stop]
    levels = patch_glass_levels(many, batch, images)
    data = empty_set(2 * BATCH)
    with closing(fresh(folder / "few.zarr", range(2 * BATCH))) as source:
        source.before_step(data, 0)
        assert not data.images.any()
        source.before_step(data, 2)
        assert source.report()["patches"] == 2 * BATCH
    for index, level in enumerate(levels):
        assert (data.images[index] == glass_to_white(images[index], level)).all()
        assert (data.nucleus[index] == (labels[index] > 0)).all()
        assert (data.valid[index] == (labels[index] >= 0)).all()
        assert (data.distance[index] == normalised_distance(labels[index])).all()
        assert (data.contact[index] == contacts(labels[index], MPP)).all()
    assert (data.weight == 1).all()


def test_only_the_places_given_are_replaced_in_turn(folder):
    data = empty_set(BATCH)
    places = [1, 4, 6]
    with closing(fresh(folder / "few.zarr", places)) as source:
        source.before_step(data, 1)
        first = data.images.copy()
        source.before_step(data, 2)
    assert sorted(np.flatnonzero(data.images.any(axis=(1, 2, 3)))) == places
    assert (first != data.images).any()


def test_a_resumed_training_has_the_patches_it_would_have(folder):
    steadily, at_once = empty_set(10), empty_set(10)
    with closing(fresh(folder / "few.zarr", range(10))) as source:
        for step in range(4):
            source.before_step(steadily, step)
    with closing(fresh(folder / "few.zarr", range(10))) as source:
        source.before_step(at_once, 3)
    assert (steadily.images == at_once.images).all()
    assert (steadily.distance == at_once.distance).all()


def test_processes_that_train_together_draw_different_patches(folder):
    both = [empty_set(BATCH), empty_set(BATCH)]
    for rank, data in enumerate(both):
        with closing(fresh(folder / "few.zarr", range(BATCH), members=Team(rank, 2))) as source:
            source.before_step(data, 1)
    second = empty_set(2 * BATCH)
    with closing(fresh(folder / "few.zarr", range(2 * BATCH))) as source:
        source.before_step(second, 2)
    assert (both[0].images == second.images[:BATCH]).all()
    assert (both[1].images == second.images[BATCH:]).all()


CONFIG = TrainConfig(steps=8, batch=2, crop_px=32, validation=0.0, fresh=True, fresh_per_step=8.0)


def test_training_takes_them_up_and_a_stop_changes_nothing(folder, tmp_path):
    store = [str(folder / "few.zarr")]
    result = train(store, tmp_path / "whole.safetensors", CONFIG, EXECUTION)
    assert result.fresh["patches"] == 3 * BATCH
    assert 0 <= result.fresh["waited_share"] <= 1
    train(store, tmp_path / "without.safetensors", replace(CONFIG, fresh=False), EXECUTION)
    with pytest.raises(Stopped):
        train(store, tmp_path / "cut.safetensors", CONFIG, EXECUTION, stop_after=5)
    train(store, tmp_path / "cut.safetensors", CONFIG, replace(EXECUTION, resume=True))
    whole, without, cut = (
        read_model(tmp_path / f"{name}.safetensors")[1] for name in ("whole", "without", "cut")
    )
    assert all((whole[name] == cut[name]).all() for name in whole)
    assert any((whole[name] != without[name]).any() for name in whole)


def test_references_that_are_gone_are_said(folder, tmp_path):
    shutil.copytree(folder / "references", tmp_path / "references")
    config = GenerateConfig(n=4, patch_px=SIDE, mpp=MPP, reference_mpp=MPP)
    generate([str(tmp_path / "references")], tmp_path / "synth.zarr", config, EXECUTION)
    (tmp_path / "references" / "1.png").unlink()
    with pytest.raises(InputNotFound, match=r"1\.png: the reference .* is gone"):
        train([str(tmp_path / "synth.zarr")], tmp_path / "m.safetensors", CONFIG, EXECUTION)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_store_that_generate_did_not_draw_is_refused(folder, monkeypatch):
    store = PatchStore.open(folder / "few.zarr")
    store.origin = "refined"
    with pytest.raises(
        InvalidInput, match="--fresh draws on where generate stopped, but these patches are refined"
    ):
        FreshPatches(
            store, np.arange(4), 1.0, learns_contacts=False, execution=EXECUTION, track=silent
        )
