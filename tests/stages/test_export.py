"""``export``, and the formats of ``segment``: what other programs read is what the store holds."""

import csv
import gzip
import io
import json
import uuid
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from histocli.base import files
from histocli.base.errors import (
    InputNotFound,
    InvalidInput,
    InvalidOption,
    InvalidStore,
    StoreExists,
)
from histocli.cli.app import run as cli
from histocli.config.common import Execution
from histocli.config.export import ExportConfig
from histocli.exports.pictures import _windows, png_bytes, small_png_bytes
from histocli.exports.registry import read_record
from histocli.stages.export import export
from histocli.stores.labels import open_labels
from tests.stages.segment.given import MPP, run, tissue, write_tiff

ALL = ("geojson", "csv", "parquet", "tiff", "overlay", "qc", "ome-zarr-0.4")
pytest.importorskip("pyarrow", reason="the extra 'export' is not installed")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test pulls the plug, so none waits for the disk."""
    monkeypatch.setattr(files, "sync_file", lambda path: None)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory, model):
    """A slide and its store, and all files that segment makes beside it."""
    folder = tmp_path_factory.mktemp("segmented")
    slide = write_tiff(folder / "s.tif", tissue((300, 420)))
    run(
        slide,
        model,
        folder / "out",
        formats=("ome-zarr", "geojson", "csv", "parquet", "tiff", "overlay", "qc"),
    )
    return slide, folder / "out" / "s.ome.zarr"


def export_to(out, store, *formats, **more):
    execution = Execution(
        **{key: more.pop(key) for key in ("overwrite", "on_error", "dry_run") if key in more}
    )
    stores = store if isinstance(store, list) else [store]
    return export(
        [str(one) for one in stores], out, ExportConfig(formats=formats, **more), execution
    )


def test_the_colour_and_thickness_of_outlines_decide_whether_an_overlay_is_made_again(
    tmp_path, segmented
):
    slide, store = segmented

    def pixels(**how):
        folder = tmp_path / "-".join(map(str, how.values())) if how else store.parent
        words = ["export", str(store), "-o", str(folder), "--format", "overlay,csv"]
        words += ["--slide", str(slide), *(f"--{key}={value}" for key, value in how.items())]
        assert cli(words) == 0
        return imagecodecs.png_decode((folder / "s.overlay.png").read_bytes())

    plain = pixels()
    for how in ({"colour": "id"}, {"colour": "area"}, {"colour": "probability"}, {"thickness": 4}):
        other = pixels(**how)
        assert (other != plain).any()
        assert (pixels(**how) == other).all()  # skipped
        words = ["export", str(store), "-o", str(tmp_path / str(*how.values()))]
        again = ["--format", "overlay", "--slide", str(slide)]
        assert cli([*words, *again]) == 4  # made with another colour
        assert cli([*words, "--format", "csv"]) == 0  # a table has none
    assert cli(["export", str(store), "--format", "overlay", "--colour", "verdict"]) == 2


def test_a_quality_picture_is_small_and_its_crops_do_not_overlap(segmented):
    _, store = segmented
    picture = store.parent / "s.qc.overlay.png"
    assert picture.stat().st_size < 500_000
    rng = np.random.default_rng(0)
    for shape in ((2000, 3000), (300, 420), (600, 600)):
        places = rng.uniform(0, shape, (500, 2))
        windows = _windows(shape, places, seed=1)
        seen = np.zeros(shape, int)
        for window in windows:
            seen[window] += 1
        assert seen.max() == 1
        assert windows == _windows(shape, places, seed=1)
        assert 1 <= len(windows) <= 6
    noise = rng.integers(0, 256, (900, 900, 3), dtype=np.uint8)
    assert len(png_bytes(noise)) > 2_000_000
    small = small_png_bytes(noise, 500_000)
    assert len(small) < 500_000
    assert Image.open(io.BytesIO(small)).size[0] > 300
    assert small_png_bytes(noise[:90, :90], 500_000) == png_bytes(noise[:90, :90])


def test_later_or_at_once_the_files_are_the_same(tmp_path, segmented):
    slide, store = segmented
    results = export_to(tmp_path, store, *ALL, slide=str(slide))
    assert [result.status for result in results] == ["done"] * len(ALL)
    for name in ("s.csv", "s.qc.overlay.png", "s.overlay.png"):
        made, before = (folder / name for folder in (tmp_path, store.parent))
        if name.endswith(".png"):
            np.testing.assert_array_equal(
                *(imagecodecs.png_decode(file.read_bytes()) for file in (made, before))
            )
        else:
            assert made.read_bytes() == before.read_bytes()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s.tif"), open_labels(store).labels())
    assert [result.status for result in export_to(tmp_path, store, *ALL, slide=str(slide))] == [
        "skipped"
    ] * len(ALL)
    # and what segment made is not made again
    assert {
        result.status for result in export_to(None, store, "csv", "geojson", "tiff", "parquet")
    } == {"skipped"}


def test_outlines_for_qupath(tmp_path, segmented):
    _, store = segmented
    export_to(tmp_path, store, "geojson")
    tree = json.loads(gzip.decompress((tmp_path / "s.geojson.gz").read_bytes()))
    opened = open_labels(store)
    assert tree["type"] == "FeatureCollection"
    assert len(tree["features"]) == opened.n_nuclei
    assert len({feature["id"] for feature in tree["features"]}) == opened.n_nuclei
    labels = opened.labels()
    found = set()
    for feature in tree["features"]:
        assert uuid.UUID(feature["id"]).version == 5
        assert feature["properties"]["objectType"] == "detection"
        ring = np.array(feature["geometry"]["coordinates"][0])
        np.testing.assert_array_equal(ring[0], ring[-1])
        middle = ring[:-1].mean(axis=0).astype(int)
        number = int(labels[middle[1], middle[0]])
        assert number
        found.add(number)
        assert feature["properties"]["measurements"]["Area um^2"] == pytest.approx(
            opened.table["area_um2"][number - 1], rel=1e-3
        )
    assert len(found) == opened.n_nuclei
    again = tmp_path / "again"
    export_to(again, store, "geojson")
    other = json.loads(gzip.decompress((again / "s.geojson.gz").read_bytes()))
    assert other["features"] == tree["features"]


def test_tables(tmp_path, segmented):
    import pyarrow.parquet

    _, store = segmented
    export_to(tmp_path, store, "csv", "parquet")
    table = open_labels(store).table
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    parquet = pyarrow.parquet.read_table(tmp_path / "s.parquet")
    assert list(rows[0]) == parquet.column_names
    assert list(rows[0])[:5] == ["id", "y_px", "x_px", "y_um", "x_um"]
    assert len(rows) == parquet.num_rows == len(table["id"])
    for name in (
        "id",
        "y_um",
        "area_um2",
        "eccentricity",
        "orientation_rad",
        "hematoxylin",
        "probability",
    ):
        np.testing.assert_array_equal(parquet[name].to_numpy(), table[name])
        np.testing.assert_allclose(
            [float(row[name]) for row in rows], table[name], rtol=1e-4, atol=6e-4
        )
    np.testing.assert_array_equal(parquet["box_x1"].to_numpy(), table["box"][:, 3])


def test_ome_zarr_04_is_valid_and_holds_the_same(tmp_path, segmented):
    from ome_zarr_models.v04.image import ImageAttrs
    from ome_zarr_models.v04.image_label import ImageLabelAttrs

    _, store = segmented
    export_to(tmp_path, store, "ome-zarr-0.4")
    group = zarr.open_group(tmp_path / "s.ome04.zarr", mode="r", zarr_format=2)
    ImageAttrs.model_validate(group.attrs.asdict())
    ImageLabelAttrs.model_validate(group["labels/nuclei"].attrs.asdict())
    opened = open_labels(store)
    for level in range(opened.n_levels):
        np.testing.assert_array_equal(group[f"labels/nuclei/{level}"][:], opened.labels(level))
    np.testing.assert_array_equal(np.moveaxis(group["0"][:], 0, 2), opened.overview())


def test_a_region(tmp_path, segmented):
    slide, store = segmented
    labels_file, picture_file = export_to(
        tmp_path, store, "tiff", "overlay", slide=str(slide.parent), region=(40, 60, 140, 200)
    )
    np.testing.assert_array_equal(
        tifffile.imread(labels_file.output), open_labels(store).labels()[40:140, 60:200]
    )
    whole = imagecodecs.png_decode((store.parent / "s.overlay.png").read_bytes())[40:140, 60:200]
    picture = imagecodecs.png_decode(Path(picture_file.output).read_bytes())
    # outlines are closed at the region's border, and each picture has a scale bar of its own in the
    # lower left corner
    np.testing.assert_array_equal(picture[2:60, 2:-2], whole[2:60, 2:-2])
    with pytest.raises(InvalidOption, match="leaves the slide"):
        export_to(tmp_path, store, "tiff", region=(0, 0, 301, 10))


def test_every_file_says_who_made_it(tmp_path, segmented):
    slide, store = segmented
    facts = open_labels(store).facts
    for result in export_to(tmp_path, store, *ALL, slide=str(slide)):
        told = read_record(Path(result.output))
        assert told is not None
        assert told["complete"]
        assert told["model"] == facts["model"]
        assert told["source"]["name"] == "s.tif"


def test_refusals(tmp_path, segmented, model):
    _, store = segmented
    with pytest.raises(InvalidOption, match="--slide"):
        export_to(tmp_path, store, "overlay")
    with pytest.raises(InputNotFound, match="no such slide"):
        export_to(tmp_path, store, "overlay", slide=str(tmp_path / "none.tif"))
    other = write_tiff(tmp_path / "other.tif", tissue((50, 60)))
    with pytest.raises(InvalidInput, match="another slide"):
        export_to(tmp_path, store, "overlay", slide=str(other))
    (tmp_path / "s.csv").write_text("mine")
    with pytest.raises(StoreExists):
        export_to(tmp_path, store, "csv")
    (tmp_path / "no.ome.zarr").mkdir()
    bad, good = export_to(
        tmp_path / "out", [tmp_path / "no.ome.zarr", store], "csv", on_error="continue"
    )
    assert (bad.status, good.status) == ("failed", "done")
    with pytest.raises(InvalidStore):
        export_to(tmp_path / "out", tmp_path / "no.ome.zarr", "csv")
    with pytest.raises(InvalidOption):
        export_to(tmp_path, [store, tmp_path / "no.ome.zarr"], "tiff", region=(0, 0, 5, 5))


def test_a_slide_without_nuclei(tmp_path, model):
    slide = write_tiff(tmp_path / "w.tif", np.full((100, 120, 3), 245, np.uint8), MPP)
    (result,) = run(slide, model, tmp_path / "out", formats=("ome-zarr", *ALL[:-1]))
    assert result.nuclei == 0
    tree = json.loads(gzip.decompress((tmp_path / "out" / "w.geojson.gz").read_bytes()))
    assert tree["features"] == []
    assert len((tmp_path / "out" / "w.csv").read_text().splitlines()) == 1
