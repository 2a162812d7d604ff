"""Provenance: the record in every output of which command made it, with which settings.

The root attributes of a Zarr store of histosynth (a store of *ours*) hold this key::

    histosynth: {contract, command, config, config_hash, seed, package_version, created, complete,
                 ...}

``complete`` is set to true after everything else was written.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocli import __version__
from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.files import partial_path
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line, plain_json
from histocli.base.types import Json

if TYPE_CHECKING:
    import zarr

METADATA_FILE = "zarr.json"
NOT_OURS = "only stores that histosynth wrote can be read"
DAMAGED = "the store is damaged, make it again with --overwrite"


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Which command made an output, with which settings, and whether it is finished."""

    contract: str
    """Name and version of the layout, such as ``histosynth-patches/1``."""
    command: str
    config: Json
    """Settings of the command, as plain JSON values."""
    config_hash: str
    """Fingerprint of settings and inputs; equal hashes mean that the output would be the same."""
    seed: int | None = None
    """The user's seed; None for a command without random numbers."""
    package_version: str = __version__
    created: str = field(default_factory=now)
    """When the output was begun, ISO 8601 in UTC."""
    complete: bool = False
    """True once everything else is on disk."""

    @property
    def contract_name(self) -> str:
        """The contract without its version."""
        return self.contract.partition("/")[0]

    def to_json(self) -> Json:
        """Return plain JSON values; ``complete`` comes last."""
        return dict(plain_json(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Any, where: Path) -> Provenance:
        """Return the provenance in a ``histosynth`` attribute; other keys are ignored."""
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
                f"{where}: attribute {ATTRIBUTE!r} must be an object, "
                f"got {type(values).__name__}; {NOT_OURS}"
            )
        for name, kind in kinds.items():
            if not isinstance(values.get(name), kind):
                raise InvalidStore(
                    f"{where}: {ATTRIBUTE}.{name} must be a {kind.__name__}, "
                    f"got {values.get(name)!r}; {DAMAGED}"
                )
        seed = values.get("seed")
        if seed is not None and not isinstance(seed, int):
            raise InvalidStore(
                f"{where}: {ATTRIBUTE}.seed must be an integer or null, got {seed!r}; {DAMAGED}"
            )
        return cls(**{name: values[name] for name in kinds}, seed=seed)

    def is_alike(self, other: Provenance | None) -> bool:
        """Tell whether another output has the same contract and ``config_hash``."""
        mine = (self.contract, self.config_hash)
        return other is not None and mine == (other.contract, other.config_hash)


def read_metadata(path: Path) -> Any:
    """Return the ``zarr.json`` of a store, group or array; OSError or ValueError if damaged."""
    return json.loads((path / METADATA_FILE).read_bytes())


def peek(path: Path) -> Provenance | None:
    """Return the provenance of the Zarr group at ``path``; None if there is no store of ours."""
    try:
        metadata = read_metadata(path)
        return Provenance.from_json(metadata["attributes"][ATTRIBUTE], path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def update_attribute(path: Path, values: Mapping[str, Any]) -> None:
    """Set keys of the ``histosynth`` attribute of the Zarr store at ``path``, atomically."""
    metadata = read_metadata(path)
    metadata["attributes"][ATTRIBUTE].update(plain_json(values))
    temporary = path / f"{METADATA_FILE}.new"
    temporary.write_text(json.dumps(metadata, indent=2))
    os.replace(temporary, path / METADATA_FILE)


def check_contract(path: Path, found: str, contract: str, kind: str, needed: str) -> None:
    """Raise ``InvalidStore`` unless the contract ``found`` at ``path`` is ``contract``.

    In the message, ``needed`` is the expected output and ``kind`` is ``store`` or ``file``.
    """
    if found.partition("/")[0] != contract.partition("/")[0]:
        raise InvalidStore(
            f"{path}: holds {found}, but {needed} is needed here; give a {kind} of that kind"
        )
    if found != contract:
        raise InvalidStore(
            f"{path}: holds {found}, and this version of histosynth ({__version__}) reads "
            f"{contract}; it was made by another version, use that one or make the {kind} again"
        )


def open_group(path: Path, contract: str) -> tuple[zarr.Group, Provenance]:
    """Open a store for reading that must have a contract, such as ``histosynth-patches/1``.

    Raises ``StoreNotFound`` if ``path`` does not exist, and ``InvalidStore`` if the store is not
    ours, has another contract, is damaged, or is unfinished.
    """
    import zarr

    provenance = read_provenance(path)
    check_contract(path, provenance.contract, contract, "store", contract)
    try:
        # Without these settings zarr would look for consolidated and format 2 metadata.
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False), provenance
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidStore(
            f"{path}: its Zarr metadata cannot be read ({first_line(error)}); {DAMAGED}"
        ) from error


def read_provenance(path: Path) -> Provenance:
    """Return the provenance of a complete store of any contract; errors as :func:`open_group`."""
    if not os.path.lexists(path):
        if peek(partial_path(path)) is not None:
            raise StoreNotFound(
                f"{path}: is not finished; run the command that makes it again to go on"
            )
        raise StoreNotFound(f"{path}: no such store; check the path, or make the store first")
    if not path.is_dir():
        raise InvalidStore(f"{path}: is not a Zarr store, which is a folder; {NOT_OURS}")
    metadata = _metadata_of_store(path)
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    if (
        not isinstance(attributes, dict)
        or metadata.get("node_type") != "group"
        or ATTRIBUTE not in attributes
    ):
        raise InvalidStore(f"{path}: is Zarr, but carries no {ATTRIBUTE!r} attribute; {NOT_OURS}")
    provenance = Provenance.from_json(attributes[ATTRIBUTE], path)
    if not provenance.complete:
        raise InvalidStore(
            f"{path}: is not complete; run histosynth {provenance.command} again to go on"
        )
    return provenance


def _metadata_of_store(path: Path) -> Any:
    """Return the ``zarr.json`` of a folder, or raise ``InvalidStore`` with the reason."""
    try:
        return read_metadata(path)
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
