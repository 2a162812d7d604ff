"""Self-training as a stage: rounds follow, are watched, can be taken back, and lose nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from histocli.base.errors import InvalidInput, InvalidOption, Stopped
from histocli.base.progress import silent
from histocli.inference.predict import Predictor
from histocli.model.segmenter import build_segmenter
from histocli.stages.train import run as stage
from histocli.stages.train import teacher, unlabelled
from histocli.stages.train.teacher import SelfTraining, find_nuclei
from histocli.stages.train.unlabelled import Teacher, Unlabelled
from histocli.stores.logs import log_path
from histocli.stores.models import read_model, read_model_header
from histocli.training import self_training
from tests.stages.train.conftest import MPP, SELF, assert_same_weights, run
from tests.tissue import make_tissue


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def made():
    return []


@pytest.fixture
def whole(store, references, loose, folder, made):
    """An uninterrupted self-training: the model and its result, made once for all tests."""
    out = folder / "whole.safetensors"
    if not made:
        made.append(run(store, out, refs=references, preview=folder / "worst.png", **SELF))
    return out, made[0]


def test_rounds_of_self_training_follow(whole, folder):
    out, result = whole
    worst = np.asarray(Image.open(folder / "worst.png"))
    (last,) = log_path(out).rglob("disagreement-2.png")
    assert (worst == np.asarray(Image.open(last))).all()
    assert [found["round"] for found in result.rounds] == [1, 2]
    for found in result.rounds:
        assert 0.1 <= found["mean_weight"] <= 1
        assert 0 <= found["agreement"] <= 1
        assert found["kept"]
    header = read_model_header(out)
    assert header.training["self_training"] == result.rounds
    assert header.training["steps"] == 10
    assert [entry["origin"] for entry in header.data].count("reference") == 3
    names = {path.name for path in log_path(out).iterdir()}
    assert {"disagreement-1.png", "disagreement-2.png"} <= names


def test_references_change_what_is_learnt(whole, store, tmp_path):
    run(store, tmp_path / "without.safetensors", **SELF)
    with pytest.raises(AssertionError):
        assert_same_weights(whole[0], tmp_path / "without.safetensors")


@pytest.mark.parametrize("stop_after", [3, 7, 8, 9])
def test_self_training_that_is_stopped_goes_on_as_if_it_had_not_been(
    whole, store, tmp_path, references, stop_after
):
    """In the first part, at the beginning of a round, between two, and in the last one."""
    cut = tmp_path / "cut.safetensors"
    with pytest.raises(Stopped):
        run(store, cut, refs=references, stop_after=stop_after, **SELF)
    found = run(store, cut, refs=references, execution={"resume": True}, **SELF)
    assert_same_weights(whole[0], cut)
    assert found.rounds == whole[1].rounds


def test_a_stop_while_tissue_is_labelled_costs_no_training(
    whole, store, tmp_path, references, monkeypatch
):
    """While the first teacher labels it, and at the end of its round."""
    cut = tmp_path / "cut.safetensors"
    original = teacher.find_nuclei

    def stopping_at(look):
        looks = iter(range(1, 10))

        def find(predictor, patches, track, message):
            if next(looks) == look:
                raise Stopped(message)
            return original(predictor, patches, track, message)

        return find

    for look in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(teacher, "find_nuclei", stopping_at(look))
            with pytest.raises(Stopped, match="to go on"):
                run(store, cut, refs=references, execution={"resume": look > 1}, **SELF)
    steps = []
    original_steps = stage.train_steps
    monkeypatch.setattr(
        stage,
        "train_steps",
        lambda *given, **more: (
            steps.append(record.step) or record for record in original_steps(*given, **more)
        ),
    )
    run(store, cut, refs=references, execution={"resume": True}, **SELF)
    assert_same_weights(whole[0], cut)
    assert steps == [9, 10]  # only the second round was left


def test_a_power_cut_between_two_rounds_costs_no_round(
    whole, store, tmp_path, references, monkeypatch
):
    """The checkpoint that the second round begins with knows that the first one is over."""

    class PowerCut(Exception):
        pass

    def cut_at(bench):
        shared.append(bench)
        if len(shared) == 3:  # twice in the first round
            raise PowerCut
        return share(bench)

    cut, share, shared = tmp_path / "cut.safetensors", teacher.share_weights, []
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "share_weights", cut_at)
        with pytest.raises(PowerCut):
            run(store, cut, refs=references, **SELF)
    found = run(store, cut, refs=references, execution={"resume": True}, **SELF)
    assert_same_weights(whole[0], cut)
    assert found.rounds == whole[1].rounds


def test_a_round_that_changes_what_a_nucleus_is_is_taken_back(
    store, tmp_path, references, monkeypatch, caplog
):
    monkeypatch.setattr(self_training, "AREA_DRIFT", -1.0)  # nothing is small enough
    out = tmp_path / "m.safetensors"
    teachers = []
    original = SelfTraining._begin_round

    def watch(self, *given):
        found = original(self, *given)
        teachers.append(self.bench.training.weights())
        return found

    monkeypatch.setattr(SelfTraining, "_begin_round", watch)
    result = run(store, out, refs=references, **SELF)
    assert [found["kept"] for found in result.rounds] == [False]
    assert "the weights before it are kept" in caplog.text
    _, tensors = read_model(out)
    assert all((tensors[name] == value).all() for name, value in teachers[0].items())


def test_references_that_cannot_be_read_stop_or_are_left_out(store, tmp_path, references, loose):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    refs = [*references, str(tmp_path / "broken.png")]
    with pytest.raises(InvalidInput, match=r"broken\.png"):
        run(store, tmp_path / "m.safetensors", refs=refs, **SELF)
    tolerant = {"on_error": "continue"}
    result = run(store, tmp_path / "m.safetensors", refs=refs, execution=tolerant, **SELF)
    assert [name.rsplit("/", 1)[-1] for name in result.failed] == ["broken.png"]


def test_references_without_tissue_are_refused(store, tmp_path):
    Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(tmp_path / "white.png")
    with pytest.raises(InvalidInput, match="none of the 1 references shows nuclei"):
        run(store, tmp_path / "m.safetensors", refs=[str(tmp_path / "white.png")], **SELF)


@pytest.fixture(params=["tiff", "geojson"])
def outlined(request, tmp_path):
    """Labels of two of three references, as label images or as boxes."""
    folder = tmp_path / "found"
    folder.mkdir()
    for seed in range(2):
        labels = make_tissue(seed=seed).labels
        if request.param == "tiff":
            tifffile.imwrite(folder / f"{seed}.tif", labels.astype(np.uint16))
            continue
        features = []
        for number in range(1, labels.max() + 1):
            rows, columns = np.nonzero(labels == number)
            left, right = int(columns.min()), int(columns.max()) + 1
            top, bottom = int(rows.min()), int(rows.max()) + 1
            ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            geometry = {"type": "Polygon", "coordinates": [ring]}
            features.append({"type": "Feature", "geometry": geometry, "properties": {}})
        collection = {"type": "FeatureCollection", "features": features}
        (folder / f"{seed}.geojson").write_text(json.dumps(collection))
    return folder


def test_a_persons_labels_may_be_the_first_teacher(
    store, tmp_path, references, loose, outlined, monkeypatch
):
    """What the first round learns is what they say."""
    learnt = []
    original = teacher.pseudo_labelled

    def spy(patches, findings, *given, borders):
        made, about = original(patches, findings, *given, borders=borders)
        learnt.append((findings, borders, made, about))
        return made, about

    monkeypatch.setattr(teacher, "pseudo_labelled", spy)
    out = tmp_path / "m.safetensors"
    result = run(store, out, refs=references, teacher=str(outlined), **SELF)
    given, borders, made, about = learnt[0]
    assert borders
    assert len(learnt) == 1  # from the second round on, maps are learnt
    assert about["accepted"] == about["objects"] == given.count() > 0
    assert made.borders.all()
    for truth, target, valid in zip(given.labels, made.nucleus, made.valid, strict=True):
        assert (target[valid] == (truth > 0)[valid]).all()
    if list(outlined.glob("*.tif")):
        wanted = {int((make_tissue(seed=seed).labels > 0).sum()) for seed in range(2)}
        assert max((each > 0).sum() for each in given.labels) <= max(wanted)
    assert result.rounds
    origins = [entry["origin"] for entry in read_model_header(out).data]
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


def test_sizes_are_undone_before_maps_are_averaged(monkeypatch):
    """A network that answers with the brightness of each pixel answers the same at every size."""
    ramp = np.linspace(40, 220, 64).astype(np.uint8)
    images = np.stack([np.repeat(np.broadcast_to(ramp, (64, 64))[..., None], 3, axis=2)] * 2)
    images[1] = images[1].transpose(1, 0, 2)
    torch.manual_seed(0)
    segmenter = build_segmenter({"family": "unet", "channels": [4, 4, 6, 6]})
    predictor = Predictor(segmenter, mpp=MPP, device=torch.device("cpu"), dtype=torch.float32)

    def brightness(tiles):
        grey = tiles.mean(axis=3) / 255
        return np.stack([grey, grey], axis=3).astype(np.float32)

    monkeypatch.setattr(predictor, "maps", brightness)
    tissue = Unlabelled(images, [None, None], None, [])
    found = find_nuclei([Teacher(predictor, None)], tissue, silent, "stopped")
    for image, probability in zip(images, found.probability, strict=True):
        np.testing.assert_allclose(probability, image.mean(axis=2) / 255, atol=0.012)


def test_several_models_teach_what_they_find_on_average(
    whole, store, tmp_path, references, monkeypatch, loose
):
    """Two of one kind teach as one does, but know that they agree; what is no model is named."""
    learnt = []
    original = teacher.soft_tissue

    def spy(images, maps):
        learnt.append(np.stack(maps))
        return original(images, maps)

    monkeypatch.setattr(teacher, "soft_tissue", spy)
    settings = {"steps": 2, "rounds": 1, "reference_mpp": MPP}
    word, other = str(whole[0]), str(tmp_path / "other.safetensors")
    run(store, Path(other), steps=2, seed=9)
    for name, words in (("one", word), ("two", f"{word},{word}"), ("both", f"{word}, {other}")):
        run(store, tmp_path / name, refs=references, teacher=words, **settings)
    one, two, both = learnt
    np.testing.assert_allclose(two, one, atol=1e-6)
    assert (both[..., 2] >= one[..., 2] / 2**0.5 - 1e-6).all()  # the views of both count
    assert (both[..., 2] > one[..., 2] + 0.01).any()  # where the two models disagree
    origins = [each["origin"] for each in read_model_header(tmp_path / "both").data]
    assert origins.count("teacher") == 2
    with pytest.raises(InvalidOption, match="'nothing' is no model"):
        run(store, tmp_path / "m", refs=references, teacher=f"{word},nothing", **settings)


def test_another_model_teaches_from_the_first_step(
    whole, store, tmp_path, references, monkeypatch, loose
):
    """Its maps are learnt throughout, and a stopped training goes on as if it had not been."""
    out, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    settings = {"steps": 6, "rounds": 1, "reference_mpp": MPP, "teacher": str(whole[0])}
    result = run(store, out, refs=references, **settings)
    assert [found["round"] for found in result.rounds] == [1]
    assert result.steps == 6
    header = read_model_header(out)
    assert [entry["origin"] for entry in header.data].count("teacher") == 1
    with pytest.raises(Stopped):
        run(store, again, refs=references, stop_after=3, **settings)
    run(store, again, refs=references, execution={"resume": True}, **settings)
    assert_same_weights(out, again)


def test_tissue_is_labelled_in_the_stain_that_the_teacher_knows(
    whole, store, tmp_path, references, monkeypatch, loose
):
    seen = []
    original = unlabelled.maps_over_scales

    def spy(predict, patches, *given):
        seen.append(patches)
        return original(predict, patches, *given)

    monkeypatch.setattr(unlabelled, "maps_over_scales", spy)
    settings = {"steps": 4, "rounds": 1, "reference_mpp": MPP}
    run(store, tmp_path / "m.safetensors", refs=references, **settings)
    adapted = seen.copy()
    plain = {"contrast_quantile": 0.0, **settings}
    run(store, tmp_path / "n.safetensors", refs=references, **plain)
    left = seen[len(adapted) :]
    assert adapted[0].shape == left[0].shape
    assert (adapted[0] != left[0]).any()


def test_the_time_of_the_last_labelling_is_measured_without_the_slow_first_time(monkeypatch):
    """A clock that goes on by half a second a patch, and by five more the first time."""
    now, labelled = [0.0], []

    def label(teachers, tissue, track, stopped):
        now[0] += 0.5 * len(tissue.patches) + (0 if labelled else 5.0)
        labelled.append(len(tissue.patches))

    monkeypatch.setattr(unlabelled, "find_nuclei", label)
    monkeypatch.setattr(unlabelled.time, "perf_counter", lambda: now[0])
    for n in (3, 100):
        labelled.clear()
        tissue = Unlabelled(np.zeros((n, 8, 8, 3), np.uint8), [None] * n, None, [])
        assert unlabelled.labelling_s(None, tissue) == pytest.approx(unlabelled.SLOWER * 0.5 * n)
        assert labelled == [1, min(n, unlabelled.PROBED)]


def test_what_is_reserved_for_labelling_takes_the_place_of_the_guess():
    reserved = []
    clock = SimpleNamespace(reserve=reserved.append)
    bench = SimpleNamespace(
        session=SimpleNamespace(clock=clock), request=SimpleNamespace(taught_by=[])
    )
    rounds = SelfTraining(bench, None)
    rounds.reserve(40.0)
    rounds.reserve(6.0)
    assert reserved == [40.0, -34.0]
