"""Generation: the same store however it is run, and every reference that cannot serve is named.

``folder``: refs/ with a.png (96 x 96, pink with dark ellipses) and b.tif (128 x 80, the same tissue
turned, 0.5 um per pixel).
"""

import json
import logging
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import tifffile
import torch

from histocli.base import interrupts
from histocli.base.errors import (
    InputNotFound,
    InvalidInput,
    InvalidStore,
    Stopped,
    StoreExists,
    StoreNotFound,
    UnknownPixelSize,
    UnsupportedSlide,
)
from histocli.base.files import partial_path
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.model.segmenter import build_segmenter
from histocli.stages.generate import run as stage
from histocli.stages.generate.run import generate
from histocli.stages.shared import measuring
from histocli.stages.shared.drawing import reference_order
from histocli.stores.models import ModelHeader, write_model
from histocli.stores.patches import PatchStore, layout
from tests.tissue import make_tissue

MPP = 0.5
CONFIG = {"n": 6, "patch_px": 64, "mpp": MPP, "reference_mpp": MPP}


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_tiff(path, image, mpp=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = (
        {}
        if mpp is None
        else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    )
    tifffile.imwrite(path, image, photometric="rgb", **resolution)
    return path


@pytest.fixture
def folder(tmp_path):
    write_png(tmp_path / "refs" / "a.png", make_tissue(96).image)
    write_tiff(tmp_path / "refs" / "b.tif", make_tissue(128, seed=1).image[:, :80], MPP)
    return tmp_path


@pytest.fixture
def small_shards(monkeypatch):
    """One patch in a shard, so that few patches make many batches."""
    monkeypatch.setattr(layout, "SHARD_PATCHES", 1)


def run(
    folder,
    name="a.zarr",
    *,
    refs=None,
    track=None,
    workers=1,
    device="cpu",
    execution=None,
    **config,
):
    return generate(
        refs or [str(folder / "refs")],
        folder / name,
        GenerateConfig(**{**CONFIG, **config}),
        Execution(device=device, workers=workers, **(execution or {})),
        **({"track": track} if track else {}),
    )


def contents(path):
    store = PatchStore.open(path)
    return {
        "image": store.image[:],
        "instance_labels": store.instance_labels[:],
        "weight": store.weight,
        "reference": store.reference,
        "references": json.dumps([record.to_json() for record in store.references], sort_keys=True),
    }


def assert_same(first, second):
    first, second = contents(first), contents(second)
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name


def test_a_store_says_what_it_holds(folder):
    result = run(folder)
    store = PatchStore.open(folder / "a.zarr")
    assert result.status == "done"
    assert (result.patches, result.references, result.mpp, result.failed) == (6, 2, MPP, ())
    assert (len(store), store.patch_px, store.mpp, store.origin) == (6, 64, MPP, "initial")
    labels = store.instance_labels[:]
    assert result.nuclei == sum(int(each.max()) for each in labels) > 6
    assert (store.weight == 1).all()
    assert [record.name for record in store.references] == ["a.png[0:96,0:96]", "b.tif[0:128,0:80]"]
    assert [record.mpp_source for record in store.references] == ["given", "given"]
    assert sorted(store.reference.tolist()) == [0, 0, 0, 1, 1, 1]
    for record in store.references:
        statistics = record.statistics
        assert statistics["morphology"]["n_nuclei"] > 3
        assert statistics["appearance"]["tissue_fraction"] > 0.9
    values = result.to_json()
    assert values["schema"] == "histosynth.generate/1"
    assert store.provenance.config["seed"] == 0
    assert not partial_path(folder / "a.zarr").exists()


def test_patches_look_like_their_reference(folder):
    run(folder)
    store = PatchStore.open(folder / "a.zarr")
    reference = make_tissue(96).image.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(store.image[:].reshape(-1, 3).mean(axis=0), reference, atol=25)
    image, labels = store.image[:].astype(float), store.instance_labels[:]
    assert image[labels > 0, 0].mean() < image[labels == 0, 0].mean() - 20


@pytest.mark.slow
def test_the_same_store_for_any_number_of_workers(folder, small_shards):
    run(folder, "one.zarr", n=8, workers=1)
    run(folder, "two.zarr", n=8, workers=2)
    assert_same(folder / "one.zarr", folder / "two.zarr")


def test_the_order_of_batches_changes_nothing(folder, small_shards, monkeypatch):
    run(folder, "one.zarr", n=5)
    in_order = stage.map_unordered
    monkeypatch.setattr(stage, "map_unordered", lambda *given: reversed(list(in_order(*given))))
    run(folder, "other.zarr", n=5)
    assert_same(folder / "one.zarr", folder / "other.zarr")


def test_patch_i_does_not_depend_on_how_many_there_are(folder):
    run(folder, "few.zarr", n=3)
    run(folder, "many.zarr", n=9)
    few, many = contents(folder / "few.zarr"), contents(folder / "many.zarr")
    np.testing.assert_array_equal(few["instance_labels"], many["instance_labels"][:3])
    assert np.abs(few["image"].astype(int) - many["image"][:3]).max() <= 1


def test_the_seed_decides(folder):
    run(folder, "a.zarr", seed=1, n=2)
    run(folder, "b.zarr", seed=1, n=2)
    run(folder, "c.zarr", seed=2, n=2)
    assert_same(folder / "a.zarr", folder / "b.zarr")
    assert (contents(folder / "a.zarr")["image"] != contents(folder / "c.zarr")["image"]).any()


def stopping_after(steps, monkeypatch):
    """Return a Track that asks for a stop once so many patches are drawn."""
    asked = {"stop": False}
    monkeypatch.setattr(interrupts, "stop_requested", lambda: asked["stop"])

    class Bar:
        done = 0

        def __init__(self, counts):
            self.counts = counts

        def advance(self, steps_done=1, note=""):
            Bar.done += steps_done * self.counts
            asked["stop"] = Bar.done >= steps

    @contextmanager
    def track(description, total):
        yield Bar(description == "drawing patches")

    return track


def test_what_is_interrupted_goes_on_as_if_it_had_not_been(folder, small_shards, monkeypatch):
    run(folder, "whole.zarr")
    with monkeypatch.context() as patched, pytest.raises(Stopped, match="to go on"):
        run(folder, "cut.zarr", track=stopping_after(3, patched))
    assert not (folder / "cut.zarr").exists()
    assert partial_path(folder / "cut.zarr").exists()
    drawn = []
    original = stage.draw_patches
    monkeypatch.setattr(stage, "draw_patches", lambda job: drawn.append(job.batch) or original(job))
    assert run(folder, "cut.zarr").status == "done"
    assert drawn == [range(3, 4), range(4, 5), range(5, 6)]
    assert_same(folder / "whole.zarr", folder / "cut.zarr")


def test_a_stop_before_anything_is_drawn_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(interrupts, "stop_requested", lambda: True)
    with pytest.raises(Stopped, match="run it again"):
        run(folder)
    assert [path.name for path in folder.iterdir()] == ["refs"]


def test_a_rerun_is_skipped_and_other_settings_are_refused(folder):
    first = run(folder, n=2)
    before = contents(folder / "a.zarr")
    again = run(folder, n=2, workers=2)
    assert again.status == "skipped"
    assert again.nuclei == first.nuclei
    for change in ({"n": 3}, {"n": 2, "seed": 5}, {"n": 2, "patch_px": 32}):
        with pytest.raises(StoreExists, match="--overwrite"):
            run(folder, **change)
    write_png(folder / "refs" / "a.png", make_tissue(96, seed=9).image)
    with pytest.raises(StoreExists, match="other settings or inputs"):
        run(folder, n=2)
    assert all(
        np.array_equal(value, before[name]) for name, value in contents(folder / "a.zarr").items()
    )
    assert run(folder, n=3, execution={"overwrite": True}).status == "done"
    assert len(PatchStore.open(folder / "a.zarr")) == 3


def test_a_foreign_folder_is_left_alone(folder):
    (folder / "a.zarr").mkdir()
    (folder / "a.zarr" / "mine.txt").write_text("mine")
    with pytest.raises(StoreExists, match="not made by histosynth"):
        run(folder, execution={"overwrite": True})
    assert (folder / "a.zarr" / "mine.txt").read_text() == "mine"


def test_a_dry_run_writes_nothing(folder):
    result = run(folder, execution={"dry_run": True})
    assert (result.status, result.patches, result.references, result.nuclei) == (
        "planned",
        6,
        2,
        None,
    )
    assert [path.name for path in folder.iterdir()] == ["refs"]
    run(folder)
    assert run(folder, execution={"dry_run": True}).status == "skipped"


def damage(folder, kind):
    path = folder / "refs" / "bad.png"
    whole = write_png(path, make_tissue(96, seed=3).image).read_bytes()
    path.write_bytes(
        {"text": b"not an image", "empty": b"", "truncated": whole[: len(whole) // 2]}[kind]
    )
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_an_unreadable_reference_stops_or_is_left_out(folder, kind, caplog):
    path = damage(folder, kind)
    with pytest.raises(UnsupportedSlide, match=r"bad.png") as failure:
        run(folder)
    assert failure.value.exit_code == 3
    assert "\n" not in str(failure.value)
    assert not (folder / "a.zarr").exists()
    with caplog.at_level(logging.WARNING):
        result = run(folder, execution={"on_error": "continue"})
    assert result.failed == (str(path),)
    assert "bad.png" in caplog.text
    assert result.references == 2
    path.unlink()
    run(folder, "without.zarr")
    assert_same(folder / "a.zarr", folder / "without.zarr")
    # what was left out is not asked for again
    damage(folder, kind)
    assert run(folder, execution={"on_error": "continue"}).status == "skipped"


def test_a_missing_reference_is_left_out_too(folder):
    words = [str(folder / "refs"), str(folder / "gone.png")]
    with pytest.raises(InputNotFound, match=r"gone.png"):
        run(folder, refs=words)
    result = run(folder, refs=words, execution={"on_error": "continue"})
    assert result.failed == (str(folder / "gone.png"),)
    assert len(PatchStore.open(folder / "a.zarr")) == 6


def test_when_no_reference_can_be_read_there_is_nothing_to_do(folder):
    for kind in ("text", "truncated"):
        bad = damage(folder, kind)
        with pytest.raises((InputNotFound, InvalidInput)) as failure:
            run(folder, refs=[str(bad)], execution={"on_error": "continue"})
        assert failure.value.exit_code == 3
        assert not (folder / "a.zarr").exists()


def test_a_tiff_of_unknown_pixel_size_is_refused_and_a_picture_is_assumed(folder, caplog):
    path = write_tiff(folder / "unknown.tif", make_tissue(96).image)
    with pytest.raises(UnknownPixelSize, match=r"--.*mpp") as failure:
        run(folder, refs=[str(path)], reference_mpp=None)
    assert failure.value.exit_code == 3
    assert not (folder / "a.zarr").exists()
    with caplog.at_level(logging.WARNING):
        run(
            folder,
            "b.zarr",
            refs=[str(folder / "refs" / "a.png")],
            reference_mpp=None,
            n=1,
            mpp=0.25,
        )
    assert "0.25 um/px is assumed" in caplog.text
    record = PatchStore.open(folder / "b.zarr").references[0]
    assert (record.mpp, record.mpp_source) == (0.25, "assumed")


def test_a_manifest_gives_each_reference_its_own_pixel_size(folder, caplog):
    (folder / "manifest.csv").write_text("path,mpp\nrefs/a.png,1.0\nrefs/b.tif,\n")
    with caplog.at_level(logging.WARNING):
        run(folder, refs=[str(folder / "manifest.csv")], reference_mpp=None)
    found = {
        record.name.partition("[")[0]: record
        for record in PatchStore.open(folder / "a.zarr").references
    }
    assert (found["a.png"].mpp, found["a.png"].mpp_source) == (1.0, "given")
    assert (found["b.tif"].mpp, found["b.tif"].mpp_source) == (pytest.approx(MPP), "tiff")
    assert found["a.png"].name == "a.png[0:192,0:192]"  # resampled to 0.5
    assert "coarser than the patches" in caplog.text


def test_a_large_reference_is_cut_into_regions(folder, monkeypatch):
    monkeypatch.setattr(measuring, "REGION_PX", 64)
    run(folder, refs=[str(folder / "refs" / "b.tif")], n=8)
    store = PatchStore.open(folder / "a.zarr")
    names = [record.name for record in store.references]
    assert names == [
        "b.tif[0:64,0:40]",
        "b.tif[0:64,40:80]",
        "b.tif[64:128,0:40]",
        "b.tif[64:128,40:80]",
    ]
    assert sorted(store.reference.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len({record.sha256 for record in store.references}) == 1


def test_no_more_references_are_measured_than_patches_are_drawn(folder, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        run(folder, n=1)
    assert len(PatchStore.open(folder / "a.zarr").references) == 1
    assert "1 of 2 references are used" in caplog.text


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 20)])
def test_a_tiny_reference_serves(folder, shape):
    path = write_png(folder / "tiny.png", make_tissue(96).image[: shape[0], : shape[1]])
    result = run(folder, refs=[str(path)], n=2)
    assert result.status == "done"
    assert PatchStore.open(folder / "a.zarr").image.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(("colour", "said"), [(255, "no tissue"), (0, ""), (128, "")])
def test_an_even_reference_gives_patches(folder, caplog, colour, said):
    path = write_png(folder / "even.png", np.full((80, 80, 3), colour, np.uint8))
    with caplog.at_level(logging.WARNING):
        result = run(folder, refs=[str(path)], n=2)
    assert said in caplog.text
    if colour == 255:
        assert result.nuclei == 0
        assert contents(folder / "a.zarr")["image"].min() >= 254


def test_regions_of_glass_are_left_out(folder, monkeypatch):
    monkeypatch.setattr(measuring, "REGION_PX", 64)
    image = np.full((64, 128, 3), 255, np.uint8)
    image[:, :64] = make_tissue(64).image
    run(folder, refs=[str(write_png(folder / "half.png", image))])
    assert [record.name for record in PatchStore.open(folder / "a.zarr").references] == [
        "half.png[0:64,0:64]"
    ]


def test_each_reference_is_followed_once_before_any_is_twice():
    for n_references, n in ((1, 4), (5, 3), (4, 10), (7, 7)):
        order = reference_order(3, n_references, range(n))
        counts = np.bincount(order, minlength=n_references)
        assert counts.max() - counts.min() <= 1
        assert len(order) == n
        whole = reference_order(3, n_references, range(n + 5))
        np.testing.assert_array_equal(whole[:n], order)
        part = reference_order(3, n_references, range(n, n + 5))
        np.testing.assert_array_equal(whole[n:], part)
    assert (reference_order(1, 20, range(20)) != reference_order(2, 20, range(20))).any()


def test_nothing_is_left_in_the_scratch_folder(folder, monkeypatch, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(stage.tempfile, "tempdir", str(scratch))
    run(folder, n=1)
    assert list(scratch.iterdir()) == []
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        run(folder, "b.zarr", track=stopping_after(0, patched), n=2)
    assert list(scratch.iterdir()) == []


def write_network(path, seed, *, bias=0.0):
    """Write an untrained network of the smallest size."""
    torch.manual_seed(seed)
    architecture = {"family": "unet", "channels": [2, 2]}
    network = build_segmenter(architecture)
    with torch.no_grad():
        network.head.bias[:] = bias
    write_model(
        path,
        network.state_dict(),
        ModelHeader(architecture=architecture, mpp=MPP, config_hash=str(seed)),
    )
    return path


def dark_network(path):
    """Write a network whose maps are the darkness of the stem's pixels: what is dark is nucleus."""
    architecture = {"family": "unet", "channels": [2, 2]}
    network = build_segmenter(architecture)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 or parameter is network.head.bias:
                parameter.zero_()
        network.stem.convolution.weight[:, :, 1, 1] = -1 / 12
        network.stem.normalisation.bias.fill_(1.0)
        first, second = network.encoder[0]
        level = network.decoder[0]
        for block, offset in ((first, 0), (second, 0), (level["reduce"], 2), (level["mix"], 0)):
            block.convolution.weight[0, offset, 1, 1] = 1
            block.convolution.weight[1, offset + 1] = 1 / 9
        network.head.weight[:4, 0, 1, 1] = 30
        network.head.weight[4:, 1, 1, 1] = 4
        network.head.bias[:4] = -30 * 1.35
        network.head.bias[4:] = -4 * 1.35
    write_model(
        path,
        network.state_dict(),
        ModelHeader(architecture=architecture, mpp=MPP, config_hash="dark"),
    )
    return path


@pytest.fixture
def few_calibrations(monkeypatch):
    monkeypatch.setattr(measuring, "CALIBRATION_PATCHES", 3)


def test_priors_of_a_model_make_patches(folder, few_calibrations):
    model = write_network(folder / "m.safetensors", 0, bias=-20)  # finds nothing
    result = run(folder, n=2, priors=str(model))
    assert result.status == "done"
    store = PatchStore.open(folder / "a.zarr")
    assert len(store) == 2
    assert store.provenance.config["priors"] == str(model)
    assert {record.statistics["morphology"]["n_nuclei"] for record in store.references} == {0}
    run(folder, "again.zarr", n=2, priors=str(model))
    assert_same(folder / "a.zarr", folder / "again.zarr")
    # without it, the references do show nuclei
    run(folder, "rough.zarr", n=2)
    assert (
        min(
            record.statistics["morphology"]["n_nuclei"]
            for record in PatchStore.open(folder / "rough.zarr").references
        )
        > 3
    )


def test_a_model_that_finds_what_is_dark_is_measured(folder, few_calibrations):
    model = dark_network(folder / "m.safetensors")
    run(folder, n=2, priors=str(model))
    for record, side in zip(
        PatchStore.open(folder / "a.zarr").references, ((96, 96), (128, 80)), strict=True
    ):
        truth = (
            make_tissue(96).labels if side == (96, 96) else make_tissue(128, seed=1).labels[:, :80]
        )
        found = record.statistics["morphology"]["n_nuclei"]
        assert found == pytest.approx(len(np.unique(truth)) - 1, rel=0.4)


def test_the_calibration_corrects_what_is_measured(folder, monkeypatch):
    """Calibration patches whose comparison is decided by hand: half of the area, two thirds of the
    nuclei."""
    model = dark_network(folder / "m.safetensors")
    monkeypatch.setattr(measuring, "CALIBRATION_PATCHES", 3)
    found = {}
    for name, answer in (("plain", ([], 0, 0)), ("half", ([0.5] * 20, 20, 30))):
        monkeypatch.setattr(measuring, "compare_areas", lambda *given, answer=answer: answer)
        run(folder, f"{name}.zarr", n=2, priors=str(model))
        found[name] = [
            record.statistics["morphology"]
            for record in PatchStore.open(folder / f"{name}.zarr").references
        ]
    for plain, half in zip(found["plain"], found["half"], strict=True):
        assert plain["n_nuclei"] > 3
        assert half["area_um2"] == pytest.approx([2 * area for area in plain["area_um2"]], rel=1e-3)
        assert half["n_nuclei"] == round(plain["n_nuclei"] * 1.5)


def test_another_model_is_another_store(folder, few_calibrations):
    first, other = (
        write_network(folder / f"{seed}.safetensors", seed, bias=-20) for seed in (0, 1)
    )
    run(folder, n=1, priors=str(first))
    assert run(folder, n=1, priors=str(first)).status == "skipped"
    hashes = {PatchStore.open(folder / "a.zarr").provenance.config_hash}
    with pytest.raises(StoreExists, match="other settings or inputs"):
        run(folder, n=1, priors=str(other))
    with pytest.raises(StoreExists, match="other settings or inputs"):
        run(folder, n=1)
    # the same file name with other contents is another model too
    first.write_bytes(other.read_bytes())
    with pytest.raises(StoreExists, match="other settings or inputs"):
        run(folder, n=1, priors=str(first))
    run(folder, n=1, priors=str(first), execution={"overwrite": True})
    hashes.add(PatchStore.open(folder / "a.zarr").provenance.config_hash)
    assert len(hashes) == 2


def test_what_is_no_model_is_refused_before_any_work(folder, monkeypatch):
    monkeypatch.setattr(stage, "measure_references", lambda *given: pytest.fail("work was done"))
    with pytest.raises(StoreNotFound, match=r"gone.safetensors: no such model") as failure:
        run(folder, priors=str(folder / "gone.safetensors"))
    assert failure.value.exit_code == 3
    (folder / "text.safetensors").write_text("no model at all, but a letter to a friend")
    with pytest.raises(InvalidStore, match=r"text.safetensors"):
        run(folder, priors=str(folder / "text.safetensors"))
    assert not (folder / "a.zarr").exists()


def test_a_model_that_changes_under_its_name_is_read_again(folder, few_calibrations):
    """Within one process: what a caller segmented before has no say."""
    path = write_network(folder / "m.safetensors", 0, bias=-20)
    run(folder, "nothing.zarr", n=2, priors=str(path))
    dark_network(path)
    run(folder, "dark.zarr", n=2, priors=str(path))
    assert (
        min(
            record.statistics["morphology"]["n_nuclei"]
            for record in PatchStore.open(folder / "dark.zarr").references
        )
        > 3
    )


@pytest.mark.parametrize("shippable", [True, False])
def test_a_licence_that_forbids_giving_weights_away_is_handed_on(folder, shippable):
    run(folder, n=1, shippable=shippable)
    assert PatchStore.open(folder / "a.zarr").shippable is shippable
