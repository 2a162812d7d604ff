"""Packing: labelled images become a store, and pairs that do not belong together are named.

``folder``: images/ with a.png (20 x 50), b.png (64 x 64), c.tif (100 x 70), and labels/ with a.npy,
b.png, c.tif of these sizes.
"""

import io
import json

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from histocli.base import interrupts
from histocli.base.errors import HistosynthError, InputNotFound, InvalidInput, Stopped, StoreExists
from histocli.config.common import Execution
from histocli.config.pack import PackConfig
from histocli.slides.open import read_image
from histocli.stages.pack import pack
from histocli.stores.patches import PatchStore

PX = 64
SHAPES = {"a.png": (20, 50), "b.png": (64, 64), "c.tif": (100, 70)}
LABEL_NAMES = {"a.png": "a.npy", "b.png": "b.png", "c.tif": "c.tif"}


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(
            path, image, photometric="rgb", resolution=(40000, 40000), resolutionunit="CENTIMETER"
        )
    else:
        cv2.imwrite(str(path), image[..., ::-1])


def write_labels(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels.astype(np.int32))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, labels.astype(np.uint32))
    else:
        cv2.imwrite(str(path), labels.astype(np.uint16))


def squares(shape):
    """Return labels with a nucleus of 6 x 6 pixels every 10, numbered 7, 14, ..."""
    labels = np.zeros(shape, np.int32)
    number = 0
    for y in range(2, shape[0] - 6, 10):
        for x in range(2, shape[1] - 6, 10):
            number += 7
            labels[y : y + 6, x : x + 6] = number
    return labels


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        write_image(tmp_path / "images" / name, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        write_labels(tmp_path / "labels" / LABEL_NAMES[name], squares(shape))
    return tmp_path


def run(folder, *, config=None, images=None, labels=None, **execution):
    return pack(
        images or str(folder / "images"),
        labels or str(folder / "labels"),
        folder / "labelled.zarr",
        config or PackConfig(patch_px=PX, mpp=0.25),
        Execution(**execution),
    )


def test_a_folder_becomes_a_patch_store(folder):
    result = run(folder, config=PackConfig(patch_px=PX, mpp=0.25, shippable=False))
    store = PatchStore.open(folder / "labelled.zarr")
    assert (store.origin, store.mpp, store.shippable, store.patch_px) == (
        "labelled",
        0.25,
        False,
        PX,
    )
    assert [record.name for record in store.references] == ["a.png", "b.png", "c.tif"]
    assert store.reference.tolist() == [0, 1, 2, 2, 2, 2]
    assert (store.weight == 1).all()
    _, labels = store.read(range(6))
    assert (labels[0, 20:] == -1).all()
    np.testing.assert_array_equal(labels[1] > 0, squares((64, 64)) > 0)
    assert sum((labels > 0).sum(axis=(1, 2))) == sum(
        (squares(shape) > 0).sum() for shape in SHAPES.values()
    )
    assert result.to_json() == {
        "schema": "histosynth.pack/1",
        "output": str(folder / "labelled.zarr"),
        "status": "done",
        "seconds": result.to_json()["seconds"],
        "error": None,
        "images": 3,
        "patches": 6,
        "nuclei": sum(int(patch.max()) for patch in labels),
        "mpp": 0.25,
        "mpp_source": "given",
    }


def test_the_rerun_rule_holds(folder):
    first = run(folder)
    assert run(folder).status == "skipped"
    assert run(folder).patches == first.patches
    with pytest.raises(StoreExists, match="--overwrite"):
        run(folder, config=PackConfig(patch_px=32, mpp=0.25))
    write_labels(folder / "labels" / "b.png", np.zeros((64, 64)))
    with pytest.raises(StoreExists, match="other settings or inputs"):
        run(folder)
    assert run(folder, overwrite=True).nuclei < first.nuclei


def test_a_dry_run_checks_everything_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    result = run(folder, dry_run=True)
    assert (result.status, result.patches, result.nuclei) == ("planned", 6, None)
    assert sorted(folder.rglob("*")) == before


def test_a_stop_in_the_middle_is_resumed_with_the_same_result(folder, monkeypatch):
    config = PackConfig(patch_px=32, mpp=0.25)
    rng = np.random.default_rng(1)
    write_image(folder / "images" / "d.png", rng.integers(0, 256, (200, 300, 3), dtype=np.uint8))
    write_labels(folder / "labels" / "d.png", squares((200, 300)))
    run(folder, config=config)
    expected = PatchStore.open(folder / "labelled.zarr").content_hash()
    (folder / "labelled.zarr").rename(folder / "first.zarr")

    answers = iter([False] * 5 + [True])
    with monkeypatch.context() as patched:
        patched.setattr(interrupts, "stop_requested", lambda: next(answers))
        with pytest.raises(Stopped, match="to go on"):
            run(folder, config=config)
    assert not (folder / "labelled.zarr").exists()
    assert run(folder, config=config).status == "done"
    assert PatchStore.open(folder / "labelled.zarr").content_hash() == expected


def test_names_in_several_folders_are_told_apart_by_their_folders(folder):
    for where in ("images", "labels"):
        (folder / where / "deep").mkdir()
        (folder / where / "b.png").rename(folder / where / "deep" / "a.png")
    assert run(folder).images == 3
    store = PatchStore.open(folder / "labelled.zarr")
    np.testing.assert_array_equal(
        store.read(range(1, 2))[1][0] > 0, squares((100, 70))[:64, :64] > 0
    )


def spoil(folder, how):
    """Break one thing; the message must name it."""
    images, labels = folder / "images", folder / "labels"
    match how:
        case "image alone":
            (labels / "b.png").unlink()
        case "labels alone":
            (images / "b.png").unlink()
        case "two alone":
            (labels / "b.png").unlink()
            (labels / "a.npy").unlink()
        case "same name":
            np.save(labels / "b.npy", np.zeros((64, 64), np.int32))
        case "shape":
            write_labels(labels / "b.png", squares((64, 60)))
        case "negative":
            np.save(labels / "a.npy", np.full((20, 50), -3, np.int32))
        case "truncated":
            (images / "b.png").write_bytes((images / "b.png").read_bytes()[:100])
        case "no labels":
            for file in labels.iterdir():
                file.unlink()
        case "no images":
            for file in images.iterdir():
                file.unlink()
        case "no folder":
            labels.rename(folder / "elsewhere")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("image alone", InvalidInput, r"b\.png: is an image without a label image"),
        ("labels alone", InvalidInput, r"b\.png: is a label image without an image"),
        ("two alone", InvalidInput, r"a\.png: is an image .*\(2 of 3 are alone\)"),
        ("same name", InvalidInput, r"b\.png: has the same name as .*b\.npy"),
        (
            "shape",
            InvalidInput,
            r"b\.png with .*labels.b\.png: the image has 64 x 64 pixels and the labels 64 x 60",
        ),
        ("negative", InvalidInput, r"a\.npy"),
        ("truncated", InvalidInput, r"b\.png"),
        ("no labels", InputNotFound, "no label image in this folder"),
        ("no images", InputNotFound, "no image in this folder"),
        ("no folder", InputNotFound, "no such label image"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(folder, how, error, message):
    spoil(folder, how)
    with pytest.raises(error, match=message) as caught:
        run(folder)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, HistosynthError)
    assert caught.value.exit_code == 3
    assert not [path for path in folder.iterdir() if "labelled" in path.name]


def test_one_store_has_one_pixel_size(folder):
    (folder / "m.csv").write_text("path,mpp\nimages/a.png,0.5\nimages/c.tif,\nimages/b.png,\n")
    with pytest.raises(InvalidInput, match=r"c\.tif: has 0\.25 .*a\.png has 0\.5"):
        run(folder, images=str(folder / "m.csv"), config=PackConfig(patch_px=PX))
    (folder / "m.csv").write_text("path,mpp\nimages/a.png,0.25\nimages/c.tif,\nimages/b.png,\n")
    assert run(folder, images=str(folder / "m.csv"), config=PackConfig(patch_px=PX)).mpp == 0.25


def test_an_assumed_pixel_size_is_said(folder, caplog):
    (folder / "images" / "c.tif").unlink()
    (folder / "labels" / "c.tif").unlink()
    with caplog.at_level("WARNING"):
        result = run(folder, config=PackConfig(patch_px=PX))
    assert (result.mpp, result.mpp_source) == (0.25, "assumed")
    assert "--mpp" in caplog.text


def test_masks_that_were_never_numbered_are_said(folder, caplog):
    write_labels(folder / "labels" / "b.png", (squares((64, 64)) > 0) * 255)
    with caplog.at_level("WARNING"):
        run(folder)
    assert "1 of 3 label images hold one id for several" in caplog.text


def test_one_of_the_two_may_come_from_stdin(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'images'}\n"))
    assert run(folder, images="-").images == 3
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{folder / 'images'}\n"))
    with pytest.raises(InputNotFound, match="no input on stdin"):
        run(folder, images="-", labels="-")


def test_labels_of_every_kind_give_the_same_store(folder):
    """A label image, its outlines, a file of MATLAB, and COCO."""
    from scipy.io import savemat

    for path in [*(folder / "images").iterdir(), *(folder / "labels").iterdir()]:
        if path.stem != "b":
            path.unlink()
    run(folder)
    expected = PatchStore.open(folder / "labelled.zarr").read(range(1))[1] > 0
    labels = squares((64, 64))
    boxes = [
        (rows.start, columns.start, rows.stop, columns.stop)
        for rows, columns in filter(None, ndimage.find_objects(labels))
    ]
    rings = [[[x, y], [r, y], [r, b], [x, b], [x, y]] for y, x, b, r in boxes]
    polygons = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    geojson = {"type": "GeometryCollection", "geometries": polygons}
    coco = {
        "images": [{"id": 1, "file_name": "b.png", "height": 64, "width": 64}],
        "annotations": [
            {"id": n, "image_id": 1, "segmentation": [np.array(ring).ravel().tolist()]}
            for n, ring in enumerate(rings)
        ],
    }
    (folder / "b.geojson").write_text(json.dumps(geojson))
    (folder / "truth.json").write_text(json.dumps(coco))
    savemat(folder / "b.mat", {"inst_map": labels})
    np.save(folder / "masks.npy", labels[None, ..., None])
    np.save(folder / "images.npy", read_image(folder / "images" / "b.png").pixels[None])
    for name in ("b.geojson", "truth.json", "b.mat", "masks.npy"):
        images = folder / ("images.npy" if name == "masks.npy" else "images/b.png")
        out = folder / f"{name}.zarr"
        result = pack(str(images), str(folder / name), out, PackConfig(patch_px=PX), Execution())
        found = PatchStore.open(out).read(range(1))[1]
        np.testing.assert_array_equal(found > 0, expected)
        assert result.images == 1
