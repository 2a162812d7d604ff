"""A store says about itself who made it, and a bad one is one line."""

import json
from pathlib import Path

import pytest
import zarr

from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.formats import ATTRIBUTE
from histocli.stores.provenance import Provenance, open_group
from tests.stores.test_rerun import CONTRACT, make


def test_provenance_comes_back_from_the_disk_with_complete_as_its_last_word(tmp_path):
    target = tmp_path / "out.zarr"
    make(target)
    group, provenance = open_group(target, CONTRACT)
    assert list(group.attrs[ATTRIBUTE])[-1] == "complete"
    assert Provenance.from_json(provenance.to_json(), target) == provenance
    assert provenance.seed == 3


def spoil(target: Path, how: str) -> None:
    """Turn a good store into a bad one."""
    metadata = target / "zarr.json"
    values = json.loads(metadata.read_text())
    ours = values["attributes"][ATTRIBUTE]
    match how:
        case "truncated":
            metadata.write_text(metadata.read_text()[:50])
            return
        case "empty":
            metadata.write_bytes(b"")
            return
        case "array":
            values["node_type"] = "array"
        case "foreign":
            del values["attributes"][ATTRIBUTE]
        case "no object":
            values["attributes"][ATTRIBUTE] = "yes"
        case "list":
            values = [values]
        case "kind":
            ours["contract"] = "histosynth-labels/1"
        case "version":
            ours["contract"] = "histosynth-things/99"
        case "unfinished":
            ours["complete"] = False
        case "no config":
            del ours["config"]
        case "seed":
            ours["seed"] = "lucky"
        case "format":
            values["zarr_format"] = 7
    metadata.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "truncated or not JSON"),
        ("empty", "truncated or not JSON"),
        ("array", "carries no 'histosynth'"),
        ("foreign", "carries no 'histosynth'"),
        ("no object", "must be an object"),
        ("list", "carries no 'histosynth'"),
        ("kind", "holds histosynth-labels/1, but histosynth-things/1 is needed"),
        ("version", "holds histosynth-things/99, and this version"),
        ("unfinished", "run histosynth make again to go on"),
        ("no config", "config must be a dict"),
        ("seed", "seed must be an integer"),
        ("format", "cannot be read"),
    ],
)
def test_a_bad_store_gets_one_line(tmp_path, how, message):
    target = tmp_path / "out.zarr"
    make(target)
    spoil(target, how)
    with pytest.raises(InvalidStore, match=message) as caught:
        open_group(target, CONTRACT)
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)
    assert caught.value.exit_code == 3


def test_what_is_no_store_gets_one_line(tmp_path):
    with pytest.raises(StoreNotFound, match="no such store"):
        open_group(tmp_path / "absent.zarr", CONTRACT)
    make(tmp_path / "begun.zarr", complete=False, partial=True)
    with pytest.raises(StoreNotFound, match="again to go on"):
        open_group(tmp_path / "begun.zarr", CONTRACT)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidStore, match="which is a folder"):
        open_group(tmp_path / "file", CONTRACT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidStore, match=r"no zarr\.json"):
        open_group(tmp_path / "folder", CONTRACT)
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    with pytest.raises(InvalidStore, match="format 2"):
        open_group(tmp_path / "old.zarr", CONTRACT)
