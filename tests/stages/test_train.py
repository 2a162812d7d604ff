"""Training as a stage: stores in, a model file out, and a stop loses nothing.

``store``: eight patches of 32 x 32 at 0.5 um per pixel, each with four dark disks on bright ground.
"""

import json
import pickle

import numpy as np
import pytest
import tifffile
from PIL import Image

from histocli.base.errors import (
    InputNotFound,
    InvalidInput,
    InvalidOption,
    InvalidStore,
    Stopped,
    StoreExists,
)
from histocli.config.common import Execution
from histocli.config.train import TrainConfig
from histocli.model.normalisation import glass_to_white
from histocli.model.segmenter import build_segmenter
from histocli.optics.density import white_level
from histocli.stages import train as stage
from histocli.stages.shared.session import Clock
from histocli.stages.train import split_weight, train
from histocli.stores import patches
from histocli.stores.logs import log_path
from histocli.stores.models import (
    checkpoint_path,
    read_checkpoint,
    read_model,
    read_model_header,
    write_checkpoint,
)
from histocli.stores.patches import PatchStoreWriter
from histocli.stores.provenance import Provenance
from tests.tissue import make_tissue
from tests.training.easy import easy_patches

MPP = 0.5
CONFIG = {"steps": 4, "batch": 2, "crop_px": 32, "validation": 0.25}


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
        path, n=n, patch_px=side, mpp=mpp, origin=origin, references=[record], provenance=provenance,
        shippable=shippable,
    ) as writer:  # fmt: skip
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
    """The shape of size S with a quarter of its channels, since what is learnt does not matter
    here."""
    monkeypatch.setattr(
        stage,
        "architecture_of_size",
        lambda size, targets: {"family": "unet", "channels": [4, 4, 6, 6], "targets": targets},
    )


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "a.zarr")


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
    assert header.normalisation.keys() == {"glass", "mean", "std", "range", "contrast_floor"}
    assert 0.01 < header.normalisation["contrast_floor"] < 2
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


def test_the_log_shows_the_training(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "RECORD_EVERY", 2)
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


@pytest.mark.parametrize("change", [{}, {"crop_px": 64}])
def test_the_seed_decides_all(store, tmp_path, change):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        run(store, path, seed=seed, steps=2, **change)
    assert_same_weights(paths[0], paths[1])
    with pytest.raises(AssertionError):
        assert_same_weights(paths[0], paths[2])


def test_what_is_stopped_goes_on_as_if_it_had_not_been(store, tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    expected = run(store, whole, steps=6)
    with pytest.raises(Stopped, match="--resume") as stopped:
        run(store, cut, steps=6, stop_after=2)
    assert stopped.value.exit_code == 75
    assert not cut.exists()
    assert checkpoint_path(cut).exists()
    with pytest.raises(StoreExists, match="--resume"):
        run(store, cut, steps=6)
    with pytest.raises(StoreExists, match="other settings"):
        run(store, cut, steps=7, execution={"resume": True})
    with pytest.raises(Stopped):
        run(store, cut, steps=6, stop_after=5, execution={"resume": True})
    found = run(store, cut, steps=6, execution={"resume": True})
    assert (found.status, found.steps) == ("done", 6)
    assert_same_weights(whole, cut)
    assert (found.loss, found.held_out) == (expected.loss, expected.held_out)
    assert not checkpoint_path(cut).exists()


def test_a_signal_saves_a_checkpoint(store, tmp_path, monkeypatch):
    out, whole = tmp_path / "m.safetensors", tmp_path / "whole.safetensors"
    run(store, whole)
    answers = iter([False, True])
    monkeypatch.setattr(stage, "stop_requested", lambda: next(answers, False))
    with pytest.raises(Stopped, match="after 2 steps"):
        run(store, out)
    assert run(store, out, execution={"resume": True}).status == "done"
    assert_same_weights(out, whole)


def test_a_checkpoint_is_kept_from_time_to_time(store, tmp_path, monkeypatch):
    """So that even a power cut costs a minute."""
    monkeypatch.setattr(stage, "CHECKPOINT_S", 0.0)
    out = tmp_path / "m.safetensors"

    class PowerCut(Exception):
        pass

    original = stage._Run._note

    def note(self, record):
        original(self, record)
        if record.step == 3:
            raise PowerCut

    monkeypatch.setattr(stage._Run, "_note", note)
    with pytest.raises(PowerCut):
        run(store, out)
    monkeypatch.setattr(stage._Run, "_note", original)
    assert run(store, out, execution={"resume": True}).steps == 4
    run(store, tmp_path / "whole.safetensors")
    assert_same_weights(out, tmp_path / "whole.safetensors")


def test_a_checkpoint_that_does_not_fit_is_refused(store, tmp_path):
    out = tmp_path / "m.safetensors"
    with pytest.raises(Stopped):
        run(store, out, stop_after=1)
    state = read_checkpoint(checkpoint_path(out))
    state.state["segmenter"] = {}
    write_checkpoint(checkpoint_path(out), state.state, config_hash=state.config_hash)
    with pytest.raises(InvalidStore, match=r"does not fit.*--overwrite") as refused:
        run(store, out, execution={"resume": True})
    assert "\n" not in str(refused.value)


def test_a_stop_asked_for_after_the_end_changes_nothing(store, tmp_path):
    assert run(store, tmp_path / "m.safetensors", stop_after=4).status == "done"


def test_a_rerun_is_skipped_and_other_settings_are_refused(store, tmp_path):
    out = tmp_path / "m.safetensors"
    run(store, out)
    before = out.read_bytes()
    assert run(store, out).status == "skipped"
    with pytest.raises(StoreExists, match="--overwrite") as refused:
        run(store, out, seed=1)
    assert refused.value.exit_code == 4
    with pytest.raises(StoreExists, match="--overwrite"):
        run(f"{store}:2", out)
    assert out.read_bytes() == before
    assert run(store, out, seed=1, execution={"overwrite": True}).status == "done"
    assert read_model_header(out).seed == 1


def test_a_dry_run_writes_nothing(store, tmp_path):
    out = tmp_path / "m.safetensors"
    result = run(store, out, execution={"dry_run": True})
    assert (result.status, result.patches, result.loss) == ("planned", 8, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_pickle_in_place_of_a_checkpoint_is_not_opened(store, tmp_path):
    out, proof = tmp_path / "m.safetensors", tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    checkpoint_path(out).parent.mkdir(parents=True)
    checkpoint_path(out).write_bytes(pickle.dumps(Bomb()))
    assert run(store, out, execution={"resume": True}).status == "done"
    assert not proof.exists()


def shares(monkeypatch):
    """Return a list that receives the patches that training draws from."""
    seen = []
    original = stage.train_steps

    def spy(training, drawn, *given):
        seen.append(drawn)
        return original(training, drawn, *given)

    monkeypatch.setattr(stage, "train_steps", spy)
    return seen


def test_the_weight_of_a_store_is_its_share_however_many_patches_it_has(
    store, tmp_path, monkeypatch
):
    seen = shares(monkeypatch)
    own = make_store(tmp_path / "own.zarr", 2, origin="labelled", seed=5)
    out = tmp_path / "m.safetensors"
    run([store, f"{own}:3"], out, steps=1, validation=0.0)
    (drawn,) = seen
    assert len(drawn) == 10
    assert drawn.share[:8].sum() == pytest.approx(1 / 4)
    assert drawn.share[8:].sum() == pytest.approx(3 / 4)
    assert [entry["weight"] for entry in read_model_header(out).data] == [1.0, 3.0]


def test_synthetic_patches_are_held_out_and_a_persons_are_not(store, tmp_path, monkeypatch):
    seen = shares(monkeypatch)
    own = make_store(tmp_path / "own.zarr", 4, origin="labelled", seed=5)
    run([store, own], tmp_path / "m.safetensors", steps=1, validation=0.5)
    kept = {image.tobytes() for image in seen[0].images}
    assert len(kept) == 8
    assert {
        glass_to_white(image, white_level(image)).tobytes() for image in easy_patches(4, 32, 5)[0]
    } <= kept
    result = run(own, tmp_path / "own.safetensors", steps=1)
    assert result.held_out is None
    assert len(seen[1]) == 4


def test_glass_is_white_to_the_network_by_the_level_of_the_reference_where_it_is_recorded(
    tmp_path, monkeypatch
):
    seen = shares(monkeypatch)
    images, _ = easy_patches(8, 32)
    for name, statistics in (
        ("measured", {}),
        ("recorded", {"appearance": {"white_level": 128.0}}),
    ):
        made = make_store(tmp_path / f"{name}.zarr", 8, statistics=statistics)
        run(made, tmp_path / f"{name}.safetensors", steps=1, validation=0.0)
    np.testing.assert_array_equal(
        seen[0].images, [glass_to_white(image, white_level(image)) for image in images]
    )
    np.testing.assert_array_equal(
        seen[1].images, [glass_to_white(image, 128.0) for image in images]
    )


def test_targets_are_those_of_the_labels(store, tmp_path, monkeypatch):
    seen = shares(monkeypatch)
    run(store, tmp_path / "m.safetensors", steps=1, validation=0.0)
    images, labels = easy_patches(8, 32)
    np.testing.assert_array_equal(
        seen[0].images, [glass_to_white(image, white_level(image)) for image in images]
    )
    np.testing.assert_array_equal(seen[0].nucleus, labels > 0)
    assert seen[0].valid.all()
    assert ((seen[0].distance > 0) == (labels > 0)).all()


def test_contacts_are_learnt_where_they_are_wanted(store, tmp_path, monkeypatch):
    seen = []
    steps = stage.train_steps
    monkeypatch.setattr(
        stage,
        "train_steps",
        lambda training, data, *rest: seen.append(data) or steps(training, data, *rest),
    )
    run(store, tmp_path / "a.safetensors")
    run(store, tmp_path / "b.safetensors", targets="contact")
    without, with_ = seen
    assert without.contact is None
    assert with_.contact.any()
    assert with_.contact.shape == with_.nucleus.shape
    header, tensors = read_model(tmp_path / "b.safetensors")
    assert header.architecture["targets"] == "contact"
    build_segmenter(header.architecture).load_state_dict(tensors)
    with pytest.raises(InvalidOption, match="--targets"):
        TrainConfig(targets="stars")


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


def test_hard_examples_change_what_is_learnt_and_are_reported(store, tmp_path):
    ordinary, hard = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run(store, ordinary, steps=25)
    result = run(store, hard, steps=25, hard="appearance", validation=0.3)
    (_, first), (_, second) = read_model(ordinary), read_model(hard)
    assert any((first[name] != second[name]).any() for name in first)
    assert result.hard.keys() == {"patches", "loss", "aji", "change", "label_agreement"}
    assert result.hard["loss"]["hard"] > result.hard["loss"]["ordinary"]
    assert result.hard["change"] > 0
    assert 0 <= result.hard["label_agreement"]["hard"] <= 1
    assert read_model(hard)[0].training["hard"] == result.hard
    assert any("hard" in line for line in metrics(hard))
    assert list(log_path(hard).rglob("hard.png"))
    assert run(store, tmp_path / "c.safetensors").hard is None
    with pytest.raises(InvalidOption, match="--hard"):
        TrainConfig(hard="style")


@pytest.mark.parametrize("side", [33, 50, 40])
def test_patches_of_any_side_are_learnt_from(tmp_path, side):
    """Crops must be multiples of 16; patches need not be."""
    store = make_store(tmp_path / "odd.zarr", 4, side=side)
    result = run(store, tmp_path / "m.safetensors", steps=1, crop_px=128)
    assert result.status == "done"
    assert result.held_out is not None


def test_pixel_sizes_and_patch_sizes_do_not_mix(store, tmp_path):
    other = make_store(tmp_path / "fine.zarr", 2, mpp=0.25)
    with pytest.raises(InvalidInput, match=r"0\.25 um/px.*same --mpp") as refused:
        run([store, other], tmp_path / "m.safetensors")
    assert refused.value.exit_code == 3
    larger = make_store(tmp_path / "large.zarr", 2, side=48)
    with pytest.raises(InvalidInput, match="same --patch-px"):
        run([store, larger], tmp_path / "m.safetensors")
    nearly = make_store(tmp_path / "nearly.zarr", 2, mpp=0.504)
    assert run([store, nearly], tmp_path / "m.safetensors", steps=1).status == "done"


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


def test_missing_and_foreign_stores_are_refused(tmp_path):
    with pytest.raises(InputNotFound, match=r"gone\.zarr"):
        run(str(tmp_path / "gone.zarr"), tmp_path / "m.safetensors")
    (tmp_path / "foreign.zarr").mkdir()
    with pytest.raises(InvalidStore, match=r"foreign\.zarr"):
        run(str(tmp_path / "foreign.zarr"), tmp_path / "m.safetensors")


def test_one_input_that_must_not_ship_decides_for_the_model(store, tmp_path):
    closed = make_store(tmp_path / "closed.zarr", 2, shippable=False, origin="labelled")
    out = tmp_path / "m.safetensors"
    assert not run([store, closed], out, steps=1).shippable
    assert not read_model_header(out).shippable


class FakeWatch:
    """A clock that moves on by a tenth of a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    @property
    def seconds(self):
        self.now += 0.1
        return self.now


@pytest.mark.parametrize("budget", [3.0, 20.0])
def test_a_time_budget_plans_the_steps_and_is_kept(store, tmp_path, monkeypatch, budget):
    monkeypatch.setattr(stage, "Stopwatch", FakeWatch)
    out = tmp_path / "m.safetensors"
    result = run(store, out, steps=100_000, time_budget_s=budget)
    assert result.status == "done"
    assert result.seconds <= budget
    assert 2 < result.steps < budget / 0.1
    assert read_model_header(out).training["steps"] == result.steps


def test_the_clock_counts_seconds_of_training_from_the_first_step():
    watch = FakeWatch()
    watch.now = 5.0  # reading took its time
    clock = Clock(0, 100.0, stage.RESERVE_S, watch)
    done = [clock.progress(step) for step in range(2000)]
    assert done[0] < 0.01
    assert (np.diff(done) > 0).all()
    assert done[-1] > 1
    end = next(step for step, share in enumerate(done) if share >= 1)
    assert 5.0 + 0.1 * end <= 100.0 - stage.RESERVE_S + 0.5
    by_steps = Clock(8, None, stage.RESERVE_S, FakeWatch())
    assert [by_steps.progress(step) for step in (0, 2, 8)] == [0, 0.25, 1]


def test_a_resumed_clock_goes_on_where_it_was():
    first = Clock(0, 100.0, stage.RESERVE_S, FakeWatch())
    for _ in range(100):
        before = first.progress(0)
    second = Clock(0, 100.0, stage.RESERVE_S, FakeWatch())
    second.earlier_s = first.trained_s
    assert 0.5 * before < second.progress(0) < 1.2 * before


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a.zarr", ("a.zarr", 1.0)),
        ("a.zarr:2", ("a.zarr", 2.0)),
        ("dir/a.zarr:0.5", ("dir/a.zarr", 0.5)),
        ("C:\\data\\a.zarr", ("C:\\data\\a.zarr", 1.0)),
        ("a:b.zarr", ("a:b.zarr", 1.0)),
        ("-", ("-", 1.0)),
        ("-:3", ("-", 3.0)),
        ("a:b/c.zarr", ("a:b/c.zarr", 1.0)),
    ],
)
def test_a_word_may_carry_a_share(word, expected):
    assert split_weight(word) == expected


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf"])
def test_a_share_must_be_positive(share):
    with pytest.raises(InvalidOption, match="share"):
        split_weight(f"a.zarr:{share}")


def test_a_loss_that_is_no_number_ends_the_training_with_advice(store, tmp_path, monkeypatch):
    monkeypatch.setattr("histocli.training.loop.train_step", lambda *given: float("nan"))
    with pytest.raises(InvalidInput, match="--learning-rate"):
        run(store, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_weights_that_leave_few_patches_effective_are_not_used(tmp_path, monkeypatch, caplog):
    stores = [
        make_store(tmp_path / f"{seed}.zarr", seed=seed, weight=weight)
        for seed, weight in enumerate((1.0, 1000.0, 1.0, 1.0, 1.0))
    ]
    seen = []
    original = stage.train_steps
    monkeypatch.setattr(
        stage,
        "train_steps",
        lambda training, data, *rest: seen.append(data.weight) or original(training, data, *rest),
    )
    result = run(stores, tmp_path / "m.safetensors")
    assert result.effective_share == pytest.approx(0.2, abs=0.1)  # a fifth, less what is held out
    assert "not used" in caplog.text
    assert (seen[0] == 1).all()
    assert (
        read_model_header(tmp_path / "m.safetensors").training["effective_share"]
        == result.effective_share
    )


def test_weights_that_leave_enough_are_used(tmp_path, monkeypatch, caplog):
    stores = [
        make_store(tmp_path / f"{weight}.zarr", seed=seed, weight=weight)
        for seed, weight in enumerate((1.0, 3.0))
    ]
    seen = []
    original = stage.train_steps
    monkeypatch.setattr(
        stage,
        "train_steps",
        lambda training, data, *rest: seen.append(data.weight) or original(training, data, *rest),
    )
    result = run(stores, tmp_path / "m.safetensors")
    assert set(seen[0].tolist()) == {1.0, 3.0}
    values = seen[0].astype(float)
    assert result.effective_share == pytest.approx(
        values.sum() ** 2 / (len(values) * (values**2).sum()), abs=1e-3
    )
    assert "not used" not in caplog.text


def test_training_goes_on_from_a_model(store, tmp_path, monkeypatch):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run(store, first, steps=2)
    seen = []
    original = stage.train_steps

    def watch(training, data, schedule, *rest):
        seen.append(
            (
                {name: value.clone() for name, value in training.segmenter.state_dict().items()},
                schedule.learning_rate,
            )
        )
        return original(training, data, schedule, *rest)

    monkeypatch.setattr(stage, "train_steps", watch)
    run(store, second, steps=2, init=str(first))
    _, tensors = read_model(first)
    weights, rate = seen[0]
    assert all((weights[name] == value).all() for name, value in tensors.items())
    assert rate == pytest.approx(1e-3)
    header = read_model_header(second)
    assert [entry["origin"] for entry in header.data] == ["initial", "model"]
    other = make_store(tmp_path / "other.zarr", mpp=0.25)
    with pytest.raises(InvalidInput, match=r"--init .*was trained at 0\.5 um/px"):
        run(other, tmp_path / "x.safetensors", init=str(first))


def test_a_model_that_must_not_ship_hands_that_on(store, tmp_path):
    secret = make_store(tmp_path / "secret.zarr", shippable=False, seed=3)
    run(secret, tmp_path / "secret.safetensors", steps=1)
    assert not run(
        store, tmp_path / "m.safetensors", steps=1, init=str(tmp_path / "secret.safetensors")
    ).shippable


@pytest.fixture
def references(tmp_path):
    (tmp_path / "refs").mkdir()
    for seed in range(3):
        Image.fromarray(make_tissue(seed=seed).image).save(tmp_path / "refs" / f"{seed}.png")
    return [str(tmp_path / "refs")]


@pytest.fixture
def loose(monkeypatch):
    """What is found may move as it likes: nothing sensible is learnt in some steps."""
    monkeypatch.setattr(stage, "AREA_DRIFT", 1e9)
    monkeypatch.setattr(stage, "COUNT_DRIFT", 1e9)


SELF = {"steps": 10, "reference_mpp": MPP}


def test_rounds_of_self_training_follow(store, tmp_path, references, loose):
    out = tmp_path / "m.safetensors"
    result = run(store, out, refs=references, preview=tmp_path / "worst.png", **SELF)
    worst = np.asarray(Image.open(tmp_path / "worst.png"))
    (last,) = log_path(out).rglob("disagreement-2.png")
    assert (worst == np.asarray(Image.open(last))).all()
    assert [found["round"] for found in result.rounds] == [1, 2]
    for found in result.rounds:
        assert found["accepted"] <= found["objects"]
        assert 0 <= found["agreement"] <= 1
        assert found["kept"]
    header = read_model_header(out)
    assert header.training["self_training"] == result.rounds
    assert header.training["steps"] == 10
    assert [entry["origin"] for entry in header.data].count("reference") == 3
    assert header.shippable
    assert not run(
        store, tmp_path / "n.safetensors", refs=references, shippable=False, **SELF
    ).shippable
    names = {path.name for path in log_path(out).iterdir()}
    assert {"disagreement-1.png", "disagreement-2.png"} <= names


def test_references_change_what_is_learnt(store, tmp_path, references, loose):
    run(store, tmp_path / "with.safetensors", refs=references, **SELF)
    run(store, tmp_path / "again.safetensors", refs=references, **SELF)
    run(store, tmp_path / "without.safetensors", **SELF)
    assert_same_weights(tmp_path / "with.safetensors", tmp_path / "again.safetensors")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "with.safetensors", tmp_path / "without.safetensors")


@pytest.mark.parametrize("stop_after", [3, 7, 8, 9])
def test_self_training_that_is_stopped_goes_on_as_if_it_had_not_been(
    store, tmp_path, references, loose, stop_after
):
    """In the first part, at the beginning of a round, between two, and in the last one."""
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    expected = run(store, whole, refs=references, **SELF)
    with pytest.raises(Stopped):
        run(store, cut, refs=references, stop_after=stop_after, **SELF)
    found = run(store, cut, refs=references, execution={"resume": True}, **SELF)
    assert_same_weights(whole, cut)
    assert found.rounds == expected.rounds


def test_a_stop_while_tissue_is_labelled_costs_no_training(
    store, tmp_path, references, loose, monkeypatch
):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    run(store, whole, refs=references, **SELF)

    def stopped(message):
        raise Stopped(message)

    original = stage.find_nuclei

    def stopping_at(look):
        looks = iter(range(1, 10))
        return lambda *given: stopped(given[-1]) if next(looks) == look else original(*given)

    for look in (1, 2):  # of the first teacher, and at the end of its round
        with monkeypatch.context() as patch:
            patch.setattr(stage, "find_nuclei", stopping_at(look))
            with pytest.raises(Stopped, match="--resume"):
                run(store, cut, refs=references, execution={"resume": look > 1}, **SELF)
    steps = []
    original_steps = stage.train_steps
    monkeypatch.setattr(
        stage,
        "train_steps",
        lambda *given: (steps.append(r.step) or r for r in original_steps(*given)),
    )
    run(store, cut, refs=references, execution={"resume": True}, **SELF)
    assert_same_weights(whole, cut)
    assert steps == [9, 10]  # only the second round was left


def test_a_round_that_changes_what_a_nucleus_is_is_taken_back(
    store, tmp_path, references, monkeypatch, caplog
):
    monkeypatch.setattr(stage, "AREA_DRIFT", -1.0)  # nothing is small enough
    out = tmp_path / "m.safetensors"
    teachers = []
    original = stage._Run._begin_round

    def watch(self, *given):
        found = original(self, *given)
        teachers.append(self.teacher)
        return found

    monkeypatch.setattr(stage._Run, "_begin_round", watch)
    result = run(store, out, refs=references, **SELF)
    assert [found["kept"] for found in result.rounds] == [False]
    assert "the weights before it are kept" in caplog.text
    _, tensors = read_model(out)
    assert all((tensors[name] == value).all() for name, value in teachers[0].items())


def test_references_that_cannot_be_read_stop_or_are_left_out(store, tmp_path, references, loose):
    (tmp_path / "refs" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"broken\.png"):
        run(store, tmp_path / "m.safetensors", refs=references, **SELF)
    result = run(
        store,
        tmp_path / "m.safetensors",
        refs=references,
        execution={"on_error": "continue"},
        **SELF,
    )
    assert [name.rsplit("/", 1)[-1] for name in result.failed] == ["broken.png"]


def test_references_without_tissue_are_refused(store, tmp_path):
    Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(tmp_path / "white.png")
    with pytest.raises(InvalidInput, match="none of the 1 references shows nuclei"):
        run(store, tmp_path / "m.safetensors", refs=[str(tmp_path / "white.png")], **SELF)


@pytest.mark.parametrize("kind", ["tiff", "geojson"])
def test_a_persons_labels_may_be_the_first_teacher(
    store, tmp_path, references, loose, monkeypatch, kind
):
    """Labels of two of three references, as label images or as outlines; what the first round
    learns is what they say."""
    folder = tmp_path / "found"
    folder.mkdir()
    for seed in range(2):
        labels = make_tissue(seed=seed).labels
        if kind == "tiff":
            tifffile.imwrite(folder / f"{seed}.tif", labels.astype(np.uint16))
        else:
            features = []
            for number in range(1, labels.max() + 1):
                rows, columns = np.nonzero(labels == number)
                box = [
                    int(columns.min()),
                    int(rows.min()),
                    int(columns.max()) + 1,
                    int(rows.max()) + 1,
                ]
                ring = [
                    [box[0], box[1]],
                    [box[2], box[1]],
                    [box[2], box[3]],
                    [box[0], box[3]],
                    [box[0], box[1]],
                ]
                features.append(
                    {
                        "type": "Feature",
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                        "properties": {},
                    }
                )
            (folder / f"{seed}.geojson").write_text(
                json.dumps({"type": "FeatureCollection", "features": features})
            )
    learnt = []
    original = stage.pseudo_labelled
    monkeypatch.setattr(
        stage,
        "pseudo_labelled",
        lambda *given, **more: (
            learnt.append((given[1], more, original(*given, **more))) or learnt[-1][2]
        ),
    )
    result = run(store, tmp_path / "m.safetensors", refs=references, teacher=str(folder), **SELF)
    (given, options, (made, about)), (_, second, _) = learnt
    assert options == {"borders": True}
    assert second == {"borders": False}
    assert about["accepted"] == about["objects"] == given.count() > 0
    assert made.borders.all()
    for truth, target, valid in zip(given.labels, made.nucleus, made.valid, strict=True):
        assert (target[valid] == (truth > 0)[valid]).all()
    if kind == "tiff":
        wanted = {int((make_tissue(seed=seed).labels > 0).sum()) for seed in range(2)}
        assert max((each > 0).sum() for each in given.labels) <= max(wanted)
    assert result.rounds
    origins = [entry["origin"] for entry in read_model_header(tmp_path / "m.safetensors").data]
    assert origins == ["initial", "reference", "reference", "reference", "teacher"]


def test_a_teacher_that_is_stopped_goes_on_as_if_it_had_not_been(
    store, tmp_path, references, loose
):
    folder = tmp_path / "found"
    folder.mkdir()
    for seed in range(3):
        tifffile.imwrite(folder / f"{seed}.tif", make_tissue(seed=seed).labels.astype(np.uint16))
    run(store, tmp_path / "whole.safetensors", refs=references, teacher=str(folder), **SELF)
    with pytest.raises(Stopped):
        run(
            store,
            tmp_path / "cut.safetensors",
            refs=references,
            teacher=str(folder),
            stop_after=7,
            **SELF,
        )
    run(
        store,
        tmp_path / "cut.safetensors",
        refs=references,
        teacher=str(folder),
        execution={"resume": True},
        **SELF,
    )
    assert_same_weights(tmp_path / "whole.safetensors", tmp_path / "cut.safetensors")


def test_a_teacher_of_other_images_is_refused(store, tmp_path, references):
    tifffile.imwrite(tmp_path / "elsewhere.tif", make_tissue(seed=0).labels.astype(np.uint16))
    with pytest.raises(
        InvalidInput, match="none of its 1 label images is named like one of the 3 references"
    ):
        run(
            store,
            tmp_path / "m.safetensors",
            refs=references,
            teacher=str(tmp_path / "elsewhere.tif"),
            **SELF,
        )
    tifffile.imwrite(tmp_path / "0.tif", np.ones((7, 9), np.uint16))
    with pytest.raises(
        InvalidInput, match=r"0\.tif: is 7 x 9 px but .*labels must be of the reference's own size"
    ):
        run(
            store,
            tmp_path / "n.safetensors",
            refs=references,
            teacher=str(tmp_path / "0.tif"),
            **SELF,
        )
