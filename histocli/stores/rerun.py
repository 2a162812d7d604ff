"""The rerun rule, the same for every command, and how a finished store comes to its place.

Work goes to ``.<name>.partial`` beside the target and is renamed when complete, so what lies at the
target is absent, the old output or the new one::

    out/
    ├── patches.zarr               complete; or absent while the first one is being made
    ├── .patches.zarr.partial      work in progress, or what an interruption left for --resume
    ├── .patches.zarr.partial.lock held by the process that writes the partial
    └── .patches.zarr.replaced     the old output for the moment of its replacement (--overwrite)
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
"""What a command does about its output: make it anew, go on with a partial one, or leave a finished
one alone."""

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""Keys that zarr has half written are called so; a killed process leaves them behind."""


class OutputLock:
    """Keeps a second process, which gets ``StoreExists``, from writing the same output."""

    def __init__(self, target: Path) -> None:
        partial = partial_path(target)
        self._path = partial.with_name(f"{partial.name}.lock")
        with disk_errors(target):
            make_parents(target)
            # thread_local=False: a writer may be finished in another thread than it was created in.
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
        """Whether it was not released yet."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let go of the output; harmless when called twice."""
        if self._lock.is_locked:
            # The file is removed while the lock is held, so that nobody can lock a file that is
            # about to go away.
            if os.name == "posix":
                self._path.unlink(missing_ok=True)
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

    A complete store with the same hash is skipped, unless ``overwrite`` asks for it anew. A partial
    one with the same hash needs ``resume``. Whatever was made with other settings needs
    ``overwrite``, which removes a partial store here, except in a dry run, and lets :func:`finish`
    replace a complete one, once the new one is complete. What does not carry the contract is never
    touched. Raises ``StoreExists`` where something is in the way.
    """
    partial = partial_path(target)
    check_parents(target)
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
    """Decide about an output of any kind from what lies at its place.

    ``finished`` is what ``target`` says about itself, None when it is absent or not ours;
    ``partial`` what the unfinished work beside it says; ``partial_is_foreign`` tells that something
    else lies there. Raises ``StoreExists``, naming an option that helps, where something is in the
    way.
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
                "repeat those with --resume, or start anew with --overwrite"
            )
        if not resume:
            raise StoreExists(
                f"{target}: is unfinished; continue it with --resume or start anew with --overwrite"
            )
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
    """Refuse a place where something lies that is not ours or of another contract."""
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
    """Remove a store of a contract, or an empty folder; raises ``StoreExists`` for others."""
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
    """Put a partial Zarr store in its place: data to the disk, the complete mark, the rename.

    An older output of the same contract is replaced, because :func:`prepare_output` let it pass.
    Raises ``StoreExists`` where something else has taken the place meanwhile.
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
            replaced = target.with_name(f".{target.name}.replaced")
            if os.path.lexists(replaced):
                remove_ours(replaced, found.contract)
            os.rename(target, replaced)
            os.rename(partial, target)
            _remove(replaced)
        else:
            os.rename(partial, target)
        files.sync_file(target.parent)


def remove_temporaries(store: Path) -> None:
    """Remove the half-written keys that killed processes left in a Zarr store."""
    for file in _files(store):
        if TEMPORARY.search(file.name):
            file.unlink()


def _files(store: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(store):
        for name in names:
            yield Path(folder, name)


def _is_blank(path: Path) -> bool:
    """Tell whether a folder holds only what the creation of a store leaves behind when killed."""
    return path.is_dir() and all(
        (name.startswith(METADATA_FILE) and name != METADATA_FILE) or TEMPORARY.search(name)
        for name in os.listdir(path)
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # The file that says whose store this is goes last, so that what a process leaves that is
        # killed here can be recognised.
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                remove_folder(child)
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
