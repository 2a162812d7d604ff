"""Folders of slides: shares, manifests, regions, status, plans, memory; and what napari's and
ngio's users will open."""

import json
from pathlib import Path

import numpy as np
import pytest

from histocli.base.errors import InvalidOption, OutOfResources
from histocli.config.segment import SegmentConfig, parse_shard
from histocli.inference.pipeline import expected_memory
from histocli.model.segmenter import build_segmenter
from histocli.stages.segment.ledger import STATUS_FILE
from histocli.stages.segment.loaded import fit_to_memory
from histocli.stages.segment.results import plan_table
from histocli.stores.labels import open_labels
from histocli.stores.models import read_model_header
from tests.drawn import rectangle
from tests.stages.segment.given import MPP, names, run, tissue, write_png, write_tiff


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(5):
        write_png(tmp_path / "in" / f"{number}.png", tissue((60, 70), seed=number))
    return tmp_path / "in"


@pytest.mark.parametrize("shards", [("1/3", "2/3", "3/3"), ("0/3", "1/3", "2/3")])
def test_shares_cover_all_slides_once_however_they_are_counted(tmp_path, folder, model, shards):
    taken = [
        Path(result.input).stem
        for shard in shards
        for result in run(folder, model, tmp_path / "out", mpp=MPP, shard=shard)
    ]
    assert sorted(taken) == list("01234")
    assert len(names(tmp_path / "out")) == 5


def test_more_shares_than_slides(tmp_path, folder, model):
    assert run(folder, model, tmp_path / "out", mpp=MPP, shard="9/9") == []


def test_a_slurm_array_shares_out_several_slides_but_not_one(tmp_path, folder, model, monkeypatch):
    taken = []
    for task in (4, 6):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "4")
        monkeypatch.setenv("SLURM_ARRAY_TASK_STEP", "2")
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        taken += [
            Path(result.input).stem for result in run(folder, model, tmp_path / "out", mpp=MPP)
        ]
        assert len(run(folder / "0.png", model, tmp_path / "one", mpp=MPP)) == 1
    assert sorted(taken) == list("01234")
    assert len(run(folder, model, tmp_path / "all", mpp=MPP, shard="1/1")) == 5


def test_names_are_those_of_the_whole_batch(tmp_path, model):
    for name in ("a", "b"):
        write_png(tmp_path / "in" / name / "s.png", tissue((60, 70)))
    for shard in ("1/2", "2/2"):
        run(tmp_path / "in", model, tmp_path / "out", mpp=MPP, shard=shard)
    assert len(names(tmp_path / "out")) == 2


@pytest.mark.parametrize("text", ["", "3", "a/b", "4/3", "1/0", "-1/3"])
def test_shares_that_are_none(text):
    with pytest.raises(InvalidOption, match="--shard"):
        parse_shard(text)


def test_the_status_file_has_a_line_for_each_slide(tmp_path, folder, model):
    (folder / "2.png").write_bytes(b"")
    results = run(folder, model, tmp_path / "out", mpp=MPP, on_error="continue")
    assert [result.status for result in results] == ["done", "done", "failed", "done", "done"]
    lines = [json.loads(line) for line in (tmp_path / "out" / STATUS_FILE).read_text().splitlines()]
    assert {Path(line["input"]).name: line["status"] for line in lines} == {
        f"{number}.png": "failed" if number == 2 else "done" for number in range(5)
    }
    (bad,) = (line for line in lines if line["status"] == "failed")
    assert "empty" in bad["error"]
    assert all(line["schema"] == "histosynth.segment/1" for line in lines)
    run(folder, model, tmp_path / "out", mpp=MPP, on_error="continue")
    # what was skipped is no news
    assert len((tmp_path / "out" / STATUS_FILE).read_text().splitlines()) == len(lines) + 1


def test_a_manifest_gives_regions(tmp_path, model):
    image = tissue((200, 240))
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "b.png", image)
    rectangle(tmp_path / "left.geojson", 0, 0, 200, 120)
    (tmp_path / "slides.csv").write_text("path,mpp,roi\na.png,0.5,left.geojson\nb.png,0.5,\n")
    left, whole = run(tmp_path / "slides.csv", model, tmp_path / "out")
    store = open_labels(left.output)
    assert 0 < left.nuclei < whole.nuclei
    assert (store.table["x_px"] < 122).all()
    assert left.mm2 == pytest.approx(whole.mm2 / 2, rel=0.1)
    # within the region, the nuclei are those of the whole slide
    np.testing.assert_array_equal(
        store.labels()[:, :100] > 0, open_labels(whole.output).labels()[:, :100] > 0
    )


def test_regions_by_folder_and_by_file(tmp_path, folder, model):
    for number in range(5):
        rectangle(tmp_path / "roi" / f"{number}.geojson", 0, 0, 30, 70)
    by_folder = run(folder, model, tmp_path / "a", mpp=MPP, roi=str(tmp_path / "roi"))
    by_file = run(folder, model, tmp_path / "b", mpp=MPP, roi=str(tmp_path / "roi" / "0.geojson"))
    assert [result.nuclei for result in by_folder] == [result.nuclei for result in by_file]
    again = run(folder, model, tmp_path / "a", mpp=MPP, roi=str(tmp_path / "roi"))
    assert {result.status for result in again} == {"skipped"}


def test_a_plan_tells_tiles_memory_disk_and_time(tmp_path, folder, model):
    results = run(folder, model, tmp_path / "out", mpp=MPP, dry_run=True)
    for result in results:
        assert set(result.plan) == {"tiles", "blocks", "mm2", "memory_mb", "disk_mb", "seconds"}
        assert result.plan["tiles"] >= 1
        assert result.plan["seconds"] >= 0
    _, header, rows = plan_table(results)
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(header)}
    assert not (tmp_path / "out").exists()


def test_memory_is_fitted_and_changes_no_nucleus(tmp_path, model):
    network = build_segmenter(read_model_header(model).architecture)

    def bytes_of(workers):
        return lambda windows, side: expected_memory(network, MPP, windows, side, workers)

    def expected(max_memory):
        fitted = fit_to_memory(SegmentConfig(max_memory=max_memory), bytes_of(2), 2)
        return bytes_of(2)(*fitted)

    used = [expected(gigabytes) for gigabytes in (1.2, 2.0, 4.0, 64.0)]
    assert used == sorted(used)
    assert used[0] <= 1.2e9
    assert used[0] < used[-1] == expected(None)
    with pytest.raises(OutOfResources, match="--max-memory"):
        fit_to_memory(SegmentConfig(max_memory=0.6), bytes_of(16), 16)
    slide = write_tiff(tmp_path / "s.tif", tissue((333, 270)))
    few = run(slide, model, tmp_path / "few", max_memory=1.2)[0]
    many = run(slide, model, tmp_path / "many")[0]
    np.testing.assert_array_equal(
        open_labels(few.output).labels(), open_labels(many.output).labels()
    )


def test_the_labels_open_over_the_slide_in_another_reader(tmp_path, model):
    from ngio import open_ome_zarr_container

    image = tissue((300, 420))
    (result,) = run(write_tiff(tmp_path / "s.tif", image), model, tmp_path / "out")
    container = open_ome_zarr_container(result.output)
    assert container.list_labels() == ["nuclei"]
    label = container.get_label("nuclei", path="0")
    np.testing.assert_array_equal(
        np.squeeze(label.get_as_numpy()), open_labels(result.output).labels()
    )
    assert label.pixel_size.x == pytest.approx(MPP)
    shown = container.get_image(path="0")
    # the same extent in micrometres, to a pixel of the overview
    for axis in "yx":
        size = [
            getattr(one.pixel_size, axis) * one.shape[one.axes.index(axis)]
            if hasattr(one, "axes")
            else None
            for one in (label, shown)
        ]
        assert size[0] is None or size[0] == pytest.approx(
            size[1], abs=getattr(shown.pixel_size, axis)
        )


def test_results_among_the_slides_are_no_slides(tmp_path, model, caplog):
    """A run into the folder of the slides can be repeated, and finds nothing new."""
    slides = tmp_path / "slides"
    write_png(slides / "a.png", tissue())
    formats = ("ome-zarr", "tiff", "overlay")
    for out in (slides, slides / "found"):
        first = run(slides, model, out, mpp=MPP, formats=formats)
        again = run(slides, model, out, mpp=MPP, formats=formats)
        assert [each.input for each in first] == [each.input for each in again]
        assert [Path(each.input).name for each in again] == ["a.png"]
        assert again[0].status == "skipped"


def test_nothing_is_said(tmp_path, model, caplog):
    """Glass alone and regions off the slide: a warning, and a word in JSON."""
    glass = write_png(tmp_path / "glass.png", np.full((150, 200, 3), 243, np.uint8))
    (result,) = run(glass, model, tmp_path / "out", mpp=MPP)
    assert (result.nuclei, result.mm2, result.empty) == (0, 0, "nothing looked at")
    assert "no tissue was found" in caplog.text
    caplog.clear()
    region = {"type": "Polygon", "coordinates": [[[900, 900], [950, 900], [950, 950]]]}
    (tmp_path / "roi.geojson").write_text(json.dumps(region))
    slide = write_png(tmp_path / "a.png", tissue())
    (result,) = run(slide, model, tmp_path / "out", mpp=MPP, roi=str(tmp_path / "roi.geojson"))
    assert result.empty == "nothing looked at"
    assert "lie off its tissue" in caplog.text
    (result,) = run(slide, model, tmp_path / "whole", mpp=MPP)
    assert result.empty is None
