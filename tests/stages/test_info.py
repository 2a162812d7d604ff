"""What info says agrees with what was put into the stores.

``patches``: three patches of 20 x 20 at 0.5 um per pixel. Patch 0 has a square of 4 x 4 and one of
6 x 6, patch 1 a square of 5 x 5 that the border cuts and a quarter of ignored pixels, patch 2
nothing.
"""

import doctest
import json

import cv2
import numpy as np
import pytest
import tifffile
import torch

from histocli.base.errors import InvalidOption, InvalidStore, StoreExists, StoreNotFound
from histocli.cli.app import run as cli
from histocli.config.common import Execution
from histocli.config.info import InfoConfig
from histocli.figures.sheets import MARGIN_PX
from histocli.instances.histograms import AREA_EDGES_UM2, ELONGATION_EDGES
from histocli.stages.info import tables
from histocli.stages.info.page import page_rows
from histocli.stages.info.run import info
from histocli.stores import labels as label_stores
from histocli.stores import models, patches
from histocli.stores.provenance import Provenance
from tests.stores.labels.writing import write_slide_labels

STATISTICS = {
    "stain_matrix": [[0.6, 0.7, 0.4], [0.1, 0.9, 0.3]],
    "area_um2": {"mean": 31.5, "deciles": list(range(11))},
    "density": np.float32(0.125),
    "usable": True,
    "warning": None,
}


def provenance(contract, command="generate"):
    return Provenance(
        contract=contract,
        command=command,
        config={"n": 3, "reference_mpp": None},
        config_hash="abc",
        seed=7,
    )


@pytest.fixture
def patch_store(tmp_path):
    labels = np.zeros((3, 20, 20), np.int32)
    labels[0, 2:6, 2:6] = 1
    labels[0, 10:16, 10:16] = 2
    labels[1, 0:5, 8:13] = 1
    labels[1, 10:, 10:] = -1
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    target = tmp_path / "patches.zarr"
    references = [
        patches.ReferenceRecord(
            name="a.tif", sha256="0a", mpp=0.25, mpp_source="ome-xml", statistics=STATISTICS
        ),
        patches.ReferenceRecord(name="b.png", sha256="0b", mpp=0.5, mpp_source="assumed"),
    ]
    with patches.PatchStoreWriter(
        target, n=3, patch_px=20, mpp=0.5, origin="initial", references=references,
        provenance=provenance(patches.CONTRACT), shippable=False,
    ) as writer:  # fmt: skip
        writer.write(range(3), image, labels, np.ones(3, np.float32), np.array([0, 0, 1], np.int32))
        writer.finish()
    return target


@pytest.fixture
def label_store(tmp_path):
    labels = np.zeros((300, 520), np.int32)
    labels[10:20, 10:30] = 1
    labels[100:110, 400:410] = 2
    target = tmp_path / "slide.ome.zarr"
    table = {
        "id": np.array([1, 2]),
        "y_um": np.array([7.0, 52.0]),
        "x_um": np.array([10.0, 202.0]),
        "box": np.array([[10, 10, 20, 30], [100, 400, 110, 410]]),
        "area_um2": np.array([50.0, 25.0]),
    }
    write_slide_labels(
        target,
        np.full((300, 520, 3), 200, np.uint8),
        labels,
        table,
        mpp=0.5,
        mpp_source="given",
        source={"name": "slide.tif", "sha256": "00"},
        model={"name": "m.safetensors", "sha256": "11"},
        provenance=provenance(label_stores.CONTRACT, "segment"),
    )
    return target


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    header = models.ModelHeader(
        architecture={"name": "unet", "widths": [8, 16]}, mpp=0.5, config_hash="abc",
        thresholds={"probability": 0.5},
        training={"steps": 10}, data=[{"name": "a.zarr", "sha256": "00"}], config={"steps": 10},
    )  # fmt: skip
    models.write_model(path, {"weight": torch.zeros(3, 4), "bias": torch.zeros(5)}, header)
    return path


def describe(store, execution=None, **config):
    return info(str(store), InfoConfig(**config), execution or Execution())


def rows_of(result):
    return {title: dict(rows) for title, rows in result.describe()}


def test_the_docstrings_tell_the_truth():
    assert doctest.testmod(tables).failed == 0


def test_a_patch_store_is_counted(patch_store):
    result = describe(patch_store)
    contents = result.contents
    assert (result.kind, result.contract, result.status) == (
        "patches",
        "histosynth-patches/1",
        "done",
    )
    assert (contents["patches"], contents["nuclei"], contents["patches_without_nuclei"]) == (
        3,
        3,
        1,
    )
    assert contents["nuclei_per_patch"]["mean"] == 1
    # Only the two nuclei that no border cuts: 16 and 36 pixels of 0.25 um2.
    assert contents["area_um2"] == pytest.approx(
        {
            "n": 2,
            "mean": 6.5,
            "min": 4,
            "p5": 4.25,
            "p25": 5.25,
            "p50": 6.5,
            "p75": 7.75,
            "p95": 8.75,
            "max": 9,
        }
    )
    assert contents["share_ignored"] == 100 / 1200
    assert contents["share_nuclei"] == (16 + 36 + 25) / 1100
    assert contents["patches_per_reference"]["max"] == 2
    rows = rows_of(result)["patches · histosynth-patches/1"]
    assert rows["area_um2"] == "mean 6.5, median 6.5, 90 % within 4.25 to 8.75, all within 4 to 9"
    assert contents["content_hash"] == patches.PatchStore.open(patch_store).content_hash()


def test_references_are_laid_beside_patches(patch_store):
    """Patches: 4 and 9 um2, two squares that no border cuts; 2, 1 and 0 nuclei on 100 um2 each."""
    result = describe(patch_store)
    histograms = result.contents["histograms"]
    assert set(histograms) == {"area_um2", "elongation", "nuclei_per_mm2"}
    for both in histograms.values():
        assert len(both["patches"]) == len(both["edges"]) - 1
        assert sum(both["patches"]) == pytest.approx(1)
    assert histograms["area_um2"]["patches"][0] == 1  # 4 lies below the first bin and counts in it
    assert histograms["elongation"]["patches"][0] == 1
    density = histograms["nuclei_per_mm2"]
    assert density["patches"][0] == pytest.approx(1 / 3)
    assert density["patches"][-1] == pytest.approx(1 / 3)  # 20000
    # these references were measured without histograms
    assert histograms["area_um2"]["references"] == []
    titles = rows_of(result)
    assert not [
        name
        for name in titles["references beside patches"]
        if name.startswith("area_um2") and "references" in name
    ]
    assert not [
        name for name in titles["patches · histosynth-patches/1"] if name.startswith("histograms")
    ]


def test_each_reference_counts_as_often_as_it_was_followed(tmp_path):
    """One patch follows a reference with 10 nuclei in the first bin, two follow one with 30 nuclei
    in the second."""

    def measured(n_nuclei, where, density):
        bins = [0.0] * (len(AREA_EDGES_UM2) - 1)
        bins[where] = 1.0
        longs = [1.0] + [0.0] * (len(ELONGATION_EDGES) - 2)
        return {
            "morphology": {
                "n_nuclei": n_nuclei, "density_per_mm2": density, "area_shares": bins,
                "elongation_shares": longs,
            }
        }  # fmt: skip

    target = tmp_path / "patches.zarr"
    references = [
        patches.ReferenceRecord(
            name=name, sha256=name, mpp=0.5, mpp_source="given", statistics=statistics
        )
        for name, statistics in (("a", measured(10, 0, 300.0)), ("b", measured(30, 1, 1200.0)))
    ]
    with patches.PatchStoreWriter(
        target, n=3, patch_px=20, mpp=0.5, origin="initial", references=references,
        provenance=provenance(patches.CONTRACT), shippable=True,
    ) as writer:  # fmt: skip
        image, labels = np.zeros((3, 20, 20, 3), np.uint8), np.zeros((3, 20, 20), np.int32)
        writer.write(range(3), image, labels, np.ones(3, np.float32), np.array([0, 1, 1], np.int32))
        writer.finish()
    result = describe(target)
    histograms = result.contents["histograms"]
    assert histograms["area_um2"]["references"][:3] == pytest.approx([10 / 70, 60 / 70, 0])
    assert histograms["area_um2"]["patches"] == [0.0] * (len(AREA_EDGES_UM2) - 1)  # without nuclei
    assert histograms["elongation"]["references"][0] == pytest.approx(1)
    # 250 to 500 and 1000 to 1500 nuclei
    assert histograms["nuclei_per_mm2"]["references"][:5] == pytest.approx([0, 1 / 3, 0, 2 / 3, 0])
    rows = rows_of(result)["references beside patches"]
    line = next(
        value
        for name, value in rows.items()
        if name.startswith("area_um2") and name.endswith("references")
    )
    assert line == "|" + "▁█" + " " * (len(AREA_EDGES_UM2) - 3) + "|"
    assert (
        json.loads(json.dumps(result.to_json(), allow_nan=False))["contents"]["histograms"]
        == histograms
    )


def test_every_number_measured_on_a_reference_is_told(patch_store):
    result = describe(patch_store)
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["schema"] == "histosynth.info/1"
    assert values["references"][0]["statistics"] == {**STATISTICS, "density": 0.125}
    rows = rows_of(result)["reference 1 of 2 · a.tif"]
    assert rows["mpp"] == "0.25"
    assert rows["mpp_source"] == "ome-xml"
    assert rows["stain_matrix[0]"] == "0.6, 0.7, 0.4"
    assert rows["stain_matrix[1]"] == "0.1, 0.9, 0.3"
    assert rows["area_um2.mean"] == "31.5"
    assert rows["area_um2.deciles"] == "11 numbers, 0 to 10"
    assert (rows["density"], rows["usable"], rows["warning"]) == ("0.125", "yes", "-")
    assert rows_of(result)["settings"] == {"n": "3", "reference_mpp": "-"}
    assert rows_of(result)["made by"]["seed"] == "7"
    assert rows_of(result)["made by"]["complete"] == "yes"


def test_the_label_store_of_a_slide_is_counted(label_store):
    contents = describe(label_store).contents
    assert (contents["nuclei"], contents["height_px"], contents["width_px"], contents["mpp"]) == (
        2,
        300,
        520,
        0.5,
    )
    assert contents["area_um2"]["mean"] == 37.5
    assert contents["mm2"] == pytest.approx(0.039)
    assert contents["nuclei_per_mm2"] == pytest.approx(2 / 0.039)
    assert contents["source"]["name"] == "slide.tif"


def test_the_label_store_of_patches_is_counted(tmp_path):
    target = tmp_path / "patches.labels.zarr"
    labels = np.zeros((3, 8, 8), np.uint32)
    labels[0, 0, 0], labels[0, 4, 4], labels[2, 1, 1] = 1, 2, 1
    with label_stores.PatchLabelsWriter(
        target,
        n=3,
        shape=(8, 8),
        mpp=0.5,
        source={},
        model={},
        provenance=provenance(label_stores.CONTRACT),
    ) as writer:
        writer.write(range(3), labels)
        writer.finish()
    result = describe(target)
    assert (result.contents["nuclei"], result.contents["label_images"]) == (3, 3)
    assert result.contents["nuclei_per_patch"]["max"] == 2
    with pytest.raises(InvalidOption, match="holds no pictures"):
        describe(target, sheet=str(tmp_path / "sheet.png"))


def test_a_model_is_described(model):
    result = describe(model)
    assert (result.kind, result.contract) == ("model", "histosynth-model/1")
    assert result.contents["parameters"] == 17
    assert result.contents["data"] == [{"name": "a.zarr", "sha256": "00"}]
    assert rows_of(result)["model · histosynth-model/1"]["data[0].name"] == "a.zarr"
    with pytest.raises(InvalidOption, match="holds no pictures"):
        describe(model, sheet="sheet.png")


def test_a_sheet_shows_patches_beside_their_outlines(patch_store, tmp_path):
    sheet = tmp_path / "new" / "sheet.png"
    result = describe(patch_store, sheet=str(sheet), sheet_patches=2)
    assert result.sheet == str(sheet)
    picture = cv2.imread(str(sheet))
    zoom = 13  # 256 / 20
    assert picture.shape[0] in (20 * zoom + 2 * MARGIN_PX, 2 * 20 * zoom + 3 * MARGIN_PX)
    assert len(np.unique(picture)) > 50


def test_a_sheet_replaces_only_itself(patch_store, tmp_path):
    sheet = tmp_path / "sheet.png"
    describe(patch_store, sheet=str(sheet), sheet_patches=1)
    describe(patch_store, sheet=str(sheet), sheet_patches=1)
    with pytest.raises(StoreExists, match="--overwrite"):
        describe(patch_store, sheet=str(sheet), sheet_patches=3)
    before = sheet.read_bytes()
    assert (
        describe(patch_store, Execution(dry_run=True), sheet=str(sheet), sheet_patches=3).status
        == "planned"
    )
    assert sheet.read_bytes() == before
    describe(patch_store, Execution(overwrite=True), sheet=str(sheet), sheet_patches=3)
    assert sheet.read_bytes() != before


def test_a_sheet_of_a_slide_shows_its_overview(label_store, tmp_path):
    sheet = tmp_path / "sheet.png"
    describe(label_store, sheet=str(sheet))
    picture = cv2.imread(str(sheet))
    assert (picture == 200).all(-1).sum() > 300 * 520  # the overview, grey
    assert ((picture != 200) & (picture != 255)).any(-1).sum() > 50  # outlines


def test_what_info_does_not_know_gets_one_line(tmp_path, patch_store, model):
    with pytest.raises(StoreNotFound, match="no such store"):
        describe(tmp_path / "absent.zarr")
    with pytest.raises(InvalidStore, match="not a Zarr store"):
        describe(tmp_path)
    (tmp_path / "letter.txt").write_text("a letter to a friend, and nothing else in here")
    with pytest.raises(InvalidStore, match="not a safetensors file"):
        describe(tmp_path / "letter.txt")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(InvalidStore, match="pickle"):
        describe(tmp_path / "model.pt")
    metadata = json.loads((patch_store / "zarr.json").read_text())
    metadata["attributes"]["histosynth"]["contract"] = "histosynth-dreams/1"
    (patch_store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InvalidStore, match="which info does not know"):
        describe(patch_store)


def page_of(result):
    """Return all rows of the page, by name."""
    return {name: value for _, rows in result.page() for name, value in rows}


def test_a_page_says_in_words_what_a_person_asks_first(patch_store, label_store, model, tmp_path):
    store = page_of(describe(patch_store))
    assert store["patches"] == "3 of 20 px at 0.5 um/px (10 um)"
    assert store["nuclei"].startswith("3; median 1, 90 % within")
    assert store["without any"] == "1 patch"
    assert store["area"].endswith(" um2")
    assert "seed 7" in store["made by"]
    assert {"a.tif", "b.png"} <= store.keys()

    labels = page_of(describe(label_store))
    assert labels["size"].startswith("300 x 520 px (height x width) at 0.5 um/px")
    assert labels["nuclei"] == "2 on 0.039 mm2, 51 per mm2"
    assert labels["of"] == "slide.tif"

    network = page_of(describe(model))
    assert "million parameters" in network["network"]
    assert network["learnt from"] == "input: a.zarr"

    tifffile.imwrite(
        tmp_path / "slide.tif",
        np.zeros((40, 60, 3), np.uint8),
        photometric="rgb",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    slide = page_of(describe(tmp_path / "slide.tif"))
    assert "0.02 x 0.03 mm" in slide["size"]
    assert slide["levels"] == "full size only"


def test_a_page_warns_of_what_the_store_records():
    contents = {
        "far": True,
        "blurred_share": 0.42,
        "ink_mm2": 0.3,
        "n_cut": 1,
        "layout": "slide",
        "height_px": 9,
        "width_px": 9,
        "mpp": 0.5,
        "nuclei": 4,
    }
    rows = dict(page_rows("labels", contents, {}))
    for part in ("no stain like this", "42 % of the tissue", "0.3 mm2 of pen", "1 nucleus may be"):
        assert part in rows["look out"]
    assert "look out" not in dict(page_rows("labels", contents | dict.fromkeys(contents, 0), {}))


def test_info_is_a_page_and_the_rest_comes_with_all(tmp_path, capsys):
    """A store with 50 references, each with many numbers."""
    target = tmp_path / "patches.zarr"
    references = [
        patches.ReferenceRecord(
            name=f"r{n}", sha256=str(n), mpp=0.5, mpp_source="given", statistics=STATISTICS
        )
        for n in range(50)
    ]
    with patches.PatchStoreWriter(
        target, n=1, patch_px=20, mpp=0.5, origin="initial", references=references,
        provenance=provenance(patches.CONTRACT), shippable=True,
    ) as writer:  # fmt: skip
        image, labels = np.zeros((1, 20, 20, 3), np.uint8), np.zeros((1, 20, 20), np.int32)
        writer.write(range(1), image, labels, np.ones(1, np.float32), np.zeros(1, np.int32))
        writer.finish()
    assert cli(["info", str(target)]) == 0
    page = capsys.readouterr().err
    assert len(page.splitlines()) <= 45
    assert "and 44 more" in page
    assert "--all prints every value" in page
    assert cli(["info", str(target), "--all"]) == 0
    whole = capsys.readouterr().err
    assert len(whole.splitlines()) > 500
    assert "reference 50 of 50" in whole
