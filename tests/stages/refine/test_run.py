"""Refinement as a stage: labels bit for bit, nothing outside nuclei, a stop loses nothing, and bad
references are named.

``initial``: 8 patches of 64 px drawn from four images that are made in code.
"""

import json
from functools import partial

import numpy as np
import pytest
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
from histocli.config.generate import GenerateConfig
from histocli.config.refine import RefineConfig
from histocli.stages.generate.run import generate
from histocli.stages.refine import learn, repaint, weigh
from histocli.stages.refine.run import refine
from histocli.stores.checkpoints import checkpoint_path
from histocli.stores.logs import log_path
from histocli.stores.patches import PatchStore
from histocli.training.adversarial import guard as guards
from histocli.training.adversarial.gate import edit_gate
from histocli.training.adversarial.judge import HeldOut
from histocli.training.adversarial.step import StepReport
from tests.tissue import make_tissue

MPP = 0.5
CONFIG = {"steps": 6, "batch": 2, "proof": 0.0}
UNWEIGHED = CONFIG | {"weights": False}
RUN = Execution(device="cpu", precision="fp32", workers=1)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    for seed in range(4):
        Image.fromarray(make_tissue(seed=seed).image).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def initial(references, tmp_path_factory):
    path = tmp_path_factory.mktemp("initial") / "synth.zarr"
    generate(
        [str(references)], path, GenerateConfig(n=8, patch_px=64, mpp=MPP, reference_mpp=MPP), RUN
    )
    return str(path)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Small networks that are judged on little, a classifier of three steps, and a critic that need
    not prove itself: what is learnt does not matter here."""
    few = [
        (weigh, "TwoSampleSchedule", {"steps": 3, "batch": 2, "folds": 2}),
        (learn, "AdversarialSchedule", {"least_skill": 0.0, "refiner_rate": 0.05, "history": 4}),
        (learn, "RefinerArchitecture", {"width": 8, "blocks": 1, "style": 8}),
    ]
    full = learn.judge_held_out
    with pytest.MonkeyPatch.context() as patch:
        for module, name, values in few:
            patch.setattr(module, name, partial(getattr(module, name), **values))
        patch.setattr(
            learn,
            "judge_held_out",
            lambda training, sampler, seed, batches, size, dtype: full(
                training, sampler, seed, 1, 4, dtype
            ),
        )
        yield


@pytest.fixture(scope="module")
def refined(quick, initial, tmp_path_factory):
    out = tmp_path_factory.mktemp("refined") / "refined.zarr"
    return refine(initial, [], out, RefineConfig(**CONFIG), RUN), out


def test_labels_are_kept_bit_for_bit_and_only_nuclei_change(refined, initial):
    result, out = refined
    before, after = PatchStore.open(initial), PatchStore.open(out)
    image, labels = before.read(range(8))
    new, new_labels = after.read(range(8))
    assert result.status == "done"
    assert after.origin == "refined"
    assert after.mpp == before.mpp
    assert np.array_equal(labels, new_labels)
    far = np.stack([closed_gate(label) for label in labels])
    assert np.array_equal(image[far], new[far])
    assert not np.array_equal(image, new)


def closed_gate(labels):
    return edit_gate(labels, MPP) == 0


def test_the_store_says_where_it_came_from_and_holds_the_networks(refined, initial):
    result, out = refined
    before, after = PatchStore.open(initial), PatchStore.open(out)
    assert after.attributes["initial"]["sha256"] == before.content_hash()
    assert {"refiner", "realism", "style", "averaged"} == set(after.networks())
    assert np.array_equal(after.reference, before.reference)  # each is refined towards its own
    assert after.weight.mean() == pytest.approx((after.weight > 0).mean(), abs=1e-5)
    assert result.rejected == (after.weight == 0).sum()
    assert {"initial", "refined"} == set(result.agreement)
    assert not checkpoint_path(out).exists()


def test_losses_are_json_lines_and_sheets_are_pictures(refined):
    _, out = refined
    lines = [
        json.loads(line) for line in (log_path(out) / "metrics.jsonl").read_text().splitlines()
    ]
    judged = [line["held_out"] for line in lines if "held_out" in line]
    assert judged
    assert all(0 <= judged[-1][key] <= 1 for key in ("auc_initial", "auc_refined", "style_matched"))
    assert any("auc" in line for line in lines)
    sheet = np.asarray(Image.open(sorted(log_path(out).glob("preview-*.png"))[-1]))
    assert sheet.shape[2] == 3
    assert sheet.std() > 5


def test_the_same_run_gives_the_same_store_and_is_skipped_when_repeated(refined, initial, tmp_path):
    _, out = refined
    again = refine(initial, [], tmp_path / "b.zarr", RefineConfig(**CONFIG), RUN)
    assert PatchStore.open(again.output).content_hash() == PatchStore.open(out).content_hash()
    assert refine(initial, [], tmp_path / "b.zarr", RefineConfig(**CONFIG), RUN).status == "skipped"
    with pytest.raises(StoreExists):
        refine(initial, [], tmp_path / "b.zarr", RefineConfig(**CONFIG | {"steps": 5}), RUN)


def test_a_stop_keeps_a_checkpoint_and_resuming_gives_the_same_patches(refined, initial, tmp_path):
    _, whole = refined
    out = tmp_path / "stopped.zarr"
    with pytest.raises(Stopped, match="to go on"):
        refine(initial, [], out, RefineConfig(**CONFIG), RUN, stop_after=3)
    assert checkpoint_path(out).exists()
    assert not out.exists()
    resumed = Execution(device="cpu", precision="fp32", workers=1, resume=True)
    refine(initial, [], out, RefineConfig(**CONFIG), resumed)
    first, second = PatchStore.open(whole), PatchStore.open(out)
    assert np.array_equal(first.read(range(8))[0], second.read(range(8))[0])
    for name, value in first.networks()["refiner"].items():
        assert np.array_equal(value, second.networks()["refiner"][name]), name


def test_an_interruption_while_patches_are_repainted_costs_no_training(
    initial, tmp_path, monkeypatch
):
    out = tmp_path / "late.zarr"

    def stop(*_, **__):
        raise Stopped("now")

    with monkeypatch.context() as patch:
        patch.setattr(repaint, "refine_patches", stop)
        with pytest.raises(Stopped, match="now"):
            refine(initial, [], out, RefineConfig(**UNWEIGHED), RUN)
    taken = []
    full = learn.train_adversarial
    monkeypatch.setattr(
        learn,
        "train_adversarial",
        lambda *values: (taken.append(report) or report for report in full(*values)),
    )
    refine(
        initial,
        [],
        out,
        RefineConfig(**UNWEIGHED),
        Execution(device="cpu", precision="fp32", workers=1, resume=True),
    )
    assert not taken
    assert PatchStore.open(out).origin == "refined"


def test_a_trained_refiner_is_applied_to_other_patches(refined, initial, references, tmp_path):
    _, out = refined
    result = refine(
        initial,
        [str(references)],
        tmp_path / "applied.zarr",
        RefineConfig(model=str(out), reference_mpp=MPP, weights=False),
        RUN,
    )
    assert result.moves is None
    assert result.critic_auc is None
    applied = PatchStore.open(result.output)
    assert np.array_equal(applied.read(range(8))[0], PatchStore.open(out).read(range(8))[0])
    with pytest.raises(InvalidStore, match="holds no refiner"):
        refine(initial, [], tmp_path / "c.zarr", RefineConfig(model=initial), RUN)


def test_restyled_patches_record_the_reference_that_lent_its_style(initial, refined, tmp_path):
    _, out = refined
    result = refine(
        initial,
        [],
        tmp_path / "restyled.zarr",
        RefineConfig(model=str(out), restyle=True, weights=False),
        RUN,
    )
    before, after = PatchStore.open(initial), PatchStore.open(result.output)
    changed = after.reference != before.reference
    assert changed.any()
    assert np.array_equal(before.read(range(8))[1], after.read(range(8))[1])


def test_other_references_join_the_records_and_are_announced(initial, refined, tmp_path, caplog):
    _, out = refined
    for seed in (7, 8):
        Image.fromarray(make_tissue(seed=seed).image).save(tmp_path / f"new{seed}.png")
    config = RefineConfig(model=str(out), reference_mpp=MPP, weights=False)
    result = refine(initial, [str(tmp_path / "new*.png")], tmp_path / "other.zarr", config, RUN)
    store = PatchStore.open(result.output)
    names = {store.references[number].name for number in store.reference}
    assert names <= {"new7.png", "new8.png"}
    assert "appearance" in store.references[-1].statistics
    assert "not among the references" in caplog.text


def test_one_reference_works_and_says_what_it_cannot_do(initial, references, tmp_path, caplog):
    result = refine(
        initial,
        [str(references / "0.png")],
        tmp_path / "one.zarr",
        RefineConfig(steps=2, batch=2, proof=0.0, reference_mpp=MPP),
        RUN,
    )
    assert result.auc is None
    assert "one reference" in caplog.text
    assert "at least two references" in caplog.text


def test_white_references_are_refused_by_name(initial, tmp_path):
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(tmp_path / "white.png")
    with pytest.raises(InvalidInput, match="shows nuclei"):
        refine(
            initial,
            [str(tmp_path / "white.png")],
            tmp_path / "x.zarr",
            RefineConfig(reference_mpp=MPP, **UNWEIGHED),
            RUN,
        )


def test_references_that_are_gone_or_changed_are_named(initial, references, tmp_path):
    lost = references / "3.png"
    content = lost.read_bytes()
    try:
        lost.write_bytes(content + b" ")
        with pytest.raises(InputNotFound, match=r"3\.png.*--refs"):
            refine(initial, [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED), RUN)
    finally:
        lost.write_bytes(content)


def test_only_initial_patches_are_taken(refined, tmp_path):
    _, out = refined
    with pytest.raises(InvalidStore, match="holds refined patches"):
        refine(str(out), [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED), RUN)


def test_a_dry_run_writes_nothing(initial, tmp_path):
    dry = Execution(device="cpu", workers=1, dry_run=True)
    assert (
        refine(initial, [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED), dry).status == "planned"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("report", "word"),
    [
        (StepReport(3, float("nan"), 0.5, 0.5, 0.01, 0.8), "not a number"),
        (StepReport(3, 0.5, 0.5, 0.5, 0.9, 0.8), "has left what it was given"),
    ],
)
@pytest.mark.parametrize("always", [False, True])
def test_a_training_that_goes_wrong_goes_back_and_slows_down(
    initial, tmp_path, monkeypatch, caplog, report, word, always
):
    full = learn.train_adversarial
    paces = []

    def sabotaged(training, *values):
        for number, true in enumerate(full(training, *values)):
            paces.append(training.pace)
            if number == 2 or (always and number > 2):
                for network in training.networks.by_name().values():
                    for parameter in network.parameters():
                        parameter.data.fill_(float("nan"))
                yield report
            yield true

    monkeypatch.setattr(learn, "train_adversarial", sabotaged)
    result = refine(initial, [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED), RUN)
    assert word in caplog.text
    assert paces == ([1, 1, 1, 0.5, 0.25, 0.125] if always else [1, 1, 1, 0.5, 0.5, 0.5])
    assert result.steps == 6
    networks = PatchStore.open(result.output).networks()
    assert all(
        np.isfinite(value).all() for network in networks.values() for value in network.values()
    )


def test_a_refiner_that_makes_all_nuclei_alike_is_stopped(initial, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(learn, "judge_held_out", lambda *_: HeldOut(0.95, 0.5, 0.8, 0.1))
    result = refine(initial, [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED), RUN)
    assert "look alike" in caplog.text
    assert result.steps < CONFIG["steps"]
    weights = PatchStore.open(result.output).networks()["averaged"]
    assert not weights["head.weight"].any()  # those of the beginning: nothing was good yet


def test_the_refiner_moves_once_the_critic_has_proven_itself(
    initial, tmp_path, monkeypatch, caplog
):
    judged = iter([0.7, 0.8, 0.95, *[0.6] * 50])
    monkeypatch.setattr(learn, "judge_held_out", lambda *_: HeldOut(next(judged), 0.5, 0.8, 1.0))
    monkeypatch.setattr(learn, "JUDGEMENTS", 0)
    monkeypatch.setattr(guards, "LARGEST_CHANGE", 9.0)
    out = tmp_path / "x.zarr"
    result = refine(initial, [], out, RefineConfig(steps=9, batch=2, weights=False), RUN)
    lines = [
        json.loads(line) for line in (log_path(out) / "metrics.jsonl").read_text().splitlines()
    ]
    proofs = [(line["step"], line["critic_proven"]) for line in lines if "critic_auc" in line]
    assert [proven for _, proven in proofs] == [False, False, True]
    assert result.moves == 9 - proofs[-1][0]
    assert "never moved" not in caplog.text


def test_a_critic_that_proves_nothing_leaves_patches_as_they_are(
    initial, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(learn, "judge_held_out", lambda *_: HeldOut(0.7, 0.5, 0.8, 1.0))
    result = refine(
        initial, [], tmp_path / "x.zarr", RefineConfig(steps=6, batch=2, weights=False), RUN
    )
    assert result.moves == 0
    assert "never moved" in caplog.text
    assert np.array_equal(
        PatchStore.open(result.output).read(range(8))[0], PatchStore.open(initial).read(range(8))[0]
    )


@pytest.mark.parametrize("changed", [{"edits": "patch"}, {"objective": "fooling"}])
def test_other_ways_to_refine(initial, tmp_path, changed):
    result = refine(initial, [], tmp_path / "x.zarr", RefineConfig(**UNWEIGHED, **changed), RUN)
    before, after = PatchStore.open(initial), PatchStore.open(result.output)
    image, labels = before.read(range(8))
    new, _ = after.read(range(8))
    assert result.moves
    assert np.array_equal(image[labels < 0], new[labels < 0])
    far = np.stack([closed_gate(label) for label in labels]) & (labels >= 0)
    assert (image[far] != new[far]).any() == ("edits" in changed)
    applied = refine(
        initial, [], tmp_path / "y.zarr", RefineConfig(model=str(result.output), weights=False), RUN
    )
    # the refiner knows where it may edit; weights that were read lie in memory otherwise than those
    # that were trained, so that a sum may be rounded otherwise, and a pixel by a level
    again = PatchStore.open(applied.output).read(range(8))[0]
    difference = np.abs(again.astype(int) - new)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch": 1}, {"identity": -1.0}, {"style": -0.1}, {"time_budget_s": 0.0},
     {"seed": -1}, {"edits": "glass"}, {"objective": "beauty"}, {"proof": 1.5}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InvalidOption):
        RefineConfig(**wrong)
