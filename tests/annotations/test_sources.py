"""Labels of any kind: found, named and read alike."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from histocli.annotations import images
from histocli.annotations.sources import LabelFinder
from histocli.base.errors import InputNotFound, InvalidInput

LABELS = np.zeros((12, 16), np.int32)
LABELS[2:6, 2:7], LABELS[7:11, 8:15] = 1, 2


find_labels = LabelFinder(own_store=lambda path, prefix: None, recorded_mpp=lambda path: None).find


def whole(source):
    return source.open().on(LABELS.shape).whole()


def ome_zarr(path, version, labels=LABELS, name="nuclei", unit="micrometer"):
    """An image of another program with labels beneath."""
    wrap = (
        (lambda ome: {"ome": {"version": "0.5", **ome}}) if version == "0.5" else (lambda ome: ome)
    )
    root = zarr.open_group(path, mode="a", zarr_format=3 if version == "0.5" else 2)
    root.attrs.update(wrap({"multiscales": [{"datasets": [{"path": "0"}], "axes": []}]}))
    folder = root.require_group("labels")
    known = dict(folder.attrs).get("ome", dict(folder.attrs)).get("labels", [])
    folder.attrs.update(wrap({"labels": [*known, name]}))
    group = folder.create_group(name)
    scale = {"coordinateTransformations": [{"type": "scale", "scale": [1, 0.5, 0.5]}], "path": "0"}
    axes = [{"name": "z", "type": "space", "unit": unit}] + [
        {"name": a, "type": "space", "unit": unit} for a in "yx"
    ]
    group.attrs.update(
        wrap({"multiscales": [{"axes": axes, "datasets": [scale]}], "image-label": {}})
    )
    group.create_array("0", data=labels[None], chunks=(1, 5, 5))
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_other_programs(tmp_path, version):
    path = ome_zarr(tmp_path / "slide.ome.zarr", version)
    for word in (path, path / "labels" / "nuclei"):
        (source,) = find_labels(str(word)).values()
        opened = source.open()
        assert (opened.shape, opened.mpp) == (LABELS.shape, 0.5)
        assert (whole(source) == LABELS).all()
        assert (opened.read(slice(3, 9), slice(5, 11)) == LABELS[3:9, 5:11]).all()
    assert list(find_labels(str(path))) == ["slide"]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_a_large_tiled_tiff_is_read_in_parts(tmp_path, monkeypatch, dtype):
    """With a few pixels counting as large; strips and small images are decoded whole, and damage is
    still told."""
    labels = np.kron(LABELS, np.ones((8, 8), int)).astype(dtype)
    monkeypatch.setattr(images, "LARGE_PX", 100)
    tifffile.imwrite(tmp_path / "a.tif", labels, tile=(16, 16), compression="zlib")
    tifffile.imwrite(tmp_path / "b.tif", labels)
    assert (whole(find_labels(str(tmp_path / "b.tif"))["b"]) == labels).all()
    monkeypatch.setattr(images, "read_label_image", lambda _: pytest.fail("read whole"))
    opened = find_labels(str(tmp_path / "a.tif"))["a"].open()
    assert opened.shape == labels.shape
    assert (opened.read(slice(5, 60), slice(20, 90)) == labels[5:60, 20:90]).all()
    assert (opened.whole() == labels).all()
    monkeypatch.undo()
    monkeypatch.setattr(images, "LARGE_PX", 100)
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:40])
    with pytest.raises(InvalidInput, match="cannot be read"):
        find_labels(str(tmp_path / "c.tif"))["c"].open()


def test_several_labels_must_be_told_apart(tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", "0.5")
    ome_zarr(path, "0.5", name="cells")
    with pytest.raises(InvalidInput, match=r"holds 2 label images .*labels/nuclei.*labels/cells"):
        find_labels(str(path))
    assert len(find_labels(str(path / "labels" / "cells"))) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [(LABELS.astype(float), "integers"), (np.zeros((3, 12, 16), int), "one integer a pixel")],
)
def test_a_zarr_array_that_holds_no_labels(tmp_path, values, said):
    zarr.save_array(tmp_path / "a.zarr", values)
    with pytest.raises(InvalidInput, match=said):
        find_labels(str(tmp_path / "a.zarr"))
    zarr.save_array(tmp_path / "b.zarr", LABELS)
    assert (whole(find_labels(str(tmp_path / "b.zarr"))["b"]) == LABELS).all()


def test_a_mask_per_nucleus(tmp_path):
    """As the Data Science Bowl hands out: one folder an image, one file a nucleus; the later name
    lies on top."""
    for name in ("img1", "img2"):
        (tmp_path / name / "masks").mkdir(parents=True)
        (tmp_path / name / "images").mkdir()
        for k in (1, 2):
            Image.fromarray(np.uint8(255 * (k == LABELS))).save(
                tmp_path / name / "masks" / f"{k}.png"
            )
    found = find_labels(str(tmp_path))
    assert list(found) == ["img1", "img2"]
    assert (whole(found["img2"]) == LABELS).all()
    assert list(find_labels(str(tmp_path / "img1"))) == ["img1"]
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "img1" / "masks" / "3.png")
    with pytest.raises(InvalidInput, match="3 x 3 pixels"):
        found["img1"].open()


def test_outlines_are_as_large_as_their_partner(tmp_path):
    ring = [[2, 2], [7, 2], [7, 6], [2, 6]]
    (tmp_path / "a.geojson").write_text(
        json.dumps([{"geometry": {"type": "Polygon", "coordinates": [ring]}}])
    )
    (source,) = find_labels(str(tmp_path)).values()
    assert source.open().shape is None
    assert (whole(source) == (LABELS == 1)).all()
    assert source.open().extent == (6, 7)


def test_json_is_read_where_it_is_named(tmp_path):
    ring = [[2, 2], [7, 2], [7, 6], [2, 6]]
    (tmp_path / "a.json").write_text(
        json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}})
    )
    assert (whole(find_labels(str(tmp_path / "a.json"))["a"]) == (LABELS == 1)).all()
    with pytest.raises(InputNotFound):
        find_labels(str(tmp_path))


def test_outlines_far_beyond_the_image_are_told(tmp_path, caplog):
    ring = [[0, 0], [90, 0], [90, 90]]
    (tmp_path / "a.geojson").write_text(
        json.dumps([{"geometry": {"type": "Polygon", "coordinates": [ring]}}])
    )
    whole(find_labels(str(tmp_path / "a.geojson"))["a"])
    assert "one resolution" in caplog.text


def test_of_several_formats_of_one_slide_one_counts(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", LABELS)
    (tmp_path / "a.geojson").write_text("[]")
    (tmp_path / "b.geojson").write_text("[]")
    assert {name: source.source[-5:] for name, source in find_labels(str(tmp_path)).items()} == {
        "a": "a.tif",
        "b": "ojson",
    }


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_negative_labels_are_refused_but_for_ignored_pixels(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.where(LABELS == 2, -1, LABELS).astype(dtype))
    assert whole(find_labels(str(tmp_path / "a.npy"))["a"]).min() == -1
    np.save(tmp_path / "a.npy", np.where(LABELS == 2, -7, LABELS).astype(dtype))
    with pytest.raises(InvalidInput, match="holds the label -7"):
        find_labels(str(tmp_path / "a.npy"))["a"].open()
