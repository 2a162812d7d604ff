"""The rerun rule, and what happens to outputs when things go wrong in the middle."""

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from histocli.base.errors import (
    HistosynthError,
    InvalidStore,
    OutOfResources,
    StoreExists,
    StoreNotFound,
)
from histocli.base.files import disk_errors, partial_path, replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import plain_json
from histocli.stores import provenance as records
from histocli.stores.provenance import OutputLock, Provenance, finish, open_group, prepare_output

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
        ("partial", "same", False, False, "--resume"),
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


def test_provenance_comes_back_from_the_disk_with_complete_as_its_last_word(tmp_path):
    target = tmp_path / "out.zarr"
    make(target)
    group, provenance = open_group(target, CONTRACT)
    assert list(group.attrs[ATTRIBUTE])[-1] == "complete"
    assert Provenance.from_json(provenance.to_json(), target) == provenance
    assert provenance.seed == 3


def test_plain_json_speaks_json_only():
    values = {
        "a": np.float32(0.5),
        1: np.arange(2),
        "nan": [float("nan"), np.inf],
        "path": Path("x"),
        "n": None,
        "t": (True,),
    }
    plain = plain_json(values)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain == {
        "a": 0.5,
        "1": [0, 1],
        "nan": [None, None],
        "path": "x",
        "n": None,
        "t": [True],
    }


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
        ("unfinished", "continue histosynth make with --resume"),
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
    with pytest.raises(StoreNotFound, match="--resume"):
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_does_not_take_it_is_exit_6(number):
    with (
        pytest.raises(OutOfResources, match=r"out\.zarr: cannot be written") as caught,
        disk_errors(Path("out.zarr")),
    ):
        raise OSError(number, "what the system says")
    assert caught.value.exit_code == 6


def test_a_full_disk_is_recognised_behind_another_exception():
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutOfResources, match="free some space"), disk_errors(Path("out.zarr")):
        raise RuntimeError("the codec failed") from full


def test_other_errors_pass_through_disk_errors():
    with pytest.raises(ZeroDivisionError), disk_errors(Path("out.zarr")):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), disk_errors(Path("out.zarr")):
        raise FileNotFoundError(errno.ENOENT, "No such file")


def test_the_lock_keeps_a_second_writer_out_and_leaves_nothing_behind(tmp_path):
    target = tmp_path / "new" / "folder" / "out.zarr"
    with OutputLock(target):
        with pytest.raises(StoreExists, match="another process"):
            OutputLock(target)
        script = (
            "import sys; from pathlib import Path; from histocli.stores.provenance import OutputLock\n"
            "try: OutputLock(Path(sys.argv[1]))\n"
            "except Exception as error: sys.exit(error.exit_code)"
        )
        assert (
            subprocess.run([sys.executable, "-c", script, str(target)], check=False).returncode == 4
        )
    assert list(target.parent.iterdir()) == []
    OutputLock(target).release()


def test_the_lock_can_be_released_by_another_thread_and_twice(tmp_path):
    lock = OutputLock(tmp_path / "out.zarr")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock.release()
    OutputLock(tmp_path / "out.zarr").release()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "model"

    def write(text: str, error: BaseException | None = None) -> None:
        with replace_atomically(target) as partial:
            partial.write_text(text)
            if error is not None:
                raise error

    write("zero")
    write("one")
    with pytest.raises(OutOfResources):
        write("tw", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        write("t", KeyboardInterrupt())
    assert target.read_text() == "one"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(StoreExists, match="is a folder"), replace_atomically(target.parent):
        pass


def test_remove_ours_touches_only_ours(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    make(tmp_path / "labels.zarr", contract="histosynth-labels/1")
    for path in (tmp_path / "photos", tmp_path / "labels.zarr"):
        with pytest.raises(HistosynthError, match="left alone"):
            records.remove_ours(path, CONTRACT)
        assert path.exists()
    make(tmp_path / "ours.zarr", contract="histosynth-things/99")
    records.remove_ours(tmp_path / "ours.zarr", CONTRACT)
    records.remove_ours(tmp_path / "absent.zarr", CONTRACT)
    assert not (tmp_path / "ours.zarr").exists()
