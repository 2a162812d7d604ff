"""COCO JSON: polygons and both run-length encodings give the drawn objects; one broken object costs
itself only."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.annotations.coco import _runs
from histocli.annotations.sources import LabelFinder
from histocli.base.errors import InvalidInput

SHAPE = (10, 14)
find_labels = LabelFinder(own_store=lambda path, prefix: None, recorded_mpp=lambda path: None).find


def box(top, left, bottom, right):
    """Return a mask of a rectangle."""
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


def runs_of(mask):
    """Return the lengths of runs of background and object in turn, column by column."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges])).tolist()


def text_of(runs):
    """Write runs as COCO's text, five bits a character."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + (bits if done else bits | 32))
            if done:
                break
    return text


def coco(tmp_path, segmentations, **more):
    """Write a COCO file of one image; returns its label image."""
    document = {
        "images": [{"id": 7, "file_name": "folder/a.png", "height": 10, "width": 14}],
        "annotations": [
            {"id": number, "image_id": 7, "segmentation": each, **more}
            for number, each in enumerate(segmentations)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    (source,) = find_labels(str(path)).values()
    assert source.name == "a"
    return source.open().whole()


def test_all_kinds_of_segmentation_give_the_same_pixels(tmp_path):
    mask = box(2, 3, 6, 9)
    rectangle = [3, 2, 9, 2, 9, 6, 3, 6]
    runs = runs_of(mask)
    for segmentation in (
        [rectangle],
        {"size": list(SHAPE), "counts": runs},
        {"size": list(SHAPE), "counts": text_of(runs)},
    ):
        labels = coco(tmp_path, [segmentation])
        np.testing.assert_array_equal(labels == 1, mask)
        assert labels.max() == 1


def test_an_object_of_two_parts_and_a_crowd(tmp_path):
    parts = [[1, 1, 3, 1, 3, 3, 1, 3], [5, 5, 8, 5, 8, 8, 5, 8]]
    np.testing.assert_array_equal(coco(tmp_path, [parts]) == 1, box(1, 1, 3, 3) | box(5, 5, 8, 8))
    crowd = {"size": list(SHAPE), "counts": runs_of(box(0, 0, 10, 2))}
    labels = coco(tmp_path, [crowd], iscrowd=1)
    np.testing.assert_array_equal(labels == -1, box(0, 0, 10, 2))


@pytest.mark.parametrize(
    "broken",
    [
        [],
        None,
        [[1, 2, 3]],
        [[1, 2, 3, 4]],
        [["a", 1, 2, 3, 4, 5]],
        [[float("nan"), 1, 2, 3, 4, 5]],
        {"size": [3, 3], "counts": [9]},
        {"size": [10, 14], "counts": [1]},
        {"size": [10, 14], "counts": "\x01"},
        {"size": [10, 14], "counts": "o"},
        {"counts": [140]},
        "text",
    ],
)
def test_a_broken_object_is_named_and_the_others_are_drawn(tmp_path, caplog, broken):
    labels = coco(tmp_path, [broken, [[3, 2, 9, 2, 9, 6, 3, 6]]])
    np.testing.assert_array_equal(labels == 1, box(2, 3, 6, 9))
    assert "1 of 2 objects cannot be drawn" in caplog.text
    assert "annotation 0" in caplog.text


def test_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "x.json"
    for document, said in (
        ({"images": [{"id": 1}], "annotations": []}, "image 0 of its images is broken"),
        ({"images": [], "annotations": [{"image_id": 3}]}, "not among its images"),
    ):
        path.write_text(json.dumps(document))
        with pytest.raises(InvalidInput, match=said):
            find_labels(str(path))


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=12))
def test_text_gives_its_runs_back(runs):
    assert list(_runs(text_of(runs))) == runs
