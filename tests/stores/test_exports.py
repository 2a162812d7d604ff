"""Label TIFFs and overlays read back, carry their provenance, and obey the rerun rule."""

import errno

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from histocli.base.errors import OutOfResources, StoreExists
from histocli.stores import exports
from histocli.stores.exports import (
    LABEL_IMAGE,
    OVERLAY,
    prepare_file,
    read_facts,
    write_label_tiff,
    write_overlay,
)
from histocli.stores.provenance import Provenance

FACTS = {"n_nuclei": 2, "mpp": 0.25, "source": {"name": "Präparat.svs"}}


def record(contract: str, config_hash: str = "abc") -> Provenance:
    return Provenance(
        contract=contract, command="segment", config={"tile_px": 512}, config_hash=config_hash
    )


def write(path, contract, config_hash="abc"):
    if contract == LABEL_IMAGE:
        labels = np.arange(6, dtype=np.int32).reshape(2, 3)
        write_label_tiff(
            path, labels, mpp=0.25, provenance=record(contract, config_hash), facts=FACTS
        )
    else:
        write_overlay(
            path,
            np.zeros((2, 3, 3), np.uint8),
            provenance=record(contract, config_hash),
            facts=FACTS,
        )


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (513, 20), (700, 900)])
def test_labels_read_back_with_their_pixel_size(tmp_path, shape):
    labels = np.random.default_rng(0).integers(0, 100_000, shape, np.int32)
    write_label_tiff(
        tmp_path / "a.tif", labels, mpp=0.499, provenance=record(LABEL_IMAGE), facts=FACTS
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages.first
        np.testing.assert_array_equal(page.asarray(), labels)
        assert page.dtype == np.uint32
        n, per = page.tags["XResolution"].value
        assert page.tags["ResolutionUnit"].value == 3
        assert 1e4 * per / n == pytest.approx(0.499)


def test_overlay_reads_back_in_any_reader(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    write_overlay(tmp_path / "a.overlay.png", picture, provenance=record(OVERLAY), facts=FACTS)
    np.testing.assert_array_equal(
        imagecodecs.png_decode((tmp_path / "a.overlay.png").read_bytes()), picture
    )
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.overlay.png"))[..., ::-1], picture)


@pytest.mark.parametrize("contract", [LABEL_IMAGE, OVERLAY])
def test_a_file_says_how_it_was_made(tmp_path, contract):
    write(tmp_path / "a", contract)
    facts = read_facts(tmp_path / "a")
    assert facts["contract"] == contract
    assert facts["complete"] is True
    assert {name: facts[name] for name in FACTS} == FACTS


@pytest.mark.parametrize("contract", [LABEL_IMAGE, OVERLAY])
def test_rerun_rule(tmp_path, contract):
    path = tmp_path / "out" / "a"
    rule = {"contract": contract, "config_hash": "abc", "overwrite": False}
    assert prepare_file(path, **rule) == "create"
    write(path, contract)
    assert prepare_file(path, **rule) == "skip"
    with pytest.raises(StoreExists, match="--overwrite"):
        prepare_file(path, **(rule | {"config_hash": "other"}))
    assert prepare_file(path, **(rule | {"config_hash": "other", "overwrite": True})) == "create"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_left_alone(tmp_path, overwrite):
    tifffile.imwrite(tmp_path / "foreign.tif", np.zeros((2, 2), np.uint8))
    (tmp_path / "foreign.png").write_bytes(imagecodecs.png_encode(np.zeros((2, 2), np.uint8)))
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "json.tif").write_bytes(b"")
    tifffile.imwrite(
        tmp_path / "json.tif",
        np.zeros((2, 2), np.uint8),
        description='{"histosynth": 3}',
        metadata=None,
    )
    write(tmp_path / "overlay.tif", OVERLAY)
    for path in sorted(tmp_path.iterdir()):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(StoreExists, match=path.name):
            prepare_file(path, contract=LABEL_IMAGE, config_hash="abc", overwrite=overwrite)
        assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("contract", [LABEL_IMAGE, OVERLAY])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, contract):
    path = tmp_path / "a"
    write(path, contract)
    before = path.read_bytes()

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exports.tifffile, "imwrite", full)
    monkeypatch.setattr(exports.Path, "write_bytes", full)
    with pytest.raises(OutOfResources, match="free some space"):
        write(path, contract, "other")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
