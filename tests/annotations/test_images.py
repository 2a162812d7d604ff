"""Label images of other tools read as integers, or say in one line why not."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from histocli.annotations.images import read_label_image
from histocli.base.errors import InputNotFound, InvalidInput

LABELS = np.array([[0, 1, 1], [2, 0, 250]])


def save(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        tifffile.imwrite(
            path,
            values,
            photometric="rgb" if values.ndim == 3 and values.shape[-1] == 3 else "minisblack",
        )
    return path


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".tif", t) for t in ("uint8", "uint16", "uint32", "int32", "float32")]
    + [(".png", t) for t in ("uint8", "uint16")]
    + [(".npy", t) for t in ("bool", "uint8", "int32", "int64", "uint64", "float64")],
)
def test_reads_what_was_written(tmp_path, suffix, dtype):
    values = LABELS.astype(dtype)
    read = read_label_image(save(tmp_path / f"a{suffix}", values))
    assert read.dtype.kind in "iu"
    assert (read == values).all()


def test_negative_pixels_stay(tmp_path):
    assert read_label_image(save(tmp_path / "a.tif", np.array([[-1, 5]], np.int32))).tolist() == [
        [-1, 5]
    ]


def test_indices_of_a_palette_are_the_labels(tmp_path):
    image = Image.fromarray(LABELS.astype(np.uint8), mode=None)
    image.putpalette([i % 251 for i in range(768)])
    image.save(tmp_path / "a.png")
    assert (read_label_image(tmp_path / "a.png") == LABELS).all()


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 3, 1), (1, 2, 3, 1)])
def test_axes_of_length_one_are_dropped(tmp_path, shape):
    assert read_label_image(save(tmp_path / "a.npy", LABELS.reshape(shape))).shape == (2, 3)


def test_a_single_pixel_is_an_image(tmp_path):
    assert read_label_image(save(tmp_path / "a.npy", np.ones((1, 1, 1), int))).shape == (1, 1)
    assert read_label_image(save(tmp_path / "a.png", np.ones((1, 1), np.uint8))).shape == (1, 1)


def test_equal_colour_channels_are_one(tmp_path):
    values = np.repeat(LABELS[..., None], 3, axis=2).astype(np.uint8)
    assert (read_label_image(save(tmp_path / "a.png", values)) == LABELS).all()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("a.png", np.arange(18, dtype=np.uint8).reshape(2, 3, 3), "overlay"),
        ("a.npy", np.zeros((4, 5, 6), int), "one integer a pixel"),
        ("a.npy", np.zeros((0, 5), int), "one integer a pixel"),
        ("a.npy", np.full((2, 2), 0.5), "probability"),
        ("a.npy", np.full((2, 2), np.nan), "whole numbers"),
        ("a.npy", np.full((2, 2), "x"), "integers"),
        ("a.npy", np.full((2, 2), 2**64 - 1, np.uint64), "2\\*\\*63"),
    ],
)
def test_what_is_no_label_image(tmp_path, name, values, said):
    with pytest.raises(InvalidInput, match=said) as error:
        read_label_image(save(tmp_path / name, values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.npy", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"not an image at all, but longer than a header"])
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_label_image(tmp_path / name)


def test_truncated_files(tmp_path):
    for name in ("a.tif", "a.png", "a.npy"):
        path = save(tmp_path / name, np.arange(10_000, dtype=np.uint16).reshape(100, 100))
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(InvalidInput, match="cannot be read"):
            read_label_image(path)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_label_image(tmp_path / "a.npy")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputNotFound, match=r"b\.tif"):
        read_label_image(tmp_path / "b.tif")
