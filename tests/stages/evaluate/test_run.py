"""Evaluation of folders, stores, manifests and single images.

A set of three images with a handful of square nuclei; predictions are the truth shifted by 0, 1 and
2 pixels.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import tifffile
import zarr

from histocli.base.errors import (
    HistosynthError,
    InputNotFound,
    InvalidInput,
    InvalidOption,
    SomeFailed,
)
from histocli.cli.app import run
from histocli.config.common import Execution
from histocli.config.evaluate import EvaluateConfig
from histocli.metrics import windows as metric_windows
from histocli.metrics.comparison import Rules, compare
from histocli.metrics.table import NAMES, shown_in
from histocli.stages.evaluate import pairs
from histocli.stages.evaluate.run import compare_models, evaluate
from histocli.stages.evaluate.scores import EvaluateResult
from histocli.stores.labels import CONTRACT as LABELS_CONTRACT
from histocli.stores.labels import LabelStore, PatchLabelsWriter
from histocli.stores.patches import CONTRACT as PATCHES_CONTRACT
from histocli.stores.patches import PatchStoreWriter, ReferenceRecord
from histocli.stores.provenance import Provenance
from tests.stores.labels.writing import write_slide_labels

SHARED = Path(__file__).parents[3].parent / "shared"
ONE = Execution(workers=1)


def truth_of(index: int) -> np.ndarray:
    labels = np.zeros((40, 48), np.int32)
    for k in range(4 + index):
        y, x = 4 + 12 * (k // 4), 3 + 11 * (k % 4)
        labels[y : y + 8, x : x + 8] = k + 1
    return labels


def prediction_of(index: int) -> np.ndarray:
    return np.roll(truth_of(index), index, axis=1)


@pytest.fixture
def folders(tmp_path):
    """``truth/`` and ``prediction/`` with a.tif, b.tif, c.tif."""
    for folder, make in (("truth", truth_of), ("prediction", prediction_of)):
        (tmp_path / folder).mkdir()
        for index, name in enumerate("abc"):
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", make(index))
    return str(tmp_path / "prediction"), str(tmp_path / "truth")


def score(prediction: str, truth: str | None, **config):
    return evaluate(prediction, truth, EvaluateConfig(**config), ONE)


def found(result) -> list:
    """Name and counts of each image."""
    return [(image.name, image.counts) for image in result.images]


def count(truth, prediction):
    return compare(truth, prediction, Rules(mpp=0.25)).counts


def expected() -> list:
    return [count(truth_of(i), prediction_of(i)) for i in range(3)]


def provenance(contract: str) -> Provenance:
    return Provenance(contract=contract, command="test", config={}, config_hash="0" * 16, seed=0)


def write_label_store(path: Path, labels: np.ndarray, **columns: np.ndarray) -> None:
    n = int(labels.max())
    table = {
        "id": np.arange(1, n + 1),
        "y_um": np.zeros(n),
        "x_um": np.zeros(n),
        "box": np.zeros((n, 4)),
        "area_um2": np.ones(n),
    }
    table |= columns
    write_slide_labels(
        path,
        np.zeros((*labels.shape, 3), np.uint8),
        labels,
        table,
        mpp=0.25,
        mpp_source="given",
        source={"name": "a", "sha256": ""},
        model={"name": "m", "sha256": ""},
        provenance=provenance(LABELS_CONTRACT),
    )


def write_patch_store(path: Path, labels: np.ndarray) -> None:
    n, side = labels.shape[:2]
    writer = PatchStoreWriter(
        path,
        n=n,
        patch_px=side,
        mpp=0.25,
        origin="labelled",
        references=[
            ReferenceRecord(name="r", sha256="0" * 64, mpp=0.25, mpp_source="given", statistics={})
        ],
        provenance=provenance(PATCHES_CONTRACT),
    )
    with writer:
        for batch in writer.pending():
            where, zeros = slice(batch.start, batch.stop), np.zeros(len(batch), np.int32)
            image = np.zeros((len(batch), side, side, 3), np.uint8)
            writer.write(batch, image, labels[where], np.ones(len(batch), np.float32), zeros)
        writer.finish()


def write_patch_labels(path: Path, labels: np.ndarray) -> None:
    writer = PatchLabelsWriter(
        path,
        n=len(labels),
        shape=labels.shape[1:],
        mpp=0.25,
        source={"name": "a", "sha256": ""},
        model={"name": "m", "sha256": ""},
        provenance=provenance(LABELS_CONTRACT),
    )
    with writer:
        for batch in writer.pending():
            writer.write(batch, labels[batch.start : batch.stop])
        writer.finish()


def test_folders_pair_by_stem(folders):
    result = score(*folders)
    assert [image.name for image in result.images] == ["a", "b", "c"]
    assert [image.counts for image in result.images] == expected()
    assert result.scores.pooled == sum(expected()[1:], expected()[0])


def test_json_has_the_documented_shape(folders):
    values = json.loads(orjson.dumps(score(*folders, minimum=(("pq", 0.99),)).to_json()))
    assert values["schema"] == EvaluateResult.schema
    assert (values["status"], values["output"], values["error"]) == ("done", None, None)
    for part in ("mean", "ci95", "pooled"):
        assert set(values[part]) == set(NAMES)
    assert all(
        edges[0] <= values["mean"][name] <= edges[1]
        for name, edges in values["ci95"].items()
        if edges
    )
    assert [image["name"] for image in values["images"]] == ["a", "b", "c"]
    assert set(NAMES) <= set(values["images"][0])
    assert values["settings"]["bootstrap"] == 1000
    assert "IoU > 0.5" in values["settings"]["rules"]


def test_workers_do_not_change_the_result(folders):
    many = evaluate(*folders, EvaluateConfig(), Execution(workers=3))
    one = score(*folders)
    assert found(many) == found(one)
    assert many.scores.summary == one.scores.summary


def test_single_images_pair_whatever_their_names(folders):
    prediction, truth = folders
    result = score(f"{prediction}/b.tif", f"{truth}/a.tif")
    assert [image.name for image in result.images] == ["a"]
    assert result.images[0].counts == count(truth_of(0), prediction_of(1))
    assert set(result.scores.summary.ci95.values()) == {None}


def test_other_kinds_of_files_pair_too(folders, tmp_path):
    (tmp_path / "other").mkdir()
    for index, name in enumerate("abc"):
        np.save(tmp_path / "other" / f"{name}.npy", prediction_of(index))
    assert found(score(str(tmp_path / "other"), folders[1])) == found(score(*folders))


def test_an_output_folder_of_segment_takes_each_slide_once(folders, tmp_path):
    """Stores win over TIFFs of the same slide, and overlays are pictures."""
    out = tmp_path / "out"
    out.mkdir()
    for index, name in enumerate("abc"):
        if name != "c":
            write_label_store(out / f"{name}.ome.zarr", prediction_of(index))
        tifffile.imwrite(out / f"{name}.tif", prediction_of(index) * (name == "c"))
        (out / f"{name}.overlay.png").write_bytes(b"a picture")
        (out / f"{name}.qc.png").write_bytes(b"another picture")
    assert found(score(str(out), folders[1])) == found(score(*folders))


def test_a_label_store_alone(folders, tmp_path):
    write_label_store(tmp_path / "x.ome.zarr", prediction_of(1))
    assert (
        score(str(tmp_path / "x.ome.zarr"), f"{folders[1]}/b.tif").images[0].counts == expected()[1]
    )


def test_patches_pair_by_number(tmp_path):
    """-1 in the truth is ignored; the store of predictions may stand in the output folder."""
    truth = np.stack([np.pad(truth_of(i), ((0, 8), (0, 0))) for i in range(3)])
    truth[2, :6] = -1
    prediction = np.stack([np.pad(prediction_of(i), ((0, 8), (0, 0))) for i in range(3)])
    (tmp_path / "out").mkdir()
    write_patch_store(tmp_path / "synth.zarr", truth)
    write_patch_labels(tmp_path / "out" / "synth.labels.zarr", prediction)
    wanted = [count(t, p) for t, p in zip(truth, prediction, strict=True)]
    for word in ("out", "out/synth.labels.zarr"):
        result = score(str(tmp_path / word), str(tmp_path / "synth.zarr"))
        assert [image.counts for image in result.images] == wanted
    assert (
        score(str(tmp_path / "synth.zarr"), str(tmp_path / "synth.zarr")).scores.summary.mean["pq"]
        == 1
    )


def test_a_manifest_names_pairs(folders, tmp_path):
    lines = ["truth,prediction", "truth/a.tif,prediction/b.tif", "truth/b.tif, prediction/b.tif"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    result = score(str(tmp_path / "pairs.csv"), None)
    assert [image.counts for image in result.images] == [
        count(truth_of(i), prediction_of(1)) for i in (0, 1)
    ]
    assert len({image.name for image in result.images}) == 2


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("a,b\n1,2\n", InvalidInput, "columns prediction, truth"),
        ("", InvalidInput, "columns prediction, truth"),
        ("prediction,truth\n", InputNotFound, "no input"),
        ("prediction,truth\nprediction/a.tif,\n", InvalidInput, "line 2 has no truth"),
        ("prediction,truth\nprediction/z.tif,truth/a.tif\n", InputNotFound, "z.tif"),
    ],
)
def test_bad_manifests(folders, tmp_path, text, kind, said):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(kind, match=said):
        score(str(tmp_path / "pairs.csv"), None)


def test_missing_truth_and_superfluous_truth(folders):
    with pytest.raises(InvalidOption, match="TRUTH is missing"):
        score(folders[0], None)
    with pytest.raises(InvalidOption, match="must not be given"):
        score("pairs.csv", folders[1])


def test_every_true_image_needs_a_prediction(folders):
    prediction, truth = folders
    (Path(prediction) / "b.tif").unlink()
    with pytest.raises(InputNotFound, match=r"no prediction for 1 of 3 true images \(b\)"):
        score(prediction, truth)
    result = evaluate(
        prediction, truth, EvaluateConfig(), Execution(workers=1, on_error="continue")
    )
    assert [image.name for image in result.images] == ["a", "c"]
    assert [name for name, _ in result.failures] == ["b"]
    with pytest.raises(SomeFailed, match="1 of 3"):
        result.raise_if_any_failed()


def test_predictions_without_truth_are_left_out_with_a_warning(folders, caplog):
    prediction, truth = folders
    (Path(truth) / "b.tif").unlink()
    assert [image.name for image in score(prediction, truth).images] == ["a", "c"]
    assert "1 predictions have no truth" in caplog.text


def test_names_that_segment_made_unique_still_pair(folders):
    prediction, truth = folders
    (Path(prediction) / "b.tif").rename(Path(prediction) / "b__0123abcd.tif")
    assert [image.counts for image in score(prediction, truth).images] == expected()


def test_one_stem_twice_is_refused(folders):
    prediction, truth = folders
    np.save(Path(truth) / "b.npy", truth_of(1))
    with pytest.raises(InvalidInput, match="same name"):
        score(prediction, truth)


def test_shapes_must_agree(folders):
    prediction, truth = folders
    tifffile.imwrite(Path(prediction) / "b.tif", prediction_of(1)[:-1])
    with pytest.raises(InvalidInput, match=r"b\.tif has 39 x 48 pixels but .*b\.tif has 40 x 48"):
        score(prediction, truth)
    result = evaluate(
        prediction, truth, EvaluateConfig(), Execution(workers=2, on_error="continue")
    )
    assert [name for name, _ in result.failures] == ["b"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_missing_inputs(folders, tmp_path, name):
    (tmp_path / "empty").mkdir()
    for pair in ((str(tmp_path / name), folders[1]), (folders[0], str(tmp_path / name))):
        with pytest.raises(InputNotFound):
            score(*pair)


def test_a_foreign_store_is_refused(folders, tmp_path):
    (tmp_path / "foreign.zarr").mkdir()
    (tmp_path / "foreign.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    with pytest.raises(HistosynthError) as error:
        score(str(tmp_path / "foreign.zarr"), folders[1])
    assert error.value.exit_code == 3


def test_dry_run_compares_nothing(folders):
    result = evaluate(*folders, EvaluateConfig(), Execution(dry_run=True))
    assert (result.status, result.names, result.images) == ("planned", ("a", "b", "c"), ())
    assert "mean" not in result.to_json()


def test_command_prints_json_then_fails_the_gate(folders, capsys):
    assert run(["evaluate", *folders, "--json", "--min", "pq=0.99", "--min", "dice=0.1"]) == 7
    shown = capsys.readouterr()
    (line,) = shown.out.splitlines()
    assert orjson.loads(line)["mean"]["dice"] > 0.1
    assert "mean pq is 0." in shown.err
    assert "dice=" not in shown.err
    assert run(["evaluate", *folders, "--min", "dice=0.1"]) == 0
    shown = capsys.readouterr()
    assert not shown.out
    assert all(f" {name} " in shown.err for name in shown_in("console"))
    assert " f1_75 " not in shown.err
    assert run(["evaluate", *folders, "--all"]) == 0
    shown = capsys.readouterr()
    assert all(f" {name} " in shown.err for name in NAMES)


def test_command_with_a_failed_pair(folders, capsys):
    (Path(folders[0]) / "b.tif").write_bytes(b"broken")
    assert run(["evaluate", *folders, "-q"]) == 3
    assert run(["evaluate", *folders, "-q", "--on-error", "continue", "--json"]) == 5
    shown = capsys.readouterr()
    assert orjson.loads(shown.out)["failed"][0]["name"] == "b"
    assert "b.tif" in shown.err
    assert run(["evaluate", *folders, "--dry-run"]) == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development images are not here")
def test_agrees_with_the_independent_scorer(tmp_path):
    """On six real images, truth against truth moved by two pixels and thinned."""
    truth = SHARED / "data" / "dev" / "tnbc" / "labels"
    chosen = tmp_path / "truth"
    chosen.mkdir()
    (tmp_path / "prediction").mkdir()
    for path in sorted(truth.iterdir())[:6]:
        labels = tifffile.imread(path)
        tifffile.imwrite(chosen / path.name, labels)
        moved = np.roll(np.where(labels % 5 == 0, 0, labels // 2 * 2), 2, axis=0)
        tifffile.imwrite(tmp_path / "prediction" / path.name, moved)
    command = [
        sys.executable,
        SHARED / "tools" / "score.py",
        tmp_path / "prediction",
        chosen,
        "--json",
    ]
    theirs = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    ours = score(str(tmp_path / "prediction"), str(chosen)).scores.summary
    for name in ("dice", "aji", "pq", "f1", "aji+"):
        mine = name.replace("+", "_plus")
        assert (ours.mean[mine], *ours.ci95[mine]) == pytest.approx(theirs[name], abs=1e-4)


# -----------------------------------------------------------------------------------------------
# formats, groups, models


def geojson_of(labels: np.ndarray) -> str:
    """Each nucleus as the rectangles of its rows."""
    features = []
    for k in np.unique(labels[labels > 0]):
        boxes = [
            [[[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1], [x, y]]]
            for y, x in np.argwhere(labels == k).tolist()
        ]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": boxes},
                "properties": {},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features})


def xml_of(labels: np.ndarray) -> str:
    """The nuclei are squares."""
    regions = ""
    for k in np.unique(labels[labels > 0]):
        (y0, x0), (y1, x1) = np.argwhere(labels == k).min(0), np.argwhere(labels == k).max(0) + 1
        corners = "".join(
            f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        )
        regions += f"<Region><Vertices>{corners}</Vertices></Region>"
    return (
        "<Annotations "
        f'MicronsPerPixel="0.25"><Annotation><Regions>{regions}</Regions></Annotation></Annotations>'
    )


@pytest.mark.parametrize("kind", ["geojson", "xml", "masks", "zarr"])
def test_truth_in_any_format_scores_the_same(folders, tmp_path, kind):
    (tmp_path / "other").mkdir()
    for index, name in enumerate("abc"):
        labels, target = truth_of(index), tmp_path / "other" / f"{name}.{kind}"
        if kind in ("geojson", "xml"):
            target.write_text({"geojson": geojson_of, "xml": xml_of}[kind](labels))
        elif kind == "zarr":
            zarr.save_array(target, labels)
        else:
            (tmp_path / "other" / name / "masks").mkdir(parents=True)
            for k in range(1, labels.max() + 1):
                np.save(tmp_path / "other" / name / "masks" / f"{k}.npy", labels == k)
    assert found(score(folders[0], str(tmp_path / "other"), mpp=0.25)) == found(score(*folders))


def test_two_files_of_outlines_need_no_size(tmp_path):
    for name in "pt":
        (tmp_path / f"{name}.geojson").write_text(geojson_of(truth_of(0)))
    assert (
        score(str(tmp_path / "p.geojson"), str(tmp_path / "t.geojson")).scores.summary.mean["pq"]
        == 1
    )


def test_groups_of_a_manifest(folders, tmp_path):
    lines = ["truth,group,mpp", "truth/a.tif,one,0.5", "truth/b.tif,two,", "truth/c.tif,two,"]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    result = score(folders[0], str(tmp_path / "truth.csv"))
    values = result.to_json()
    assert {name: each["images"] for name, each in values["groups"].items()} == {"one": 1, "two": 2}
    assert values["groups"]["one"]["mean"]["pq"] == result.images[0].counts.panoptic_quality
    assert [(each["mpp"], each["mpp_source"]) for each in values["images"]][:2] == [
        (0.5, "manifest"),
        (0.25, "assumed"),
    ]
    by_group = score(folders[0], str(tmp_path / "truth.csv"), resample="group").scores.summary.ci95[
        "pq"
    ]
    assert by_group != result.scores.summary.ci95["pq"]
    with pytest.raises(InvalidOption, match="column group"):
        score(*folders, resample="group")


def test_what_has_no_partner_is_in_the_json(folders):
    prediction, truth = folders
    (Path(truth) / "b.tif").unlink()
    (Path(prediction) / "c.tif").unlink()
    with pytest.raises(
        InputNotFound, match=r"true images \(c\), and no truth for the predictions b"
    ):
        score(prediction, truth)
    result = evaluate(
        prediction, truth, EvaluateConfig(), Execution(workers=1, on_error="continue")
    )
    assert result.to_json()["unmatched"] == {"truth": ["c"], "prediction": ["b"]}


def test_ignored_pixels_do_not_count(folders, tmp_path):
    """What differs between truth and prediction is masked: everything that is left agrees."""
    (tmp_path / "masks").mkdir()
    for index, name in enumerate("abc"):
        mask = (truth_of(index) != prediction_of(index)).astype(np.uint8)
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", mask)
    result = evaluate(*folders, EvaluateConfig(), ONE, ignore=str(tmp_path / "masks"))
    assert result.scores.summary.mean["dice"] == result.scores.summary.mean["pq"] == 1
    (tmp_path / "masks" / "b.tif").unlink()
    with pytest.raises(InputNotFound, match=r"no mask for 1 images \(b\)"):
        evaluate(*folders, EvaluateConfig(), ONE, ignore=str(tmp_path / "masks"))
    np.save(tmp_path / "one.npy", np.zeros((3, 3), np.uint8))
    with pytest.raises(InvalidInput, match="3 x 3"):
        evaluate(
            f"{folders[0]}/a.tif",
            f"{folders[1]}/a.tif",
            EvaluateConfig(),
            ONE,
            ignore=str(tmp_path / "one.npy"),
        )


def test_large_images_are_compared_in_windows(folders, tmp_path, monkeypatch):
    """The same result for stores, label images and outlines; none is read whole when it need not
    be."""
    write_label_store(tmp_path / "p.ome.zarr", prediction_of(1))
    write_label_store(tmp_path / "t.ome.zarr", truth_of(1))
    words = str(tmp_path / "p.ome.zarr"), str(tmp_path / "t.ome.zarr")
    whole = score(*words)
    monkeypatch.setattr(pairs, "LARGE_PX", 100)
    monkeypatch.setattr(metric_windows, "CORE_PX", 16)
    mixed = evaluate(words[0], f"{folders[1]}/b.tif", EvaluateConfig(), Execution(workers=3))
    monkeypatch.setattr(LabelStore, "labels", lambda *_: pytest.fail("read whole"))
    windows = evaluate(*words, EvaluateConfig(), Execution(workers=3))
    assert found(windows) == found(whole)
    assert mixed.images[0].counts == whole.images[0].counts


def test_probabilities_of_a_store_are_calibrated(folders, tmp_path):
    write_label_store(
        tmp_path / "b.ome.zarr",
        prediction_of(1),
        probability=np.array([0.2, 0.9, 0.9, 0.9, 0.9], np.float32),
    )
    (outcome,) = score(str(tmp_path / "b.ome.zarr"), f"{folders[1]}/b.tif").images
    table = outcome.distributions.reliability.table
    assert table[:, 0].sum() == 5
    assert table[:, 2].sum() == outcome.counts.true_positives
    assert table[:, 1].sum() == pytest.approx(0.2 + 4 * 0.9)


def test_models_are_compared_image_by_image(folders, tmp_path):
    (tmp_path / "perfect").mkdir()
    for index, name in enumerate("abc"):
        tifffile.imwrite(tmp_path / "perfect" / f"{name}.tif", truth_of(index))
    models = compare_models(
        [folders[0], str(tmp_path / "perfect")], folders[1], EvaluateConfig(), ONE
    )
    (difference,) = models.differences
    metrics = difference.metrics
    assert (difference.first, difference.second) == (folders[0], str(tmp_path / "perfect"))
    means = [result.scores.summary.mean["pq"] for result in models.results]
    assert metrics["pq"].mean == pytest.approx(means[1] - means[0])
    assert (metrics["pq"].better, metrics["pq"].worse, metrics["pq"].images) == (2, 0, 3)
    assert metrics["hd95_um"].better == 2
    values = json.loads(orjson.dumps(models.to_json()))
    assert values["schema"] == "histosynth.evaluate-comparison/1"
    assert values["differences"][0]["metrics"]["pq"]["p_value"] == 0.5
    assert values["verdict"]["better_than"] == []
    assert "fewer than six" in values["verdict"]["text"]


def test_models_that_cannot_be_compared(folders, tmp_path):
    with pytest.raises(InvalidOption, match="named twice"):
        compare_models([folders[0], folders[0]], folders[1], EvaluateConfig(), ONE)
    (tmp_path / "only_a").mkdir()
    (tmp_path / "only_b").mkdir()
    tifffile.imwrite(tmp_path / "only_a" / "a.tif", truth_of(0))
    tifffile.imwrite(tmp_path / "only_b" / "b.tif", truth_of(1))
    lenient = Execution(workers=1, on_error="continue")
    with pytest.raises(InvalidInput, match="no image in common"):
        compare_models(
            [str(tmp_path / "only_a"), str(tmp_path / "only_b")],
            folders[1],
            EvaluateConfig(),
            lenient,
        )


def test_command_with_several_predictions(folders, tmp_path, capsys):
    (tmp_path / "perfect").mkdir()
    for index, name in enumerate("abc"):
        tifffile.imwrite(tmp_path / "perfect" / f"{name}.tif", truth_of(index))
    words = [folders[0], str(tmp_path / "perfect"), "--truth", folders[1]]
    assert run(["evaluate", *words, "--json"]) == 0
    shown = capsys.readouterr()
    lines = [orjson.loads(line) for line in shown.out.splitlines()]
    assert [line["schema"] for line in lines] == [
        EvaluateResult.schema,
        EvaluateResult.schema,
        "histosynth.evaluate-comparison/1",
    ]
    assert "verdict: too few to tell: over 3 images" in shown.err
    assert run(["evaluate", *words, "--min", "pq=0.99"]) == 7
    assert f"({folders[0]})" in capsys.readouterr().err
    assert run(["evaluate", folders[0], "--truth", folders[1], "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run(["evaluate", *words, "--dry-run"]) == 0


def test_gates_of_errors(folders):
    assert run(["evaluate", *folders, "-q", "--max", "hd95_um=1"]) == 0
    assert run(["evaluate", *folders, "-q", "--max", "hd95_um=0.1"]) == 7
    assert run(["evaluate", *folders, "-q", "--max", "pq=0.1"]) == 2
    assert run(["evaluate", *folders, "-q", "--min", "hd95_um=0.1"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "PREDICTION is missing"),
        (["a", "b", "c"], "to compare several models use --truth"),
        (["--truth", "t"], "--truth needs at least one PREDICTION"),
        (["a", "b", "--refs", "r"], "--refs belongs to --realism"),
        (["a", "b", "--images", "i"], "--images is for a report"),
        (["a", "b", "--show", "s"], "--show is for a report"),
        (["a", "--realism", "s"], "compares no labels"),
        (["--realism", "s", "--min", "pq=1"], "gates of label metrics"),
        (["--realism", "s", "--html", "r.html"], "for scores of labels"),
        (["m.safetensors", "t"], "histosynth segment"),
    ],
)
def test_wrong_words_are_usage_errors(words, said, capsys):
    assert run(["evaluate", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


BAD = {
    "shape": (np.zeros((5, 6), np.uint8), "5 x 6"),
    "fractions": (np.full((40, 48), 0.5), "probability map"),
    "nan": (np.full((40, 48), np.nan), "NaN or infinity"),
    "rgb": (
        np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8),
        "one integer a pixel",
    ),
    "negative": (np.full((40, 48), -5, np.int16), "holds the label -5"),
    "text": (np.full((40, 48), "a"), "must be integers"),
}


@pytest.mark.parametrize("side", [0, 1], ids=["prediction", "truth"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_labels_are_one_line_each_and_others_go_on(folders, kind, side, capsys):
    labels, said = BAD[kind]
    (Path(folders[side]) / "b.tif").unlink()
    np.save(Path(folders[side]) / "b.npy", labels)
    assert run(["evaluate", *folders, "-q"]) == 3
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert run(["evaluate", *folders, "-q", "--on-error", "continue", "--json"]) == 5
    values = orjson.loads(capsys.readouterr().out)
    assert [image["name"] for image in values["images"]] == ["a", "c"]
    assert values["failed"][0]["name"] == "b"
