"""Scratch arrays come back as they were written; large ones stay on disk."""

import numpy as np
import pytest

from histocli.stores.scratch import MAP_FROM_BYTES, load_arrays, save_arrays


def test_what_was_saved_is_loaded(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "large": rng.random((200, 200)).astype(np.float16),
        "flags": rng.random((3, 4)) > 0.5,
        "empty": np.zeros((0, 3), np.float32),
        "ids": np.arange(5, dtype=np.int64),
    }
    save_arrays(tmp_path / "new" / "one", arrays, {"name": "ä.png", "values": [1.5, None]})
    found, about = load_arrays(tmp_path / "new" / "one")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert isinstance(found[name], np.memmap) == (array.nbytes >= MAP_FROM_BYTES)
    assert about == {"name": "ä.png", "values": [1.5, None]}


def test_a_folder_is_written_once(tmp_path):
    save_arrays(tmp_path / "one", {}, {})
    with pytest.raises(FileExistsError):
        save_arrays(tmp_path / "one", {}, {})


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        save_arrays(tmp_path / "one", {"objects": np.array([{}], object)}, {})
