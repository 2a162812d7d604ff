"""The rerun rule: what every command does about an output that exists or was begun.

A command writes to ``.<name>.partial`` (the partial store) beside its target and renames it when it
is complete. So the target is absent, the complete old output, or the complete new one::

    out/
    ├── patches.zarr               the target
    ├── .patches.zarr.partial      the partial store, of a running or an interrupted command
    ├── .patches.zarr.partial.lock locked by the process that writes the partial store
    └── .patches.zarr.replaced     the old output while it is being replaced (--overwrite)

*Ours* is a store with the attribute ``histosynth``; its contract is the name and version of its
layout, and its ``config_hash`` a fingerprint of settings and inputs. Only names of contracts are
compared here, so that ``--overwrite`` can replace old layouts. After a kill between the two renames
of a replacement, ``.replaced`` is the only complete old output and the target is absent; the next
command with that target renames it back.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypeAlias

import filelock

from histocli.base import files
from histocli.base.errors import StoreExists
from histocli.base.files import (
    check_parents,
    disk_errors,
    make_parents,
    partial_path,
    remove_folder,
)
from histocli.stores.provenance import METADATA_FILE, Provenance, peek, update_attribute

Action: TypeAlias = Literal["create", "resume", "skip"]
"""What a command does: make the output anew, go on with the partial store, or do nothing."""

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""Names of files that zarr is writing; a killed process leaves such files behind."""


class OutputLock:
    """Locks an output from construction until ``release``; ``StoreExists`` if it is locked."""

    def __init__(self, target: Path) -> None:
        partial = partial_path(target)
        self._path = partial.with_name(f"{partial.name}.lock")
        with disk_errors(target):
            make_parents(target)
            # thread_local=False: the thread that releases the lock may not be the one that took it.
            self._lock = filelock.FileLock(self._path, timeout=0, thread_local=False)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise StoreExists(
                    f"{target}: another process is writing it; "
                    "wait for it to end or choose another --out"
                ) from None

    @property
    def is_held(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock.is_locked

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock.is_locked:
            # The file is removed before the release, since a process that locked it after the
            # release would lose its file. Windows cannot remove a file that is open.
            if os.name == "posix":
                self._path.unlink(missing_ok=True)
                self._lock.release()
                return
            self._lock.release()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def prepare_output(
    target: Path,
    *,
    contract: str,
    config_hash: str,
    resume: bool,
    overwrite: bool,
    dry_run: bool = False,
) -> Action:
    """Apply the rerun rule to a Zarr store before any work is done.

    Without ``overwrite``, a complete store with the same hash is skipped, and a partial store with
    the same hash is resumed, or made anew without ``resume`` unless a finished store with another
    hash would be replaced by it. A blank partial folder is removed
    now, and so is a partial store that is made anew, except in a dry run. :func:`finish` replaces a
    store at ``target`` later. Files and stores of another contract name are never removed.

    Parameters
    ----------
    target : Path
    contract : str
        Contract of the store, such as ``histosynth-patches/1``.
    config_hash : str
        Hash of settings and inputs.
    resume, overwrite : bool
        Options of the user.
    dry_run : bool
        Remove nothing.

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        Without ``overwrite``, a finished or partial store with another hash is in the way; in any
        case, a file or a store of another contract name, or a partial store that must be removed
        and is locked by another process.
    """
    partial = partial_path(target)
    check_parents(target)
    if not dry_run:
        _put_back(target, contract)
    begun = peek(partial)
    action = rerun_rule(
        target,
        contract=contract,
        config_hash=config_hash,
        finished=peek(target),
        partial=begun,
        partial_is_foreign=begun is None and os.path.lexists(partial) and not _is_blank(partial),
        resume=resume,
        overwrite=overwrite,
    )
    if action == "create" and not dry_run and os.path.lexists(partial):
        with OutputLock(target):
            remove_ours(partial, contract)
    return action


def rerun_rule(
    target: Path,
    *,
    contract: str,
    config_hash: str,
    finished: Provenance | None,
    partial: Provenance | None = None,
    partial_is_foreign: bool = False,
    resume: bool = False,
    overwrite: bool,
) -> Action:
    """Return what to do about an output, be it a store or a file; changes nothing on disk.

    Parameters
    ----------
    target, contract, config_hash, resume, overwrite
        As in :func:`prepare_output`.
    finished, partial : Provenance or None
        Provenance of ``target`` and of the unfinished work; None if absent or not ours.
    partial_is_foreign : bool
        A file or folder that is not ours has the name of the partial store.

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        As in :func:`prepare_output`; the message has the option that helps.
    """
    _refuse_foreign(target, contract, finished, partial, partial_is_foreign)
    if overwrite:
        return "create"
    if finished is not None and finished.complete and finished.config_hash == config_hash:
        return "skip"
    if partial is not None:
        if partial.config_hash != config_hash:
            raise StoreExists(
                f"{target}: an unfinished one was begun with other settings or inputs; "
                "repeat those to go on with it, or start anew with --overwrite"
            )
        if resume:
            return "resume"
    if finished is not None:
        why = "was made with other settings or inputs" if finished.complete else "is incomplete"
        raise StoreExists(
            f"{target}: exists and {why}; replace it with --overwrite or choose another --out"
        )
    return "create"


def _refuse_foreign(
    target: Path,
    contract: str,
    finished: Provenance | None,
    partial: Provenance | None,
    partial_is_foreign: bool,
) -> None:
    """Raise ``StoreExists`` if target or partial store is not ours or has another contract name."""
    name = contract.partition("/")[0]
    for path, found in ((target, finished), (partial_path(target), partial)):
        if found is not None and found.contract_name != name:
            raise StoreExists(
                f"{path}: is in the way and holds {found.contract}, not {contract}; "
                "choose another --out"
            )
    if os.path.lexists(target) and finished is None:
        raise StoreExists(
            f"{target}: is in the way and was not made by histosynth, so it is left alone; "
            "choose another --out"
        )
    if partial_is_foreign:
        raise StoreExists(
            f"{partial_path(target)}: is in the way and was not made by histosynth; "
            "move it or choose another --out"
        )


def remove_ours(path: Path, contract: str) -> None:
    """Remove a store of this contract name or a blank folder; else raise ``StoreExists``."""
    if not os.path.lexists(path):
        return
    found = peek(path)
    if not _is_blank(path) and (found is None or found.contract_name != contract.partition("/")[0]):
        raise StoreExists(
            f"{path}: is not {contract} and is left alone; move it or choose another --out"
        )
    with disk_errors(path):
        _remove(path)


def finish(partial: Path, target: Path) -> None:
    """Flush a partial Zarr store to the disk, mark it complete and rename it to ``target``.

    Any store of the same contract name at ``target`` is replaced, even one that another command put
    there meanwhile. Raises ``StoreExists`` if anything else is at ``target``.
    """
    found = peek(partial)
    assert found is not None, f"{partial} has no provenance"
    if os.path.lexists(target):
        old = peek(target)
        if old is None or old.contract_name != found.contract_name:
            raise StoreExists(
                f"{target}: came into the way meanwhile and is not {found.contract}; "
                f"the work is kept in {partial}"
            )
    with disk_errors(target):
        remove_temporaries(partial)
        for file in _files(partial):
            files.sync_file(file)
        update_attribute(partial, {"complete": True})
        files.sync_file(partial / METADATA_FILE)
        if os.path.lexists(target):
            replaced = _replaced_path(target)
            if os.path.lexists(replaced):
                remove_ours(replaced, found.contract)
            os.rename(target, replaced)
            os.rename(partial, target)
            _remove(replaced)
        else:
            os.rename(partial, target)
        files.sync_file(target.parent)


def _replaced_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _put_back(target: Path, contract: str) -> None:
    """Rename ``.replaced`` back to ``target`` where a kill in :func:`finish` left only that."""
    replaced = _replaced_path(target)
    if os.path.lexists(target) or not os.path.lexists(replaced):
        return
    with OutputLock(target), disk_errors(target):
        # Looked at again under the lock: another process may just have finished its renames.
        found = peek(replaced)
        if found is None or found.contract_name != contract.partition("/")[0]:
            return
        if found.complete and not os.path.lexists(target):
            os.rename(replaced, target)


def remove_temporaries(store: Path) -> None:
    """Remove the half-written files that killed processes left in a Zarr store."""
    for file in _files(store):
        if TEMPORARY.search(file.name):
            file.unlink()


def _files(store: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(store):
        for name in names:
            yield Path(folder, name)


def _is_blank(path: Path) -> bool:
    """Tell whether a folder is empty but for half-written files, as after a kill at the start."""
    # half-written: zarr's temporary files, and our rewrites of zarr.json before their rename
    return path.is_dir() and all(
        (name.startswith(METADATA_FILE) and name != METADATA_FILE) or TEMPORARY.search(name)
        for name in os.listdir(path)
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # zarr.json of the root goes after all folders: if the process is killed before, the rest of
        # the store is still recognised as ours.
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                remove_folder(child)
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
