"""Checkpoints: the state of an unfinished training, as a safetensors file.

``histosynth-checkpoint/1``::

    model.safetensors.log/checkpoint.safetensors
    ├── 0, 1, ...     the tensors of the training state
    └── metadata      histosynth: JSON {contract, config_hash, package_version, created,
                      state: the nested state, with a number in place of each tensor}
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli import __version__
from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.files import disk_errors
from histocli.base.text import first_line
from histocli.base.types import Json
from histocli.stores.logs import log_path
from histocli.stores.provenance import now
from histocli.stores.tensors import read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

CONTRACT = "histosynth-checkpoint/1"


class Checkpoint(NamedTuple):
    """The training state that :func:`write_checkpoint` saved, with its tensors on the CPU."""

    state: Json
    config_hash: str


def checkpoint_path(target: Path) -> Path:
    """Return where the training that makes ``target`` saves its state."""
    return log_path(target) / "checkpoint.safetensors"


def write_checkpoint(path: Path, state: Mapping[str, Any], *, config_hash: str) -> None:
    """Save a training state; an earlier checkpoint is replaced once the new file is complete.

    ``state`` may nest dicts (keys str or int), lists and tuples, and hold tensors, NumPy arrays
    (saved as lists), numbers, strings, booleans and None; anything else raises ``TypeError``. So
    ``state_dict()`` of networks, optimisers and schedules and states of random generators can be
    saved unchanged. ``config_hash`` is the fingerprint of settings and inputs of the training.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = {
        "contract": CONTRACT,
        "config_hash": config_hash,
        "package_version": __version__,
        "created": now(),
        "state": _to_tree(state, tensors, "state"),
    }
    write_tensors(path, tensors, header)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a training state; ``StoreNotFound`` if there is none, ``InvalidStore`` if damaged."""
    header = read_header(path, CONTRACT, "checkpoint")
    try:
        state = _from_tree(header["state"], read_tensors(path))
        return Checkpoint(state=state, config_hash=str(header["config_hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidStore(
            f"{path}: the checkpoint is damaged ({first_line(error)}); remove it and train again"
        ) from error


def checkpoint_hash(target: Path) -> str | None:
    """Return the ``config_hash`` of the checkpoint of the training that makes ``target``.

    Returns None if there is no checkpoint or its header is damaged; then the training begins anew.
    """
    try:
        header = read_header(checkpoint_path(target), CONTRACT, "checkpoint")
    except (StoreNotFound, InvalidStore):
        return None
    return str(header.get("config_hash"))


def remove_checkpoint(target: Path) -> None:
    """Remove the checkpoint of the training that makes ``target``, if there is one."""
    with disk_errors(target), suppress(FileNotFoundError, NotADirectoryError):
        checkpoint_path(target).unlink()


def _to_tree(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    """Return a nested state as JSON values, and add its tensors to ``tensors`` by number.

    Containers become ``["dict", [[key, value], ...]]``, ``["list", [...]]`` and ``["tuple",
    [...]]``, because JSON has no integer keys and no tuples; a tensor becomes ``["tensor",
    number]``. Other values stay. ``where`` names the value in messages.
    """
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return ["tensor", name]
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"{where}: keys of a checkpoint must be str or int")
        pairs = [[key, _to_tree(item, tensors, f"{where}.{key}")] for key, item in value.items()]
        return ["dict", pairs]
    if isinstance(value, (list, tuple)):
        items = [_to_tree(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
        return ["list" if isinstance(value, list) else "tuple", items]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, as in states of its generators
        return _to_tree(value.tolist(), tensors, where)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where}: a checkpoint cannot hold {type(value).__name__}")


def _from_tree(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _from_tree(item, tensors) for key, item in content}
    items = [_from_tree(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
