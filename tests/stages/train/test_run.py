"""Training as a stage: stores in, a model file out, and a stop loses nothing."""

import pickle

import pytest

from histocli.base.errors import InvalidInput, Stopped, StoreExists
from histocli.model.segmenter import build_segmenter
from histocli.stages.shared import session
from histocli.stages.train import run as stage
from histocli.stores import patches
from histocli.stores.checkpoints import checkpoint_path
from histocli.stores.logs import log_path
from histocli.stores.models import read_model, read_model_header
from tests.stages.train.conftest import MPP, assert_same_weights, make_store, metrics, run


def test_a_model_says_what_it_is_and_can_be_rebuilt(store, tmp_path):
    out = tmp_path / "m.safetensors"
    result = run(store, out)
    assert (result.status, result.patches, result.steps, result.mpp) == ("done", 8, 4, MPP)
    assert (result.device, result.precision, result.shippable) == ("cpu", "fp32", True)
    assert result.loss > 0
    header, tensors = read_model(out)
    build_segmenter(header.architecture).load_state_dict(tensors)
    assert header.mpp == MPP
    assert header.seed == 0
    assert header.config["steps"] == 4
    assert header.normalisation.keys() == {
        "glass",
        "mean",
        "std",
        "range",
        "stain_range",
        "known_stains",
    }
    edges = header.normalisation["stain_range"]
    assert all(
        0 < low <= high < 2 for low, high in zip(edges["mean_low"], edges["mean_high"], strict=True)
    )
    assert len(header.normalisation["known_stains"]["statistics"][0]) == 6
    assert header.thresholds["probability"] == 0.5
    assert header.training["steps"] == 4
    assert header.training["loss"] == pytest.approx(result.loss)
    assert header.training["held_out"] == result.held_out
    assert header.shippable
    (data,) = header.data
    assert (data["name"], data["weight"], data["origin"], data["patches"]) == (
        "a.zarr",
        1.0,
        "initial",
        8,
    )
    assert data["sha256"] == patches.PatchStore.open(store).content_hash()
    assert header.package_version
    assert header.created
    assert result.to_json()["schema"] == "histosynth.train/1"
    before = out.read_bytes()
    assert run(store, out).status == "skipped"
    for change in ({"seed": 1}, {"size": "M"}):
        with pytest.raises(StoreExists, match="--overwrite"):
            run(store, out, **change)
    with pytest.raises(StoreExists, match="--overwrite"):
        run(f"{store}:2", out)
    assert out.read_bytes() == before


def test_the_log_shows_the_training(store, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "RECORD_EVERY", 2)
    out = tmp_path / "m.safetensors"
    result = run(store, out, steps=6)
    lines = metrics(out)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [2, 4, 6]
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    assert held_out[-1] == result.held_out
    assert set(held_out[-1]) == {"dice", "aji", "pq", "f1"}
    previews = sorted(path.name for path in log_path(out).glob("preview-*.png"))
    assert len(previews) >= 2
    assert previews[-1] == "preview-000006.png"
    assert not checkpoint_path(out).exists()


def test_the_seed_decides_all(store, tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        run(store, path, seed=seed, steps=2)
    assert_same_weights(paths[0], paths[1])
    with pytest.raises(AssertionError):
        assert_same_weights(paths[0], paths[2])


def test_what_is_stopped_goes_on_as_if_it_had_not_been(store, tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    expected = run(store, whole, steps=6)
    with pytest.raises(Stopped, match="to go on") as stopped:
        run(store, cut, steps=6, stop_after=2)
    assert stopped.value.exit_code == 75
    assert not cut.exists()
    assert checkpoint_path(cut).exists()
    with pytest.raises(StoreExists, match="other settings"):
        run(store, cut, steps=7, execution={"resume": True})
    with pytest.raises(Stopped):
        run(store, cut, steps=6, stop_after=5, execution={"resume": True})
    found = run(store, cut, steps=6)
    assert (found.status, found.steps) == ("done", 6)
    assert_same_weights(whole, cut)
    assert (found.loss, found.held_out) == (expected.loss, expected.held_out)
    assert not checkpoint_path(cut).exists()


def test_a_dry_run_writes_nothing(store, tmp_path):
    result = run(store, tmp_path / "m.safetensors", execution={"dry_run": True})
    assert (result.status, result.patches, result.loss) == ("planned", 8, None)
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_in_place_of_a_checkpoint_is_not_opened(store, tmp_path):
    out, proof = tmp_path / "m.safetensors", tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    checkpoint_path(out).parent.mkdir(parents=True)
    checkpoint_path(out).write_bytes(pickle.dumps(Bomb()))
    assert run(store, out, steps=1, execution={"resume": True}).status == "done"
    assert not proof.exists()


@pytest.mark.parametrize("possible", [True, False])
def test_a_compiled_network_learns_the_same_and_where_it_cannot_be_compiled_that_is_said(
    store, tmp_path, monkeypatch, caplog, possible
):
    calls = []

    def compile_(network):
        def called(pixels):
            if not possible:
                raise RuntimeError("no working C++ compiler\nsomewhere")
            calls.append(pixels.shape)
            return network(pixels)

        return called

    monkeypatch.setattr(stage.torch, "compile", compile_)
    run(store, tmp_path / "a.safetensors", compile=True, validation=0.0)
    assert bool(calls) == possible
    assert ("--compile: not possible here (no working C++ compiler" in caplog.text) != possible
    run(store, tmp_path / "b.safetensors", validation=0.0)
    # nothing is left of the trial
    assert_same_weights(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


@pytest.mark.parametrize("side", [33, 50, 40])
def test_patches_of_any_side_are_learnt_from(tmp_path, side):
    """Crops must be multiples of 16; patches need not be."""
    store = make_store(tmp_path / "odd.zarr", 4, side=side)
    result = run(store, tmp_path / "m.safetensors", steps=1, crop_px=128)
    assert result.status == "done"
    assert result.held_out is not None


def test_a_time_budget_plans_the_steps_and_is_kept(store, tmp_path, monkeypatch):
    class FakeWatch:
        """A clock that moves on by a tenth of a second whenever it is read."""

        now = 0.0

        @classmethod
        def of_command(cls):
            return cls()

        @property
        def seconds(self):
            self.now += 0.1
            return self.now

    monkeypatch.setattr(stage, "Stopwatch", FakeWatch)
    out = tmp_path / "m.safetensors"
    result = run(store, out, steps=100_000, time_budget_s=3.0)
    assert result.status == "done"
    assert result.seconds <= 3.0
    assert 2 < result.steps < 30
    assert read_model_header(out).training["steps"] == result.steps


def test_a_loss_that_is_no_number_ends_the_training_with_advice(store, tmp_path, monkeypatch):
    monkeypatch.setattr("histocli.training.loop.train_step", lambda *given: float("nan"))
    with pytest.raises(InvalidInput, match="--learning-rate"):
        run(store, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_training_goes_on_from_a_model(store, tmp_path, learnt):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run(store, first, steps=2)
    run(store, second, steps=2, init=str(first))
    _, tensors = read_model(first)
    _, schedule, weights = learnt[-1]
    assert all((weights[name] == value).all() for name, value in tensors.items())
    assert schedule.learning_rate == pytest.approx(1e-3)
    header = read_model_header(second)
    assert [entry["origin"] for entry in header.data] == ["initial", "model"]
    other = make_store(tmp_path / "other.zarr", mpp=0.25)
    with pytest.raises(InvalidInput, match=r"--init .*was trained at 0\.5 um/px"):
        run(other, tmp_path / "x.safetensors", init=str(first))
