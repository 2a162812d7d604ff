"""Small trainings: a network of a few channels on eight patches of 32 x 32 px.

``store``: eight patches at 0.5 um per pixel, each with four dark disks on bright ground.
"""

import json

import numpy as np
import pytest
from PIL import Image

from histocli.config.common import Execution
from histocli.config.train import TrainConfig
from histocli.stages.train import plan
from histocli.stages.train import run as stage
from histocli.stages.train.run import train
from histocli.stores import patches
from histocli.stores.logs import log_path
from histocli.stores.models import read_model
from histocli.stores.patches import PatchStoreWriter
from histocli.stores.provenance import Provenance
from histocli.training import self_training
from tests.tissue import make_tissue
from tests.training.easy import easy_patches

MPP = 0.5
CONFIG = {"steps": 4, "batch": 2, "crop_px": 32, "validation": 0.25}
SELF = {"steps": 10, "rounds": 2, "reference_mpp": MPP}
"""Settings of a training with references: its first part has six steps, each round two."""


def make_store(
    path,
    n=8,
    *,
    side=32,
    mpp=MPP,
    origin="initial",
    shippable=True,
    seed=0,
    labels=None,
    weight=1.0,
    statistics=None,
):
    images, drawn = easy_patches(n, side, seed)
    provenance = Provenance(
        contract=patches.CONTRACT,
        command="generate",
        config={},
        config_hash=f"{path.name}{seed}",
        seed=seed,
    )
    record = patches.ReferenceRecord(
        name="code", sha256="00", mpp=mpp, mpp_source="given", statistics=statistics or {}
    )
    with PatchStoreWriter(
        path,
        n=n,
        patch_px=side,
        mpp=mpp,
        origin=origin,
        references=[record],
        provenance=provenance,
        shippable=shippable,
    ) as writer:
        chosen = drawn if labels is None else np.full((n, side, side), labels, np.int32)
        for batch in writer.pending():
            where = slice(batch.start, batch.stop)
            writer.write(
                batch,
                images[where],
                chosen[where],
                np.full(len(batch), weight, np.float32),
                np.zeros(len(batch), np.int32),
            )
        writer.finish()
    return str(path)


@pytest.fixture(autouse=True)
def tiny_segmenter(monkeypatch):
    """The shape of size S with a quarter of its channels: what is learnt does not matter here."""
    monkeypatch.setattr(
        plan,
        "architecture_of_size",
        lambda size, targets: {"family": "unet", "channels": [4, 4, 6, 6], "targets": targets},
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Read by all tests, changed by none."""
    return make_store(tmp_path_factory.mktemp("store") / "a.zarr")


@pytest.fixture(scope="session")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references") / "refs"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / f"{seed}.png")
    return [str(folder)]


@pytest.fixture
def loose(monkeypatch):
    """What is found may move as it likes: nothing sensible is learnt in some steps."""
    monkeypatch.setattr(self_training, "AREA_DRIFT", 1e9)
    monkeypatch.setattr(self_training, "COUNT_DRIFT", 1e9)


@pytest.fixture
def learnt(monkeypatch):
    """A list that receives the patches and the schedule of each phase of a training."""
    seen = []
    original = stage.train_steps

    def spy(training, drawn, schedule, progress, **given):
        seen.append((drawn, schedule, training.weights()))
        return original(training, drawn, schedule, progress, **given)

    monkeypatch.setattr(stage, "train_steps", spy)
    return seen


def run(stores, out, *, stop_after=None, execution=None, refs=(), preview=None, **config):
    return train(
        [stores] if isinstance(stores, str) else stores,
        out,
        TrainConfig(**{**CONFIG, **config}),
        Execution(device="cpu", precision="fp32", workers=1, **(execution or {})),
        refs=refs,
        stop_after=stop_after,
        preview=preview,
    )


def assert_same_weights(first, second):
    (_, first), (_, second) = read_model(first), read_model(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor == second[name]).all(), name


def metrics(out):
    return [json.loads(line) for line in (log_path(out) / "metrics.jsonl").read_text().splitlines()]
