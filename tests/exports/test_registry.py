"""One table lists the formats; every file says how it was made, and the rerun rule heeds it."""

import ast
import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from histocli.base.errors import InvalidOption, OutOfResources
from histocli.base.formats import FORMATS, format_names
from histocli.exports import registry
from histocli.exports.content import Content
from histocli.exports.registry import WRITERS, check_packages, read_record
from histocli.stores.labels import CONTRACT
from histocli.stores.provenance import Provenance

PACKAGE = Path(registry.__file__).parents[1]
FACTS = {"n_nuclei": 2, "mpp": 0.25, "source": {"name": "Präparat.svs"}}
WRITTEN = ("tiff", "csv", "geojson", "overlay")
TABLE = {
    "id": np.array([1, 2], np.uint32),
    "y_um": np.array([0.5, 1.25]),
    "box": np.array([[0, 0, 1, 2], [1, 1, 2, 3]], np.int32),
    "area_um2": np.array([0.125, 0.0625], np.float32),
}


class InMemory(SimpleNamespace):
    """A slide of two rows and three columns with two nuclei::

    1 1 0
    0 2 2
    """

    shape = (2, 3)
    mpp = 0.25
    n_nuclei = 2
    n_levels = 1
    columns = TABLE

    def level(self, number):
        return np.array([[1, 1, 0], [0, 2, 2]], np.int32)


def read_windows(windows):
    return [np.zeros((2, 3, 3), np.uint8) for _ in windows]


def write(path, name, config_hash="abc"):
    made_by = Provenance(
        contract=FORMATS[name].contract,
        command="segment",
        config={"tile_px": 512},
        config_hash=config_hash,
        complete=True,
    )
    content = Content(nuclei=InMemory(), read_windows=read_windows, read_shrunk=None)
    WRITERS[name](path, content, made_by.to_json() | FACTS)


def test_every_format_has_a_writer_and_an_ending_of_its_own():
    assert set(WRITERS) == set(format_names("export"))
    assert set(format_names("segment")) | set(WRITERS) == set(FORMATS)
    assert FORMATS["ome-zarr"].contract == CONTRACT
    assert len({form.suffix for form in FORMATS.values()}) == len(FORMATS)


def lists_formats(source: str) -> bool:
    """Three formats in one list, or four in one text, are a list of formats."""
    for node in ast.walk(ast.parse(source)):
        items = getattr(node, "elts", None) or getattr(node, "keys", None) or []
        named = [item for item in items if isinstance(item, ast.Constant) and item.value in FORMATS]
        if len(named) >= 3:
            return True
        if isinstance(node, ast.Match) and len(node.cases) >= 3:
            patterns = [ast.unparse(case.pattern).strip("'") for case in node.cases]
            if len(set(patterns) & set(FORMATS)) >= 3:
                return True
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = set(node.value.replace(",", " ").replace(".", " ").split())
            if len(words & {"ome-zarr", "tiff", "geojson", "parquet", "csv", "qc"}) >= 4:
                return True
    return False


def test_no_other_file_lists_the_formats():
    listing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if lists_formats(path.read_text(encoding="utf-8"))
    }
    assert listing == {"base/formats.py", "exports/registry.py"}


@pytest.mark.parametrize(
    "source",
    [
        "SUFFIXES = {'csv': 1, 'tiff': 2, 'qc': 3}",
        "x = ('csv', 'tiff', 'qc')",
        "'what to write: ome-zarr, tiff, geojson, csv.'",
        "match x:\n case 'csv': pass\n case 'tiff': pass\n case 'qc': pass",
    ],
)
def test_a_list_of_formats_is_found(source):
    assert lists_formats(source)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_says_how_it_was_made(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name].suffix}"
    write(path, name)
    record = read_record(path)
    assert record["contract"] == FORMATS[name].contract
    assert record["complete"] is True
    assert {key: record[key] for key in FACTS} == FACTS


@pytest.mark.parametrize("name", ["tiff", "overlay"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, name):
    path = tmp_path / "a"
    write(path, name)
    before = path.read_bytes()

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutOfResources, match="free some space"):
        write(path, name, "other")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    check_packages(["csv", "tiff"])
    with pytest.raises(InvalidOption, match=r"parquet needs the optional package pyarrow: pip"):
        check_packages(["csv", "parquet"])
