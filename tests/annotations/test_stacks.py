"""Stacks as of PanNuke: ids of each type become labels of one image."""

import numpy as np
import pytest

from histocli.annotations.sources import LabelFinder
from histocli.annotations.stacks import read_stack_image, read_stack_masks, stack_length
from histocli.base.errors import InvalidInput

find_labels = LabelFinder(own_store=lambda path, prefix: None, recorded_mpp=lambda path: None).find


@pytest.fixture
def masks(tmp_path):
    """Two images of three types and background; an id may stand in two channels."""
    planes = np.zeros((2, 8, 9, 4), np.float64)
    planes[0, 1:3, 1:3, 0] = 5
    planes[0, 4:6, 1:3, 0] = 9
    planes[0, 1:3, 5:8, 2] = 5
    planes[..., 3] = (planes[..., :3] == 0).all(axis=-1)
    path = tmp_path / "masks.npy"
    np.save(path, planes)
    return path


def test_every_nucleus_of_every_type_is_one_label(masks):
    assert stack_length(masks) == 2
    labels = read_stack_masks(masks, 0)
    assert labels.dtype == np.int32
    assert [(labels == number).sum() for number in range(1, 5)] == [4, 4, 6, 0]
    assert labels[4, 1] == 2
    assert labels[1, 6] == 3
    assert not read_stack_masks(masks, 1).any()
    found = find_labels(str(masks))
    assert list(found) == ["000000", "000001"]
    np.testing.assert_array_equal(found["000000"].open().whole(), labels)


def test_a_last_channel_that_is_no_background_has_nuclei(tmp_path):
    planes = np.zeros((1, 6, 6, 2), np.int32)
    planes[0, 1, 1, 0], planes[0, 4, 4, 1] = 3, 3
    np.save(tmp_path / "m.npy", planes)
    labels = read_stack_masks(tmp_path / "m.npy", 0)
    assert (labels[1, 1], labels[4, 4], labels.max()) == (1, 2, 2)


def test_pictures_are_rounded_and_checked(tmp_path):
    pictures = np.full((1, 4, 4, 3), 12.4)
    np.save(tmp_path / "images.npy", pictures)
    assert (read_stack_image(tmp_path / "images.npy", 0) == 12).all()
    np.save(tmp_path / "bad.npy", pictures * 100)
    with pytest.raises(InvalidInput, match="red, green and blue"):
        read_stack_image(tmp_path / "bad.npy", 0)


def test_what_is_no_stack(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 5), np.int32))
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY")
    assert stack_length(tmp_path / "flat.npy") is None
    assert stack_length(tmp_path / "damaged.npy") is None
    np.save(tmp_path / "half.npy", np.full((1, 4, 4, 2), 0.5))
    with pytest.raises(InvalidInput, match="no whole numbers"):
        read_stack_masks(tmp_path / "half.npy", 0)
