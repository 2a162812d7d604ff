"""What programs do to label images on the way is mended where it can be, and said."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from histocli.annotations import matlab
from histocli.annotations.images import read_label_image
from histocli.base.errors import InvalidInput

LABELS = np.zeros((20, 30), np.int32)
LABELS[2:8, 2:8], LABELS[10:18, 12:20] = 1, 2
IGNORED = LABELS.copy()
IGNORED[:, 25:] = -1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_minus_one_in_an_unsigned_type_is_ignored_again(tmp_path, caplog, dtype):
    tifffile.imwrite(tmp_path / "a.tif", IGNORED.astype(dtype))
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.tif"), IGNORED)
    assert f"{np.iinfo(dtype).max} is taken for ignored" in caplog.text


def test_masks_and_ids_up_to_the_largest_stay(tmp_path, caplog):
    mask = ((LABELS > 0) * 255).astype(np.uint8)
    full = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, values in (("mask", mask), ("full", full)):
        np.save(tmp_path / f"{name}.npy", values)
        np.testing.assert_array_equal(read_label_image(tmp_path / f"{name}.npy"), values)
    assert caplog.text == ""


def test_more_nuclei_than_eight_bits_hold_are_suspected(tmp_path, caplog):
    """Six hundred squares of 2 px, numbered modulo 256."""
    numbers = (np.arange(600) + 1).reshape(20, 30)
    squares = np.kron(numbers, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    np.save(tmp_path / "wide.npy", squares.astype(np.uint16))
    read_label_image(tmp_path / "wide.npy")
    assert caplog.text == ""
    np.save(tmp_path / "narrow.npy", squares.astype(np.uint8))
    read_label_image(tmp_path / "narrow.npy")
    assert "ids name several separate objects" in caplog.text
    assert "16 bits" in caplog.text


def test_colours_are_ids_of_a_flat_picture_only(tmp_path, caplog):
    colours = np.zeros((*LABELS.shape, 3), np.uint8)
    colours[LABELS == 1], colours[LABELS == 2] = (200, 10, 10), (10, 200, 10)
    Image.fromarray(colours).save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_label_image(tmp_path / "ids.png"), LABELS)
    assert "2 colours are taken for ids" in caplog.text
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (*LABELS.shape, 3), np.uint8)
    noise[0, 0] = 0
    Image.fromarray(noise).save(tmp_path / "picture.png")
    with pytest.raises(InvalidInput, match="is it a picture or an overlay"):
        read_label_image(tmp_path / "picture.png")


def test_files_of_matlab(tmp_path):
    other = {"type_map": LABELS * 0, "inst_centroid": np.zeros((2, 2))}
    savemat(tmp_path / "a.mat", {"inst_map": LABELS.astype(float), **other})
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.mat"), LABELS)
    savemat(tmp_path / "b.mat", {"nuclei": LABELS, "count": 2})
    np.testing.assert_array_equal(read_label_image(tmp_path / "b.mat"), LABELS)
    savemat(tmp_path / "c.mat", {"one": LABELS, "two": LABELS})
    with pytest.raises(InvalidInput, match="has no inst_map, and its images are not one but: one"):
        read_label_image(tmp_path / "c.mat")
    (tmp_path / "d.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(200))
    with pytest.raises(InvalidInput, match=r"d\.mat: cannot be read as a label image"):
        read_label_image(tmp_path / "d.mat")


def test_a_file_that_ends_scipy_does_not_end_us(tmp_path, monkeypatch):
    """Some damaged files do; here the process that reads ends itself."""
    savemat(tmp_path / "a.mat", {"inst_map": LABELS})
    monkeypatch.setattr(matlab, "READ", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(InvalidInput, match="SciPy cannot read it"):
        read_label_image(tmp_path / "a.mat")


def test_sizes_that_no_image_has_are_not_allocated(tmp_path):
    """A file of some bytes that says it has four thousand million pixels."""
    tifffile.imwrite(tmp_path / "a.tif", np.ones((16, 16), np.uint16))
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for tag in (256, 257):  # width and height
            place = tiff.pages[0].tags[tag].valueoffset
            content[place : place + 2] = (60_000).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InvalidInput, match="are read in tiles only"):
        read_label_image(tmp_path / "a.tif")
    np.lib.format.open_memmap(tmp_path / "b.npy", "w+", np.uint8, (2**15, 2**15)).flush()
    with pytest.raises(InvalidInput, match="are read in tiles only"):
        read_label_image(tmp_path / "b.npy")
