"""Stores that break the contract are refused in one line."""

import json
import shutil

import pytest
import zarr

from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.stores.labels import open_labels
from tests.stores.labels.writing import write


class TestRefusals:
    def check(self, path, match):
        with pytest.raises(InvalidStore, match=match) as caught:
            open_labels(path)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "s.ome.zarr"
        write(path)
        return path

    def change(self, path, **facts):
        file = path / "zarr.json"
        metadata = json.loads(file.read_text())
        metadata["attributes"]["histosynth"].update(facts)
        file.write_text(json.dumps(metadata))

    def test_missing(self, tmp_path):
        with pytest.raises(StoreNotFound):
            open_labels(tmp_path / "none.ome.zarr")

    @pytest.mark.parametrize(
        ("facts", "match"),
        [
            ({"contract": "histosynth-patches/1"}, "histosynth-labels/1 is needed"),
            ({"contract": "histosynth-labels/99"}, "another version"),
            ({"complete": False}, "not complete"),
            ({"layout": "spiral"}, "layout"),
            ({"mpp": None}, "mpp"),
            ({"n_nuclei": -3}, "n_nuclei"),
            ({"n_nuclei": 5}, "30 rows for 5"),
            ({"files": None}, "files"),
        ],
    )
    def test_attributes_that_break_the_contract(self, path, facts, match):
        self.change(path, **facts)
        self.check(path, match)

    def test_foreign(self, tmp_path):
        zarr.open_group(tmp_path / "foreign.zarr", mode="w")
        self.check(tmp_path / "foreign.zarr", "only stores that histosynth wrote")

    def test_truncated_and_missing_chunks(self, path):
        chunk = next(
            file for file in (path / "labels" / "nuclei" / "0" / "c").rglob("*") if file.is_file()
        )
        content = chunk.read_bytes()
        chunk.write_bytes(content[: len(content) // 2])
        self.check(path, "missing or truncated")
        chunk.unlink()
        self.check(path, "missing or truncated")

    def test_garbled_chunk(self, path):
        chunk = next(
            file for file in (path / "labels" / "nuclei" / "0" / "c").rglob("*") if file.is_file()
        )
        chunk.write_bytes(b"x" * chunk.stat().st_size)
        with pytest.raises(InvalidStore, match="cannot be read"):
            open_labels(path).labels()

    @pytest.mark.parametrize(
        "name", ["labels/nuclei", "tables/nuclei/area_um2", "labels/nuclei/0/zarr.json"]
    )
    def test_missing_arrays(self, path, name):
        gone = path / name
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
        self.check(path, name.removesuffix("/zarr.json"))

    def test_labels_of_another_type(self, path):
        file = path / "labels" / "nuclei" / "0" / "zarr.json"
        file.write_text(file.read_text().replace('"uint32"', '"int32"', 1))
        self.check(path, "uint32")
