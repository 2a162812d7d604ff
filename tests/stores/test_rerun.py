"""The rerun rule, and what happens to outputs when things go wrong in the middle."""

import os
from pathlib import Path

import pytest
import zarr

from histocli.base.errors import HistosynthError, OutOfResources, StoreExists
from histocli.base.files import partial_path
from histocli.base.formats import ATTRIBUTE
from histocli.stores import provenance as records
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import OutputLock, finish, prepare_output, remove_ours

CONTRACT = "histosynth-things/1"


def make(
    target: Path, *, contract=CONTRACT, config_hash="same", complete=True, partial=False
) -> Path:
    """Put a store of ours at ``target``, or at the place of its unfinished work."""
    provenance = Provenance(
        contract=contract,
        command="make",
        config={"n": 1},
        config_hash=config_hash,
        seed=3,
        complete=complete,
    )
    path = partial_path(target) if partial else target
    zarr.create_group(path, zarr_format=3, attributes={ATTRIBUTE: provenance.to_json()})
    return path


def decide(target, *, config_hash="same", resume=False, overwrite=False, dry_run=False):
    return prepare_output(
        target,
        contract=CONTRACT,
        config_hash=config_hash,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
    )


@pytest.mark.parametrize(
    ("there", "config_hash", "resume", "overwrite", "expected"),
    [
        ("nothing", "same", False, False, "create"),
        ("nothing", "same", True, False, "create"),
        ("nothing", "same", False, True, "create"),
        ("complete", "same", False, False, "skip"),
        ("complete", "same", True, False, "skip"),
        ("complete", "same", False, True, "create"),
        ("complete", "other", False, False, "--overwrite"),
        ("complete", "other", True, False, "--overwrite"),
        ("complete", "other", False, True, "create"),
        ("incomplete", "same", False, False, "--overwrite"),
        ("incomplete", "same", False, True, "create"),
        ("partial", "same", False, False, "create"),
        ("partial", "same", True, False, "resume"),
        ("partial", "same", False, True, "create"),
        ("partial", "other", False, False, "other settings"),
        ("partial", "other", True, False, "other settings"),
        ("partial", "other", False, True, "create"),
        ("foreign", "same", False, True, "left alone"),
        ("file", "same", False, True, "left alone"),
        ("other contract", "same", False, True, "holds histosynth-labels/1"),
        ("foreign partial", "same", False, True, "not made by histosynth"),
        ("blank partial", "same", False, False, "create"),
    ],
)
def test_the_rerun_rule(tmp_path, there, config_hash, resume, overwrite, expected):
    target = tmp_path / "out.zarr"
    match there:
        case "complete":
            make(target)
        case "incomplete":
            make(target, complete=False)
        case "partial":
            make(target, complete=False, partial=True)
        case "foreign":
            (target / "holiday").mkdir(parents=True)
        case "file":
            target.write_text("a letter")
        case "other contract":
            make(target, contract="histosynth-labels/1")
        case "foreign partial":
            partial_path(target).mkdir()
            (partial_path(target) / "photo.jpg").touch()
        case "blank partial":
            partial_path(target).mkdir()
            (partial_path(target) / f"zarr.{'0' * 32}.partial").touch()
    before = sorted(tmp_path.rglob("*"))
    if expected in ("create", "resume", "skip"):
        assert (
            decide(
                target, config_hash=config_hash, resume=resume, overwrite=overwrite, dry_run=True
            )
            == expected
        )
        assert sorted(tmp_path.rglob("*")) == before
        assert (
            decide(target, config_hash=config_hash, resume=resume, overwrite=overwrite) == expected
        )
    else:
        with pytest.raises(StoreExists, match=expected) as caught:
            decide(target, config_hash=config_hash, resume=resume, overwrite=overwrite)
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_newer_run_can_resume_although_the_old_output_is_still_there(tmp_path):
    """--overwrite was given, the work was interrupted: the old output stays and --resume goes on
    with the new one."""
    target = tmp_path / "out.zarr"
    make(target, config_hash="old")
    make(target, config_hash="new", complete=False, partial=True)
    assert decide(target, config_hash="new", resume=True) == "resume"
    assert decide(target, config_hash="old") == "skip"


def test_overwrite_keeps_the_old_output_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "out.zarr"
    make(target, config_hash="old")
    assert decide(target, config_hash="new", overwrite=True) == "create"
    assert records.read_provenance(target).config_hash == "old"
    finish(make(target, config_hash="new", complete=False, partial=True), target)
    assert records.read_provenance(target).config_hash == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_finish_replaces_no_store_of_another_kind(tmp_path):
    target = tmp_path / "out.zarr"
    partial = make(target, complete=False, partial=True)
    make(target, contract="histosynth-labels/1")
    with pytest.raises(StoreExists, match="is kept in"):
        finish(partial, target)
    assert records.read_provenance(target).contract == "histosynth-labels/1"
    assert partial.exists()


def test_an_output_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("a letter")
    with pytest.raises(StoreExists, match="is a file"):
        decide(tmp_path / "file" / "deep" / "out.zarr")


def test_an_output_needs_a_name():
    with pytest.raises(StoreExists, match="name the output itself"):
        decide(Path("."))
    with pytest.raises(OutOfResources, match="cannot be written"):
        OutputLock(Path("x" * 300))


def test_half_written_keys_of_a_killed_process_do_not_enter_the_store(tmp_path):
    target = tmp_path / "out.zarr"
    partial = make(target, complete=False, partial=True)
    (partial / f"zarr.{'a' * 32}.partial").write_bytes(b"{")
    finish(partial, target)
    assert [path.name for path in target.iterdir()] == ["zarr.json"]


def test_remove_ours_touches_only_ours(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    make(tmp_path / "labels.zarr", contract="histosynth-labels/1")
    for path in (tmp_path / "photos", tmp_path / "labels.zarr"):
        with pytest.raises(HistosynthError, match="left alone"):
            remove_ours(path, CONTRACT)
        assert path.exists()
    make(tmp_path / "ours.zarr", contract="histosynth-things/99")
    remove_ours(tmp_path / "ours.zarr", CONTRACT)
    remove_ours(tmp_path / "absent.zarr", CONTRACT)
    assert not (tmp_path / "ours.zarr").exists()


def test_a_kill_between_the_renames_of_finish_loses_no_output(tmp_path, monkeypatch):
    target = tmp_path / "patches.zarr"
    make(target, config_hash="old", complete=True)
    make(partial_path(target), config_hash="new")
    rename = os.rename

    def killed(source, destination):
        if Path(source) == partial_path(target):
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(partial_path(target), target)
    monkeypatch.undo()
    assert not target.exists()

    with pytest.raises(StoreExists, match="--overwrite"):
        prepare_output(
            target,
            contract=records.peek(partial_path(target)).contract,
            config_hash="new",
            resume=False,
            overwrite=False,
        )
    assert records.peek(target).config_hash == "old"
    finish(partial_path(target), target)
    assert records.peek(target).config_hash == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["patches.zarr"]
