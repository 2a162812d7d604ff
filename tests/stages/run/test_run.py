"""The chain makes what its commands make one by one, skips what is done, and goes on.

Two small pieces of tissue, eight patches of 64 px, and a training of two steps: every path is
taken, and nothing is learnt.
"""

import io
import json
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from histocli.base import interrupts
from histocli.base.errors import InputNotFound, InvalidOption, Stopped, StoreExists
from histocli.config.common import Execution
from histocli.config.refine import RefineConfig
from histocli.config.run import RunConfig
from histocli.stages.generate.run import generate
from histocli.stages.refine.run import refine
from histocli.stages.run import run as stage
from histocli.stages.run.run import run
from histocli.stages.segment.run import segment
from histocli.stages.train.run import train
from histocli.stores.labels import open_labels
from histocli.stores.models import read_model
from histocli.stores.patches import PatchStore

CPU = Execution(device="cpu", precision="fp32", workers=1)
CONFIG = RunConfig(
    n=8, patch_px=64, mpp=0.5, reference_mpp=0.5, slide_mpp=0.5, steps=2, self_training=False
)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """``refs/`` and ``slides/`` with two pieces each."""
    from skimage.data import immunohistochemistry

    folder, image = tmp_path_factory.mktemp("tissue"), immunohistochemistry()
    for name, left in (("refs", 0), ("slides", 200)):
        (folder / name).mkdir()
        for index in range(2):
            piece = image[200 * index : 200 * index + 128, left : left + 160]
            path = folder / name / f"piece {index}.png"
            imagecodecs.imwrite(str(path), np.ascontiguousarray(piece))
    return folder


@pytest.fixture(scope="module")
def finished(tissue, tmp_path_factory):
    """A finished run, which tests copy."""
    out = tmp_path_factory.mktemp("finished") / "out"
    told = []
    result = chain(tissue, out, tell=lambda name, values: told.append((name, values["status"])))
    assert told == [("generate", "done"), ("train", "done"), ("segment", "done")]
    return out, result


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "out")
    return tmp_path / "out"


def chain(tissue, out, config=CONFIG, execution=CPU, **more):
    slides = more.pop("slides", [str(tissue / "slides")])
    return run([str(tissue / "refs")], slides, out, config, execution, **more)


def statuses(result):
    return {values["stage"]: values["status"] for values in result.stages}


def test_the_chain_makes_what_the_commands_make(finished, tissue, tmp_path):
    out, result = finished
    refs, slides = [str(tissue / "refs")], [str(tissue / "slides")]
    generate(refs, tmp_path / "p.zarr", CONFIG.generate_config(8), CPU)
    mine, theirs = PatchStore.open(out / "patches.zarr"), PatchStore.open(tmp_path / "p.zarr")
    assert mine.content_hash() == theirs.content_hash()
    model = tmp_path / "m.safetensors"
    train([str(out / "patches.zarr")], model, CONFIG.train_config(None), CPU)
    (_, weights), (_, expected) = read_model(out / "nuclei.safetensors"), read_model(model)
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)
    found = segment(slides, model, tmp_path / "nuclei", CONFIG.segment_config, CPU)
    assert [slide["nuclei"] for slide in result.slides] == [slide.nuclei for slide in found]
    for slide in result.slides:
        name = Path(slide["output"]).name
        one, other = open_labels(out / "nuclei" / name), open_labels(tmp_path / "nuclei" / name)
        assert np.array_equal(one.labels(), other.labels())
    assert result.nuclei == sum(slide.nuclei for slide in found)


def test_the_report_leads_to_every_output(finished):
    out, result = finished
    report = json.loads((out / "report.json").read_text())
    assert report["schema"] == "histosynth.run/1"
    assert report["status"] == "done"
    assert [values["stage"] for values in report["stages"]] == ["generate", "train", "segment"]
    links = report["links"]
    assert set(links) == {"patches", "model", "training", "slides", "slides_page"}
    slides = links.pop("slides")
    assert len(slides) == 2
    for link in [*links.values(), *(one for each in slides.values() for one in each.values())]:
        assert (out / link).exists(), link
    assert report["config"]["n"] == 8
    assert sorted(path.name for path in out.iterdir()) == [
        "nuclei",
        "nuclei.safetensors",
        "nuclei.safetensors.log",
        "patches.zarr",
        "report.json",
        "slides.html",
    ]
    assert result.output == str(out / "report.json")


def test_what_is_complete_is_skipped_and_the_report_stays(copy, tissue):
    before = (copy / "report.json").read_bytes()
    for execution in (CPU, replace(CPU, resume=True)):
        result = chain(tissue, copy, execution=execution)
        assert set(statuses(result).values()) == {"skipped"}
        assert result.status == "skipped"
    assert (copy / "report.json").read_bytes() == before


def test_other_slides_take_the_model_that_is_there(copy, tissue, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(tissue / "refs" / "piece 0.png", tmp_path / "more" / "new.png")
    words = [str(tissue / "slides"), str(tmp_path / "more")]
    result = chain(tissue, copy, slides=words)
    assert statuses(result) == {"generate": "skipped", "train": "skipped", "segment": "done"}
    assert [slide["status"] for slide in result.slides] == ["skipped", "skipped", "done"]
    assert len(json.loads((copy / "report.json").read_text())["slides"]) == 3


def test_other_settings_do_not_replace_what_is_there(copy, tissue):
    other = replace(CONFIG, seed=1)
    with pytest.raises(StoreExists, match="--overwrite"):
        chain(tissue, copy, other)
    result = chain(tissue, copy, other, replace(CPU, overwrite=True))
    assert set(statuses(result).values()) == {"done"}


def test_a_stopped_run_goes_on_and_ends_alike(finished, tissue, tmp_path):
    out = tmp_path / "out"

    @contextmanager
    def stopping(description, total):
        class Stop:
            def advance(self, steps=1, note=""):
                if description == "2/3 train: training":
                    interrupts._requested.set()

        yield Stop()

    try:
        with pytest.raises(Stopped, match="run the same command again"):
            chain(tissue, out, track=stopping)
    finally:
        interrupts._requested.clear()
    assert not (out / "report.json").exists()
    result = chain(tissue, out)
    assert statuses(result) == {"generate": "skipped", "train": "done", "segment": "done"}
    weights, expected = (
        read_model(folder / "nuclei.safetensors")[1] for folder in (out, finished[0])
    )
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


def test_with_a_truth_the_nuclei_are_scored(copy, tissue, tmp_path):
    shutil.copytree(copy / "nuclei", tmp_path / "truth")
    (tmp_path / "truth" / "status.jsonl").unlink()
    truth = str(tmp_path / "truth")
    result = chain(tissue, copy, truth=truth)
    assert statuses(result) == {
        "generate": "skipped",
        "train": "skipped",
        "segment": "skipped",
        "evaluate": "done",
    }
    assert result.scores["pq"] == 1
    assert json.loads((copy / "scores.json").read_text())["mean"]["pq"] == 1
    assert (copy / result.links["page"]).read_text().startswith("<!")
    assert statuses(chain(tissue, copy, truth=truth))["evaluate"] == "skipped"
    # another truth is another score
    shutil.rmtree(tmp_path / "truth" / "piece 1.ome.zarr")
    shutil.copytree(copy / "nuclei" / "piece 0.ome.zarr", tmp_path / "truth" / "piece 1.ome.zarr")
    assert statuses(chain(tissue, copy, truth=truth))["evaluate"] == "done"


def test_refined_patches_are_trained_on_where_they_are_asked_for(tissue, tmp_path, monkeypatch):
    given = []

    def quick(store, words, out, config, execution, **more):
        given.append(config)
        small = replace(config, steps=2, batch=2, weights=False, proof=0.0)
        return refine(store, words, out, small, execution, **more)

    monkeypatch.setattr(stage, "refine", quick)
    out = tmp_path / "out"
    result = chain(tissue, out, replace(CONFIG, refine=True))
    assert list(statuses(result)) == ["generate", "refine", "train", "segment"]
    assert given == [RefineConfig(reference_mpp=0.5)]
    (trained_on,) = read_model(out / "nuclei.safetensors")[0].data
    assert trained_on["name"] == "refined.zarr"
    assert result.links["refined"] == "refined.zarr"


def test_self_training_is_part_of_the_chain(tissue, tmp_path):
    assert RunConfig().self_training
    result = chain(tissue, tmp_path / "out", replace(CONFIG, self_training=True))
    (trained,) = (values for values in result.stages if values["stage"] == "train")
    assert len(trained["rounds"]) == 1


def test_slides_that_fail_are_named(finished, copy, tissue, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [str(tissue / "slides"), str(tmp_path / "bad.png")]
    result = chain(tissue, copy, slides=words, execution=replace(CPU, on_error="continue"))
    assert result.failed == (str(tmp_path / "bad.png"),)
    assert [slide["status"] for slide in result.slides] == ["skipped", "skipped", "failed"]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"slides": ["absent.svs"]}, InputNotFound, "absent.svs: no such slide"),
        ({"truth": "absent"}, InputNotFound, "absent"),
    ],
)
def test_missing_inputs_are_found_before_any_work(tissue, tmp_path, change, kind, said):
    with pytest.raises(kind, match=said):
        chain(tissue, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_a_report_of_another_program_is_left_alone(tissue, tmp_path):
    (tmp_path / "report.json").write_text('{"schema": "other"}')
    with pytest.raises(StoreExists, match="not made by histosynth"):
        chain(tissue, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    (tmp_path / "report.json").unlink()
    (tmp_path / "slides.html").write_text("<p>mine</p>")
    with pytest.raises(StoreExists, match="choose another --out"):
        chain(tissue, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["slides.html"]


def test_a_dry_run_writes_nothing(tissue, tmp_path):
    result = chain(tissue, tmp_path / "out", execution=replace(CPU, dry_run=True))
    assert statuses(result) == {"generate": "planned", "segment": "planned"}
    assert result.status == "planned"
    assert not (tmp_path / "out").exists()


def test_references_may_come_from_stdin(finished, copy, tissue, monkeypatch):
    """Two stages read them, and stdin can be read once."""
    paths = sorted(map(str, (tissue / "refs").iterdir()))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(paths)))
    result = run(["-"], [str(tissue / "slides")], copy, CONFIG, CPU)
    assert result.status == "skipped"


def test_outputs_among_the_inputs_are_no_inputs(tissue, tmp_path):
    """A second run finds its own patches below the folder of the images."""
    shutil.copytree(tissue / "refs", tmp_path / "all")
    folder, pattern = str(tmp_path / "all"), str(tmp_path / "all" / "**" / "*")
    for status, word in (("done", folder), ("skipped", folder), ("skipped", pattern)):
        result = run([word], [word], tmp_path / "all" / "out", CONFIG, CPU)
        assert result.status == status
        assert [Path(slide["input"]).name for slide in result.slides] == [
            "piece 0.png",
            "piece 1.png",
        ]


def test_settings_are_checked_by_the_commands_that_they_are_for():
    for field, value, said in (
        ("n", 0, "--n"),
        ("steps", 0, "--steps"),
        ("size", "XXL", "--size"),
        ("formats", ("pdf",), "--format"),
        ("slide_mpp", 9.0, "--mpp"),
        ("seed", -1, "--seed"),
    ):
        with pytest.raises(InvalidOption, match=said):
            RunConfig(**{field: value})
