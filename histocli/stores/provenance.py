"""What every output of ours says about itself, and how it comes to its place: locked, partial,
finished, renamed.

Work goes to ``.<name>.partial`` beside the target and is renamed when complete, so that a target is
either absent, the old one
or the new one::

    out/
    ├── patches.zarr               complete; or absent while the first one is being made
    ├── .patches.zarr.partial      work in progress, or what an interruption left for --resume
    ├── .patches.zarr.partial.lock held by the process that writes the partial
    └── .patches.zarr.replaced     the old output for the moment of its replacement (--overwrite)

The root attributes of a Zarr store hold one key of ours::

    histosynth: {contract, command, config, config_hash, seed, package_version, created, complete,
    ...}

``complete`` is the last thing that is written. The rerun rule (:func:`prepare_output`) is the same
for every command.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import filelock

from histocli import __version__
from histocli.base import files
from histocli.base.errors import InvalidStore, StoreExists, StoreNotFound
from histocli.base.files import (
    check_parents,
    disk_errors,
    make_parents,
    partial_path,
    remove_folder,
)
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line, plain_json
from histocli.base.types import Json

if TYPE_CHECKING:
    import zarr

Action: TypeAlias = Literal["create", "resume", "skip"]
"""What a command does about its output: make it anew, go on with a partial one, or leave a finished
one alone."""

METADATA_FILE = "zarr.json"
# zarr's half-written keys; a killed process leaves them behind
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Who made an output, with which settings, and whether it is finished."""

    contract: str
    """Name and version of the layout, such as ``histosynth-patches/1``."""
    command: str
    """The subcommand, such as ``generate``."""
    config: Json
    """Its settings, as plain JSON values."""
    config_hash: str
    """Fingerprint of settings and inputs; equal hashes mean that the output would be the same."""
    seed: int | None = None
    """The user's seed; None where nothing is drawn."""
    package_version: str = __version__
    """Version of histosynth that made it."""
    created: str = field(default_factory=now)
    """When it was begun, ISO 8601 in UTC."""
    complete: bool = False
    """True once everything else is on disk."""

    @property
    def contract_name(self) -> str:
        """The contract without its version."""
        return self.contract.partition("/")[0]

    def to_json(self) -> Json:
        """Return plain JSON values; ``complete`` comes last."""
        values = plain_json(dataclasses.asdict(self))
        assert isinstance(values, dict)
        return values

    @classmethod
    def from_json(cls, values: Any, where: Path) -> Provenance:
        """Check and take up what a store says about itself; keys of a contract's own are ignored.

        Raises
        ------
        InvalidStore
            A key is missing or of the wrong kind.
        """
        kinds = {
            "contract": str,
            "command": str,
            "config": dict,
            "config_hash": str,
            "package_version": str,
            "created": str,
            "complete": bool,
        }
        if not isinstance(values, dict):
            raise InvalidStore(
                f"{where}: attribute {ATTRIBUTE!r} must be an object, got {type(values).__name__}; {NOT_OURS}"
            )
        for name, kind in kinds.items():
            if not isinstance(values.get(name), kind):
                raise InvalidStore(
                    f"{where}: {ATTRIBUTE}.{name} must be a {kind.__name__}, got {values.get(name)!r}; {DAMAGED}"
                )
        seed = values.get("seed")
        if seed is not None and not isinstance(seed, int):
            raise InvalidStore(
                f"{where}: {ATTRIBUTE}.seed must be an integer or null, got {seed!r}; {DAMAGED}"
            )
        return cls(**{name: values[name] for name in kinds}, seed=seed)


NOT_OURS = "only stores that histosynth wrote can be read"
DAMAGED = "the store is damaged, make it again with --overwrite"


def log_path(target: Path) -> Path:
    """Return the folder beside an output that holds its metrics, previews and checkpoints."""
    return target.with_name(f"{target.name}.log")


class OutputLock:
    """Keeps a second process from writing the same output; use as a context manager or with
    :meth:`release`.

    Raises
    ------
    StoreExists
        Another process holds it.
    """

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
                    f"{target}: another process is writing it; wait for it to end or choose another --out"
                ) from None

    @property
    def is_held(self) -> bool:
        """It was taken and not released."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let go of the output; harmless when called twice."""
        if self._lock.is_locked:
            # unlinked while held, so that nobody can take the lock of a file that goes away
            if os.name == "posix":
                self._path.unlink(missing_ok=True)
            self._lock.release()
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> OutputLock:
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
    ``overwrite``, which removes a partial store here and lets :func:`finish` replace a complete
    one, once the new one is complete. What does not carry the contract is never touched.

    Parameters
    ----------
    target : Path
        The store to make.
    contract : str
        Its contract, such as ``histosynth-patches/1``.
    config_hash : str
        Fingerprint of the settings and inputs of this run.
    resume, overwrite : bool
        The user's options.
    dry_run : bool
        Decide only; remove nothing.

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        Something is in the way; the message says which option helps.
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
    partial: Provenance | None,
    partial_is_foreign: bool,
    resume: bool,
    overwrite: bool,
) -> Action:
    """Decide about an output from what lies at its place: the rerun rule itself, for stores and
    model files.

    Parameters
    ----------
    finished : Provenance or None
        What ``target`` says about itself; None when it is absent or not ours.
    partial : Provenance or None
        What the unfinished work beside it says about itself; None when there is none.
    partial_is_foreign : bool
        Something that is not ours lies where the unfinished work would go.

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        As the rule says.
    """
    name = contract.partition("/")[0]
    for path, found in ((target, finished), (partial_path(target), partial)):
        if found is not None and found.contract_name != name:
            raise StoreExists(
                f"{path}: is in the way and holds {found.contract}, not {contract}; choose another --out"
            )
    if os.path.lexists(target) and finished is None:
        raise StoreExists(
            f"{target}: is in the way and was not made by histosynth, so it is left alone; choose another --out"
        )
    if partial_is_foreign:
        raise StoreExists(
            f"{partial_path(target)}: is in the way and was not made by histosynth; move it or choose another --out"
        )
    if overwrite:
        return "create"
    if finished is not None and finished.complete and finished.config_hash == config_hash:
        return "skip"
    if partial is not None:
        if partial.config_hash != config_hash:
            raise StoreExists(
                f"{target}: an unfinished one was begun with other settings or inputs; repeat those with --resume, "
                "or start anew with --overwrite"
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


def peek(path: Path) -> Provenance | None:
    """Return what the Zarr group at ``path`` says about itself, or None where there is no store of
    ours.
    """
    try:
        metadata = json.loads((path / METADATA_FILE).read_bytes())
        return Provenance.from_json(metadata["attributes"][ATTRIBUTE], path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_ours(path: Path, contract: str) -> None:
    """Remove a store, but only one that carries ``contract`` in any version, or an empty folder.

    Raises
    ------
    StoreExists
        It does not.
    """
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
    """Put a partial Zarr store in its place: data to the disk, then the complete mark, then the
    rename.

    An older output of the same contract is replaced: :func:`prepare_output` has seen to it that the
    user wants that.

    Raises
    ------
    StoreExists
        Something else has taken the place meanwhile.
    OutOfResources
        The disk is full.
    """
    found = peek(partial)
    assert found is not None, f"{partial} has no provenance"
    if os.path.lexists(target):
        old = peek(target)
        if old is None or old.contract_name != found.contract_name:
            raise StoreExists(
                f"{target}: came into the way meanwhile and is not {found.contract}; the work is kept in {partial}"
            )
    with disk_errors(target):
        remove_temporaries(partial)
        for folder, _, names in os.walk(partial):
            for name in names:
                files.sync_file(Path(folder, name))
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


def update_attribute(path: Path, values: Mapping[str, Any]) -> None:
    """Change keys of ``histosynth`` in the root attributes of the Zarr store at ``path``,
    atomically.
    """
    file = path / METADATA_FILE
    metadata = json.loads(file.read_bytes())
    metadata["attributes"][ATTRIBUTE].update(plain_json(values))
    temporary = path / f"{METADATA_FILE}.new"
    temporary.write_text(json.dumps(metadata, indent=2))
    os.replace(temporary, file)


def open_group(
    path: Path, contract: str, *, allow_incomplete: bool = False
) -> tuple[zarr.Group, Provenance]:
    """Open a Zarr store of ours for reading, or say in one line why it cannot be.

    Parameters
    ----------
    path : Path
        The store.
    contract : str
        The contract it must carry, such as ``histosynth-patches/1``.
    allow_incomplete : bool
        Accept a store without its complete mark.

    Returns
    -------
    group : zarr.Group
        Read only.
    provenance : Provenance

    Raises
    ------
    StoreNotFound
        There is nothing at ``path``.
    InvalidStore
        It is no Zarr store, not ours, of another kind or an unknown version, damaged, or
        unfinished.
    """
    import zarr

    provenance = read_provenance(path, allow_incomplete=allow_incomplete)
    name, _, version = contract.partition("/")
    found_name, _, found_version = provenance.contract.partition("/")
    if found_name != name:
        raise InvalidStore(
            f"{path}: holds {provenance.contract}, but {contract} is needed here; give a store of that kind"
        )
    if found_version != version:
        raise InvalidStore(
            f"{path}: holds {provenance.contract}, and this version of histosynth ({__version__}) reads {contract}; "
            "it was made by another version, use that one or make the store again"
        )
    try:
        # Group and not open_group: the latter would look for consolidated and format 2 metadata.
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False), provenance
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidStore(
            f"{path}: its Zarr metadata cannot be read ({first_line(error)}); {DAMAGED}"
        ) from error


def read_provenance(path: Path, *, allow_incomplete: bool = False) -> Provenance:
    """Return what a Zarr store of any contract of ours says about itself, or say in one line why it
    cannot be read.

    Raises
    ------
    StoreNotFound, InvalidStore
        As in :func:`open_group`.
    """
    if not os.path.lexists(path):
        if peek(partial_path(path)) is not None:
            raise StoreNotFound(
                f"{path}: is not finished; continue the command that makes it with --resume"
            )
        raise StoreNotFound(f"{path}: no such store; check the path, or make the store first")
    if not path.is_dir():
        raise InvalidStore(f"{path}: is not a Zarr store, which is a folder; {NOT_OURS}")
    file = path / METADATA_FILE
    try:
        metadata = json.loads(file.read_bytes())
    except FileNotFoundError:
        if (path / ".zgroup").exists() or (path / ".zarray").exists():
            raise InvalidStore(
                f"{path}: is Zarr format 2; {NOT_OURS}, and they are format 3"
            ) from None
        raise InvalidStore(
            f"{path}: has no {METADATA_FILE}, so it is not a Zarr store; {NOT_OURS}"
        ) from None
    except OSError as error:
        raise InvalidStore(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    except ValueError:
        raise InvalidStore(f"{path}: {METADATA_FILE} is truncated or not JSON; {DAMAGED}") from None
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    if (
        not isinstance(attributes, dict)
        or metadata.get("node_type") != "group"
        or ATTRIBUTE not in attributes
    ):
        raise InvalidStore(f"{path}: is Zarr, but carries no {ATTRIBUTE!r} attribute; {NOT_OURS}")
    provenance = Provenance.from_json(attributes[ATTRIBUTE], path)
    if not (provenance.complete or allow_incomplete):
        raise InvalidStore(
            f"{path}: is not complete; continue histosynth {provenance.command} with --resume"
        )
    return provenance


def remove_temporaries(store: Path) -> None:
    """Remove the half-written keys that killed processes left in a Zarr store."""
    for folder, _, names in os.walk(store):
        for name in names:
            if _TEMPORARY.search(name):
                Path(folder, name).unlink()


def _is_blank(path: Path) -> bool:
    """Tell whether a folder holds nothing but what a store that was being created leaves behind."""
    return path.is_dir() and all(
        (name.startswith(METADATA_FILE) and name != METADATA_FILE) or _TEMPORARY.search(name)
        for name in os.listdir(path)
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in sorted(
            path.iterdir()
        ):  # what says that it is ours goes last, so that a process killed here leaves no riddle
            if child.name != METADATA_FILE and child.is_dir() and not child.is_symlink():
                remove_folder(child)
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
