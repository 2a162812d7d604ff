"""Patch stores read back what was written, survive interruptions, and refuse what breaks their
contract."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocli.base.errors import InvalidStore, OutOfResources, StoreExists, StoreNotFound
from histocli.base.files import partial_path
from histocli.stores.patches import CONTRACT, PatchStore, PatchStoreWriter, ReferenceRecord
from histocli.stores.patches.checks import check_ids
from histocli.stores.patches.layout import SHARD_PIXELS, shard_patches
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import prepare_output

REFERENCES = [
    ReferenceRecord(
        name="a.tif",
        sha256="0a",
        mpp=0.25,
        mpp_source="ome-xml",
        statistics={"stain_matrix": np.eye(2, 3)},
    ),
    ReferenceRecord(name="b.png", sha256="0b", mpp=0.5, mpp_source="assumed"),
]
PX = 16


def content(n: int, px: int = PX, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw patches of noise; patch i has i % 4 square nuclei in a row, and an ignored column on the
    right."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, px, px), np.int32)
    for i in range(n):
        for k in range(i % 4):
            labels[i, 2:5, 4 * k : 4 * k + 3] = k + 1
    labels[:, :, -1] = -1
    return {
        "image": rng.integers(0, 256, (n, px, px, 3), dtype=np.uint8),
        "instance_labels": labels,
        "weight": rng.random(n, dtype=np.float32),
        "reference": np.arange(n, dtype=np.int32) % len(REFERENCES),
    }


def create(target: Path, n: int, *, px=PX, config_hash="same", **changes) -> PatchStoreWriter:
    provenance = Provenance(
        contract=CONTRACT, command="generate", config={"n": n}, config_hash=config_hash, seed=0
    )
    settings = {
        "n": n,
        "patch_px": px,
        "mpp": 0.25,
        "origin": "initial",
        "references": REFERENCES,
        **changes,
    }
    return PatchStoreWriter(target, provenance=provenance, **settings)


def part(values: dict[str, np.ndarray], batch: range) -> list[np.ndarray]:
    return [value[batch.start : batch.stop] for value in values.values()]


def write_store(target: Path, n: int = 3, *, px: int = PX, **changes) -> dict[str, np.ndarray]:
    values = content(n, px)
    with create(target, n, px=px, **changes) as writer:
        for batch in writer.pending():
            writer.write(batch, *part(values, batch))
        writer.finish()
    return values


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(n=st.integers(1, 70), px=st.integers(4, 20), order=st.randoms(use_true_random=False))
def test_a_store_gives_back_what_was_written_in_any_order(tmp_path, n, px, order):
    target = tmp_path / "patches.zarr"
    shutil.rmtree(target, ignore_errors=True)
    values = content(n, px)
    for labels in values["instance_labels"]:  # small sides cut nuclei away
        ids = np.unique(labels[labels > 0])
        labels[labels > 0] = np.searchsorted(ids, labels[labels > 0]) + 1
    with create(target, n, px=px, shippable=False) as writer:
        batches = writer.pending()
        order.shuffle(batches)
        for batch in batches:
            writer.write(batch, *part(values, batch))
        writer.finish()
    store = PatchStore.open(target)
    assert len(store) == n
    for name, expected in values.items():
        found = np.asarray(getattr(store, name)[:])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert (store.patch_px, store.mpp, store.origin, store.shippable) == (
        px,
        0.25,
        "initial",
        False,
    )
    assert [record.to_json() for record in store.references] == [
        record.to_json() for record in REFERENCES
    ]
    assert store.provenance.complete
    image, labels = store.read(range(n // 2, n))
    np.testing.assert_array_equal(image, values["image"][n // 2 :])
    np.testing.assert_array_equal(labels, values["instance_labels"][n // 2 :])


@given(st.integers(1, 4096))
def test_a_shard_fits_into_memory_and_holds_at_most_32_patches(patch_px):
    assert 1 <= shard_patches(patch_px) <= 32
    assert shard_patches(patch_px) * patch_px**2 <= max(SHARD_PIXELS, patch_px**2)
    assert shard_patches(256) == 32


def test_batches_are_the_shards_on_disk(tmp_path):
    write_store(tmp_path / "patches.zarr", 70)
    store = PatchStore.open(tmp_path / "patches.zarr")
    assert store.batches() == [range(32), range(32, 64), range(64, 70)]
    assert len([path for path in (store.path / "image" / "c").rglob("*") if path.is_file()]) == 3
    assert store.image.chunks == (1, PX, PX, 3)


def test_threads_write_the_same_bytes_as_one_after_the_other(tmp_path):
    n = 150
    write_store(tmp_path / "serial.zarr", n)
    values = content(n)
    with create(tmp_path / "threads.zarr", n) as writer, ThreadPoolExecutor(4) as pool:
        for done in [
            pool.submit(writer.write, batch, *part(values, batch))
            for batch in reversed(writer.pending())
        ]:
            done.result()
        writer.finish()
    serial, threads = (PatchStore.open(tmp_path / name) for name in ("serial.zarr", "threads.zarr"))
    assert serial.content_hash() == threads.content_hash()


def test_the_content_hash_follows_the_content_only(tmp_path):
    write_store(tmp_path / "a.zarr", config_hash="one")
    write_store(tmp_path / "b.zarr", config_hash="two")
    write_store(tmp_path / "coarse.zarr", mpp=0.5)
    write_store(tmp_path / "more.zarr", n=4)
    a, b, coarse, more = (
        PatchStore.open(tmp_path / f"{name}.zarr").content_hash()
        for name in ("a", "b", "coarse", "more")
    )
    assert a == b
    assert len({a, coarse, more}) == 3


def test_an_interrupted_store_goes_on_where_it_stopped(tmp_path):
    target = tmp_path / "patches.zarr"
    n = 70
    values = content(n)
    with create(target, n) as writer:
        writer.write(writer.pending()[1], *part(values, writer.pending()[1]))
    assert not target.exists()
    with pytest.raises(StoreNotFound, match="again to go on"):
        PatchStore.open(target)
    with pytest.raises(InvalidStore, match="not complete"):
        PatchStore.open(partial_path(target))
    assert (
        prepare_output(target, contract=CONTRACT, config_hash="same", resume=True, overwrite=False)
        == "resume"
    )
    with create(target, n) as writer:
        assert writer.pending() == [range(32), range(64, 70)]
        with pytest.raises(ValueError, match="2 batches"):
            writer.finish()
        for batch in writer.pending():
            writer.write(batch, *part(values, batch))
        writer.finish()
    write_store(tmp_path / "whole.zarr", n)
    assert (
        PatchStore.open(target).content_hash()
        == PatchStore.open(tmp_path / "whole.zarr").content_hash()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patches.zarr", "whole.zarr"]


def test_an_interruption_between_two_arrays_can_be_resumed(tmp_path):
    target = tmp_path / "patches.zarr"
    create(target, 3).close()
    shutil.rmtree(partial_path(target) / "weight")
    with create(target, 3) as writer:
        writer.write(range(3), *part(content(3), range(3)))
        writer.finish()
    assert len(PatchStore.open(target)) == 3


def test_a_partial_store_of_another_make_is_not_resumed(tmp_path):
    target = tmp_path / "patches.zarr"
    create(target, 3).close()
    with pytest.raises(StoreExists, match="another make"):
        create(target, 4)
    create(target, 3).close()  # the lock was let go
    with create(target, 40, config_hash="other") as writer:
        assert len(writer.pending()) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
import zarr.storage._local as local
from tests.stores.patches.test_patches import content, create, part

def half(path, value, exclusive=False):  # what a killed process leaves of a key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix("." + "a" * 32 + ".partial").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

writer = create(Path(sys.argv[1]), 40)
writer.write(range(32), *part(content(40), range(32)))
local._put = half
writer.write(range(32, 40), *part(content(40), range(32, 40)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_process_loses_nothing_that_was_written(tmp_path):
    target = tmp_path / "patches.zarr"
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    with create(target, 40) as writer:  # the lock died with its holder
        assert writer.pending() == [range(32, 40)]
        writer.write(range(32, 40), *part(content(40), range(32, 40)))
        writer.finish()
    np.testing.assert_array_equal(PatchStore.open(target).read(range(40))[0], content(40)["image"])
    assert [path.name for path in tmp_path.iterdir()] == ["patches.zarr"]
    assert not list(target.rglob("*.partial"))


def test_two_writers_cannot_have_one_output(tmp_path):
    with create(tmp_path / "patches.zarr", 3), pytest.raises(StoreExists, match="another process"):
        create(tmp_path / "patches.zarr", 3)


def test_a_full_disk_loses_nothing_that_was_written(tmp_path, monkeypatch):
    target = tmp_path / "patches.zarr"
    n = 40
    values = content(n)
    first, second = range(32), range(32, 40)
    with create(target, n) as writer:
        writer.write(first, *part(values, first))

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("zarr.storage._local._put", full)
            with pytest.raises(OutOfResources, match="again to go on") as caught:
                writer.write(second, *part(values, second))
        assert caught.value.exit_code == 6
    with create(target, n) as writer:
        assert writer.pending() == [second]
        writer.write(second, *part(values, second))
        writer.finish()
    np.testing.assert_array_equal(PatchStore.open(target).read(range(n))[0], values["image"])


def test_overwrite_replaces_a_store(tmp_path):
    target = tmp_path / "patches.zarr"
    write_store(target, 3, config_hash="old")
    assert (
        prepare_output(target, contract=CONTRACT, config_hash="new", resume=False, overwrite=True)
        == "create"
    )
    write_store(target, 5, config_hash="new")
    assert len(PatchStore.open(target)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((3, PX, PX, 3), np.float32)}, "image must be uint8"),
        ({"image": np.zeros((3, PX, PX + 1, 3), np.uint8)}, "image must be uint8"),
        ({"instance_labels": np.zeros((3, PX, PX), np.int64)}, "instance_labels must be int32"),
        ({"instance_labels": np.full((3, PX, PX), -2, np.int32)}, "-1 or larger"),
        ({"instance_labels": np.full((3, PX, PX), 2, np.int32)}, "without gaps"),
        ({"instance_labels": np.full((3, PX, PX), 2**30, np.int32)}, "without gaps"),
        ({"weight": np.array([1, np.nan, 1], np.float32)}, "weight"),
        ({"weight": np.array([1, -1, 1], np.float32)}, "weight"),
        ({"reference": np.array([0, 1, 2], np.int32)}, "reference must index the 2"),
    ],
)
def test_the_writer_takes_nothing_that_breaks_the_contract(tmp_path, change, message):
    values = {**content(3), **change}
    with create(tmp_path / "patches.zarr", 3) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write(range(3), *values.values())
        assert writer.pending() == [range(3)]


def test_the_writer_takes_whole_shards_only(tmp_path):
    values = content(40)
    with create(tmp_path / "patches.zarr", 40) as writer:
        for batch in (range(31), range(1, 33), range(32, 39), range(64, 70)):
            with pytest.raises(ValueError, match="not one of the shards"):
                writer.write(batch, *part(values, batch))


def test_ids_are_checked():
    check_ids(np.array([[0, -1], [2, 1]], np.int32), "here")
    check_ids(np.array([[-1, -1]], np.int32), "here")
    with pytest.raises(ValueError, match="here: ids"):
        check_ids(np.array([[0, 1, 3]], np.int32), "here")


def attributes(store: Path, **changes) -> None:
    metadata = json.loads((store / "zarr.json").read_text())
    for name, value in changes.items():
        if value is None:
            del metadata["attributes"][name]
        else:
            metadata["attributes"][name] = value
    (store / "zarr.json").write_text(json.dumps(metadata))


def replace_array(store: Path, name: str, data: np.ndarray) -> None:
    """Put another array in place of one, and its file sizes into the records, so that other rules
    can speak."""
    group = zarr.open_group(store, mode="r+", zarr_format=3)
    group.create_array(name, data=data, chunks=data.shape, overwrite=True)
    files = [path for path in (store / name / "c").rglob("*") if path.is_file()]
    metadata = json.loads((store / "zarr.json").read_text())
    sizes = [len(files), sum(path.stat().st_size for path in files)]
    metadata["attributes"]["histosynth"]["files"][name] = sizes
    (store / "zarr.json").write_text(json.dumps(metadata))


def cut_short(store: Path) -> None:
    file = store / "image" / "c" / "0" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-40])


def damage(store: Path) -> None:
    file = store / "image" / "c" / "0" / "0" / "0" / "0"
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda store: attributes(store, mpp=None), "mpp must lie between"),
        (lambda store: attributes(store, mpp=40.0), "mpp must lie between"),
        (lambda store: attributes(store, mpp="0.25"), "mpp must lie between"),
        (lambda store: attributes(store, origin="dreamt"), "origin must be one of"),
        (lambda store: attributes(store, shippable="no"), "shippable must be true or false"),
        (lambda store: attributes(store, references=None), "references must be a list"),
        (lambda store: attributes(store, references=[]), "references must be a list"),
        (lambda store: attributes(store, references=[{"name": "a"}]), "references lacks"),
        (
            lambda store: attributes(store, references=[REFERENCES[0].to_json()]),
            "reference must index the 1 items",
        ),
        (lambda store: shutil.rmtree(store / "image"), "array image is missing"),
        (
            lambda store: (store / "weight" / "zarr.json").write_text("{"),
            "array weight is missing or its metadata",
        ),
        (lambda store: shutil.rmtree(store / "image" / "c"), "image has 0 files"),
        (cut_short, "copy the store again"),
        (lambda store: replace_array(store, "weight", np.ones(3, np.float64)), "weight is float64"),
        (
            lambda store: replace_array(store, "weight", np.ones((3, 1), np.float32)),
            "weight is float32 with 2 axes",
        ),
        (
            lambda store: replace_array(store, "weight", np.ones(2, np.float32)),
            r"weight has shape \(2,\) but image has",
        ),
        (lambda store: replace_array(store, "weight", np.full(3, -1, np.float32)), "not negative"),
        (
            lambda store: replace_array(store, "instance_labels", np.zeros((3, 8, 8), np.int32)),
            "patches must agree",
        ),
        (
            lambda store: replace_array(store, "image", np.zeros((3, 8, 9, 3), np.uint8)),
            "with y = x",
        ),
        (
            lambda store: replace_array(store, "reference", np.full(3, 7, np.int32)),
            "reference must index",
        ),
        (
            lambda store: replace_array(store, "batches_done", np.zeros(1, np.uint8)),
            "1 of 1 batches were never written",
        ),
    ],
)
def test_each_rule_of_the_contract_has_its_line(tmp_path, spoil, message):
    target = tmp_path / "patches.zarr"
    write_store(target)
    spoil(target)
    with pytest.raises(InvalidStore, match=message) as caught:
        PatchStore.open(target)
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)


def test_damaged_bytes_are_noticed_when_they_are_read(tmp_path):
    target = tmp_path / "patches.zarr"
    write_store(target)
    damage(target)
    store = PatchStore.open(target)  # the sizes agree, and opening reads no pixels
    with pytest.raises(InvalidStore, match="chunk cannot be read"):
        store.read(range(3))
