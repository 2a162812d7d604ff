"""Predictions and truths pair by name or as a CSV says."""

import json

import numpy as np
import pytest

from histocli.annotations.labels import OpenLabels
from histocli.annotations.outlines import read_outlines
from histocli.annotations.pairs import common_shape, find_pairs
from histocli.annotations.sources import LabelFinder
from histocli.base.errors import InputNotFound, InvalidInput

FINDER = LabelFinder(own_store=lambda path, prefix: None, recorded_mpp=lambda path: None)
LABELS = np.eye(4, dtype=np.int32)


def test_a_manifest_says_more(tmp_path):
    for name in ("p", "t", "mask"):
        np.save(tmp_path / f"{name}.npy", LABELS)
    (tmp_path / "pic.png").write_bytes(b"")
    (tmp_path / "m.csv").write_text(
        "Prediction,truth,group,mpp,image,ignore\np.npy,t.npy,patient 1,0.5,pic.png,mask.npy\n"
    )
    for prediction, truth in (("m.csv", None), ("p.npy", str(tmp_path / "m.csv"))):
        (pair,) = find_pairs(str(tmp_path / prediction), truth, FINDER).pairs
        assert pair.name == ("p" if truth is None else "t")
        true = pair.truth
        assert (true.group, true.mpp, true.labels.name) == ("patient 1", 0.5, "t")
        assert (true.image.name, true.ignore.name) == ("pic.png", "mask")


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("p.npy,t.npy,g,fine,,", InvalidInput, "line 2: mpp must lie"),
        ("p.npy,t.npy,g,99,,", InvalidInput, "line 2: mpp must lie"),
        ("p.npy,t.npy,g,,no.png,", InputNotFound, "no such image"),
        ("p.npy,t.npy,g,,,no.png", InputNotFound, "no such label image"),
    ],
)
def test_bad_extras(tmp_path, line, kind, said):
    for name in ("p", "t"):
        np.save(tmp_path / f"{name}.npy", LABELS)
    (tmp_path / "m.csv").write_text(f"prediction,truth,group,mpp,image,ignore\n{line}\n")
    with pytest.raises(kind, match=said):
        find_pairs(str(tmp_path / "m.csv"), None, FINDER)


def test_a_truth_twice_in_a_manifest(tmp_path):
    np.save(tmp_path / "t.npy", LABELS)
    (tmp_path / "m.csv").write_text("truth\nt.npy\nt.npy\n")
    with pytest.raises(InvalidInput, match="line 3 names t a second time"):
        find_pairs("unread", str(tmp_path / "m.csv"), FINDER)


def test_what_has_no_partner_is_listed(tmp_path):
    for folder, names in (("p", "abd"), ("t", "abc")):
        (tmp_path / folder).mkdir()
        for name in names:
            np.save(tmp_path / folder / f"{name}.npy", LABELS)
    pairing = find_pairs(str(tmp_path / "p"), str(tmp_path / "t"), FINDER)
    assert [pair.name for pair in pairing.pairs] == ["a", "b"]
    assert (pairing.without_prediction, pairing.without_truth) == (("c",), ("d",))


def test_outlines_are_compared_on_the_size_of_their_partner(tmp_path):
    for name, ring in (("a", [[2, 2], [7, 2], [7, 6]]), ("b", [[0, 0], [3, 0], [3, 9]])):
        content = {"geometry": {"type": "Polygon", "coordinates": [ring]}}
        (tmp_path / f"{name}.geojson").write_text(json.dumps([content]))
    first, second = (read_outlines(tmp_path / f"{name}.geojson") for name in "ab")
    image = OpenLabels.in_memory(LABELS, "c")
    assert common_shape(first, second) == common_shape(second, first) == (9, 7)
    assert common_shape(first, image) == common_shape(image, first) == LABELS.shape
    assert first.on((9, 7)).shape == (9, 7)
    assert image.on((9, 7)).shape == LABELS.shape
