"""The rerun rule heeds how a file was made, and leaves alone what is not ours."""

import imagecodecs
import numpy as np
import pytest
import tifffile

from histocli.base.errors import StoreExists
from histocli.base.formats import FORMATS
from histocli.stages.shared.outputs import prepare_file
from tests.exports.test_registry import WRITTEN, write


def rule(path, name, config_hash="abc", overwrite=False):
    return prepare_file(
        path, contract=FORMATS[name].contract, config_hash=config_hash, overwrite=overwrite
    )


@pytest.mark.parametrize("name", WRITTEN)
def test_the_rerun_rule_of_files(tmp_path, name):
    path = tmp_path / "out" / f"a{FORMATS[name].suffix}"
    assert rule(path, name) == "create"
    write(path, name)
    assert rule(path, name) == "skip"
    with pytest.raises(StoreExists, match="--overwrite"):
        rule(path, name, "other")
    assert rule(path, name, "other", overwrite=True) == "create"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_left_alone(tmp_path, overwrite):
    black = np.zeros((2, 2), np.uint8)
    tifffile.imwrite(tmp_path / "foreign.tif", black)
    (tmp_path / "foreign.png").write_bytes(imagecodecs.png_encode(black))
    (tmp_path / "cut.png").write_bytes(imagecodecs.png_encode(black)[:20])
    (tmp_path / "cut.geojson.gz").write_bytes(b"\x1f\x8bcut")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1cut")
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.tif").mkdir()
    description = {"description": '{"histosynth": 3}', "metadata": None}
    tifffile.imwrite(tmp_path / "json.tif", black, **description)
    write(tmp_path / "overlay.tif", "overlay")
    for path in sorted(tmp_path.iterdir()):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(StoreExists, match=path.name):
            rule(path, "tiff", overwrite=overwrite)
        assert before is None or path.read_bytes() == before
