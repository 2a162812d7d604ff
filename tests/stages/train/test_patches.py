"""The patches of all stores in memory: shares, held-out ones, targets and weights."""

import numpy as np
import pytest

from histocli.base.errors import InvalidOption, InvalidStore
from histocli.base.progress import silent
from histocli.config.common import Execution
from histocli.config.train import TrainConfig
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.stages.train.patches import load_patches
from histocli.stages.train.plan import open_request
from histocli.stores.models import read_model
from tests.stages.train.conftest import CONFIG, make_store, run
from tests.training.easy import easy_patches


def load(*stores, **config):
    """Open and load stores as a training does."""
    request = open_request(
        stores,
        [],
        TrainConfig(**{**CONFIG, **config}),
        Execution(device="cpu", precision="fp32", workers=1),
        stop_after=None,
        preview=None,
        track=silent,
    )
    return load_patches(request)


def whitened(images):
    return np.stack([glass_to_white(image, white_level(image)) for image in images])


def test_the_weight_of_a_store_is_its_share_however_many_patches_it_has(store, tmp_path):
    own = make_store(tmp_path / "own.zarr", 2, origin="labelled", seed=5)
    found = load(store, f"{own}:3", validation=0.0)
    assert len(found.learnt) == 10
    assert found.learnt.share[:8].sum() == pytest.approx(1 / 4)
    assert found.learnt.share[8:].sum() == pytest.approx(3 / 4)
    assert found.store_of.tolist() == [0] * 8 + [1] * 2


def test_synthetic_patches_are_held_out_and_a_persons_are_not(store, tmp_path):
    own = make_store(tmp_path / "own.zarr", 4, origin="labelled", seed=5)
    found = load(store, own, validation=0.5)
    kept = {image.tobytes() for image in found.learnt.images}
    assert (len(kept), len(found.held_out)) == (8, 4)
    assert {image.tobytes() for image in whitened(easy_patches(4, 32, 5)[0])} <= kept
    assert not kept & {image.tobytes() for image in found.held_out.images}
    alone = load(own)
    assert (len(alone.learnt), len(alone.held_out)) == (4, 0)


def test_a_training_without_held_out_patches_has_no_score(store, tmp_path):
    own = make_store(tmp_path / "own.zarr", 4, origin="labelled", seed=5)
    assert run(own, tmp_path / "own.safetensors", steps=1).held_out is None


def test_glass_is_white_by_the_level_of_the_reference_where_it_is_recorded(tmp_path):
    images, _ = easy_patches(8, 32)
    measured = make_store(tmp_path / "measured.zarr", 8)
    recorded = make_store(
        tmp_path / "recorded.zarr", 8, statistics={"appearance": {"white_level": 128.0}}
    )
    np.testing.assert_array_equal(load(measured, validation=0.0).learnt.images, whitened(images))
    np.testing.assert_array_equal(
        load(recorded, validation=0.0).learnt.images,
        [glass_to_white(image, 128.0) for image in images],
    )


def test_targets_are_those_of_the_labels(store):
    learnt = load(store, validation=0.0).learnt
    _, labels = easy_patches(8, 32)
    np.testing.assert_array_equal(learnt.nucleus, labels > 0)
    assert learnt.valid.all()
    assert ((learnt.distance > 0) == (labels > 0)).all()
    assert learnt.contact is None


def test_contacts_are_learnt_where_they_are_wanted(store, tmp_path):
    learnt = load(store, targets="contact").learnt
    assert learnt.contact.any()
    assert learnt.contact.shape == learnt.nucleus.shape
    run(store, tmp_path / "b.safetensors", targets="contact", steps=1)
    header, tensors = read_model(tmp_path / "b.safetensors")
    assert header.architecture["targets"] == "contact"
    build_segmenter(header.architecture).load_state_dict(tensors)
    with pytest.raises(InvalidOption, match="--targets"):
        TrainConfig(targets="stars")


@pytest.mark.parametrize(
    "empty",
    [{"labels": 0}, {"labels": -1}, {"weight": 0.0}],
    ids=["background", "ignored", "weightless"],
)
def test_stores_without_anything_to_learn_are_refused(tmp_path, empty):
    store = make_store(tmp_path / "empty.zarr", 3, **empty)
    with pytest.raises(InvalidStore, match="nothing to learn") as refused:
        run(store, tmp_path / "m.safetensors")
    assert refused.value.exit_code == 3
    assert not (tmp_path / "m.safetensors").exists()


def test_weights_that_leave_few_patches_effective_are_not_used(tmp_path, caplog):
    stores = [
        make_store(tmp_path / f"{seed}.zarr", 4, seed=seed, weight=weight)
        for seed, weight in enumerate((1.0, 1000.0, 1.0, 1.0, 1.0))
    ]
    found = load(*stores)
    # a fifth, less what is held out
    assert found.effective_share == pytest.approx(0.2, abs=0.1)
    assert "not used" in caplog.text
    assert (found.learnt.weight == 1).all()


def test_weights_that_leave_enough_are_used(tmp_path, caplog):
    stores = [
        make_store(tmp_path / f"{weight}.zarr", 4, seed=seed, weight=weight)
        for seed, weight in enumerate((1.0, 3.0))
    ]
    found = load(*stores)
    values = found.learnt.weight.astype(float)
    assert set(values) == {1.0, 3.0}
    assert found.effective_share == pytest.approx(
        values.sum() ** 2 / (len(values) * (values**2).sum()), abs=1e-3
    )
    assert "not used" not in caplog.text
