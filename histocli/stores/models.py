"""Model files and checkpoints: safetensors with everything that is no tensor in a JSON header.

``histosynth-model/1``::

    model.safetensors
    ├── <parameter>   the network's parameters and buffers, under the names of its state dict
    └── metadata      histosynth: JSON of ModelHeader {contract, kind, architecture, mpp, normalisation, thresholds, training,
                                  data, shippable, command, config, config_hash, seed,
                                  package_version, created}

    model.safetensors.log/checkpoint.safetensors       (histosynth-checkpoint/1)
    ├── 0, 1, ...     every tensor of the training state, numbered
    └── metadata      histosynth: JSON {contract, config_hash, state: the nested state, tensors replaced by their numbers, ...}

Pickles are refused, resume state included: opening one can run any code. Headers are read without
torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli import __version__
from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.files import check_parents, disk_errors, replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line, plain_json
from histocli.base.types import Json
from histocli.base.units import MPP_RANGE
from histocli.stores.logs import log_path
from histocli.stores.provenance import Provenance, now
from histocli.stores.rerun import Action, rerun_rule

if TYPE_CHECKING:
    import torch

CONTRACT = "histosynth-model/1"
LARGEST_SPREAD = 5.0  # of absorbance (natural log); eight bits hold no more
CHECKPOINT_CONTRACT = "histosynth-checkpoint/1"
CHECKPOINT_NAME = "checkpoint.safetensors"
MODEL_SUFFIX = ".safetensors"

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit; a larger number is not a header
_PICKLE_MAGIC = {
    b"\x80": "a Python pickle",
    b"PK\x03\x04": "a zip archive, as torch.save writes it around a pickle",
}
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """What a model file says about itself."""

    architecture: Json
    """All that is needed to build the network: its name and sizes."""
    mpp: float
    """Pixel size it was trained at, in micrometres per pixel."""
    config_hash: str
    """Fingerprint of the settings and inputs of the training."""
    kind: str = "segmenter"
    """What the network does."""
    normalisation: Json = field(default_factory=dict)
    """How pixels become network input."""
    thresholds: Json = field(default_factory=dict)
    """How network maps become instances."""
    training: Json = field(default_factory=dict)
    """Summary of the training: steps, losses, validation scores."""
    data: list[Json] = field(default_factory=list)
    """What it learned from: name, content hash and weight of each store."""
    shippable: bool = True
    """False as soon as the licence of any input forbids giving the weights away."""
    command: str = "train"
    """The subcommand that made it."""
    config: Json = field(default_factory=dict)
    """The settings of that command."""
    seed: int | None = None
    """The user's seed."""
    package_version: str = __version__
    """Version of histosynth that made it."""
    created: str = field(default_factory=now)
    """When, ISO 8601 in UTC."""
    contract: str = CONTRACT
    """Name and version of this layout."""

    def to_json(self) -> Json:
        """Return plain JSON values."""
        values: Json = plain_json(dataclasses.asdict(self))
        return values

    @classmethod
    def from_json(cls, values: Json, where: Path) -> ModelHeader:
        """Check and take up a header.

        Raises
        ------
        InvalidStore
            A key is missing, of the wrong kind or out of range.
        """
        kinds: dict[str, type | tuple[type, ...]] = {
            "architecture": dict, "mpp": (int, float), "config_hash": str, "kind": str, "normalisation": dict,
            "thresholds": dict, "training": dict, "data": list, "shippable": bool, "command": str, "config": dict,
            "seed": (int, type(None)), "package_version": str, "created": str, "contract": str,
        }  # fmt: skip
        for name, kind in kinds.items():
            if name not in values or not isinstance(values[name], kind):
                raise InvalidStore(
                    f"{where}: {name} of the header is missing or of the wrong kind; train the model again"
                )
        if not MPP_RANGE[0] <= values["mpp"] <= MPP_RANGE[1]:
            raise InvalidStore(
                f"{where}: mpp of the header must lie between {MPP_RANGE[0]} and {MPP_RANGE[1]} micrometres per pixel, "
                f"got {values['mpp']}; train the model again"
            )
        floor = values["normalisation"].get("contrast_floor", 0)
        if not isinstance(floor, int | float) or not 0 <= floor <= LARGEST_SPREAD:
            raise InvalidStore(
                f"{where}: contrast_floor of the header must lie between 0 and {LARGEST_SPREAD}, got {floor!r}; "
                "train the model again"
            )
        return cls(**{name: values[name] for name in kinds})

    @property
    def provenance(self) -> Provenance:
        """The part that all outputs share."""
        names = (
            "contract",
            "command",
            "config",
            "config_hash",
            "seed",
            "package_version",
            "created",
        )
        return Provenance(**{name: getattr(self, name) for name in names}, complete=True)


class Checkpoint(NamedTuple):
    """A training state as it was saved."""

    state: Json
    """What was given to :func:`write_checkpoint`: nested, with its tensors on the CPU."""
    config_hash: str
    """Fingerprint of the settings and inputs of that training."""


def write_model(path: Path, tensors: Mapping[str, torch.Tensor], header: ModelHeader) -> None:
    """Write a model file; it takes its place only when it is whole.

    Parameters
    ----------
    path : Path
        File to write. What lies there is replaced: ask :func:`prepare_model_output` first.
    tensors : mapping of str to torch.Tensor
        A state dict, on any device.
    header : ModelHeader

    Raises
    ------
    OutOfResources
        The disk is full or the place cannot be written.
    """
    _write(path, tensors, header.to_json())


def read_model(path: Path) -> tuple[ModelHeader, dict[str, torch.Tensor]]:
    """Read a model file.

    Returns
    -------
    header : ModelHeader
    tensors : dict of str to torch.Tensor
        On the CPU.

    Raises
    ------
    StoreNotFound
        There is none.
    InvalidStore
        It is a pickle, truncated, not ours, or breaks a rule of the contract.
    """
    header = read_model_header(path)
    return header, _read_tensors(path)


def read_model_header(path: Path) -> ModelHeader:
    """Read what a model file says about itself, without its tensors and without torch.

    Raises
    ------
    StoreNotFound, InvalidStore
        As :func:`read_model`.
    """
    return ModelHeader.from_json(_read_header(path, CONTRACT, "model"), path)


def count_parameters(path: Path) -> int:
    """Return the number of values in a model file's tensors, buffers included, without reading
    them.
    """
    total = 0
    for name, entry in _raw_header(path, "model").items():
        if name != "__metadata__":
            size = 1
            for length in entry["shape"]:
                size *= length
            total += size
    return total


def checkpoint_path(target: Path) -> Path:
    """Return where the training of the model ``target`` saves its state."""
    return log_path(target) / CHECKPOINT_NAME


def write_checkpoint(path: Path, state: Mapping[str, Any], *, config_hash: str) -> None:
    """Save a training state; the one before stays until the new one is whole.

    Parameters
    ----------
    path : Path
        As :func:`checkpoint_path` gives it.
    state : mapping
        Nested dicts (keys str or int), lists and tuples of tensors, numbers, strings, booleans and
        None: ``state_dict()`` of networks, optimisers and schedules, and states of random
        generators, go in as they are.
    config_hash : str
        Fingerprint of the settings and inputs, so that only the same training goes on from it.

    Raises
    ------
    OutOfResources
        The disk is full or the place cannot be written.
    TypeError
        The state holds something else: a mistake of the caller.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = {
        "contract": CHECKPOINT_CONTRACT,
        "config_hash": config_hash,
        "package_version": __version__,
        "created": now(),
        "state": _to_tree(state, tensors, "state"),
    }
    _write(path, tensors, header)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a training state.

    Raises
    ------
    StoreNotFound
        There is none.
    InvalidStore
        It is a pickle, truncated or not ours.
    """
    header = _read_header(path, CHECKPOINT_CONTRACT, "checkpoint")
    try:
        state = _from_tree(header["state"], _read_tensors(path))
        return Checkpoint(state=state, config_hash=str(header["config_hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidStore(
            f"{path}: the checkpoint is damaged ({first_line(error)}); remove it and train again"
        ) from error


def prepare_model_output(
    target: Path, *, config_hash: str, resume: bool, overwrite: bool, dry_run: bool = False
) -> Action:
    """Apply the rerun rule to a model file before any work is done; its partial work is the
    checkpoint.

    On ``"create"`` a checkpoint of another training is removed; :func:`write_model` replaces an
    older model at the end.

    Parameters
    ----------
    target : Path
        The model file to make.
    config_hash : str
        Fingerprint of the settings and inputs of this run.
    resume, overwrite : bool
        The user's options.
    dry_run : bool
        Decide only; remove nothing.

    Returns
    -------
    {"create", "resume", "skip"}
        On ``"resume"``, :func:`checkpoint_path` holds the state to go on from.

    Raises
    ------
    StoreExists
        Something is in the way; the message says which option helps.
    """
    check_parents(target)
    checkpoint = checkpoint_path(target)
    finished = _peek_model(target)
    partial = _peek_checkpoint(checkpoint, finished)
    action = rerun_rule(
        target,
        contract=CONTRACT,
        config_hash=config_hash,
        finished=finished,
        partial=partial,
        partial_is_foreign=False,
        resume=resume,
        overwrite=overwrite,
    )
    if action == "create" and not dry_run:
        remove_checkpoint(target)
    return action


def remove_checkpoint(target: Path) -> None:
    """Remove the saved training state of the model ``target``, where there is one: it is finished,
    or starts anew.
    """
    with disk_errors(target), suppress(FileNotFoundError, NotADirectoryError):
        checkpoint_path(target).unlink()


def _peek_model(path: Path) -> Provenance | None:
    try:
        return read_model_header(path).provenance
    except (StoreNotFound, InvalidStore):
        return None


def _peek_checkpoint(path: Path, finished: Provenance | None) -> Provenance | None:
    """Return the checkpoint as partial work; one that a finished training left behind is none."""
    try:
        header = _read_header(path, CHECKPOINT_CONTRACT, "checkpoint")
    except (StoreNotFound, InvalidStore):
        return None  # a damaged checkpoint helps nobody: the training starts anew and replaces it
    config_hash = str(header.get("config_hash"))
    if finished is not None and finished.config_hash == config_hash:
        return None
    return Provenance(contract=CONTRACT, command="train", config={}, config_hash=config_hash)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], header: Json) -> None:
    from safetensors.torch import save

    seen: set[int] = set()
    own: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # Parameters that share memory (tied weights, views) are written twice, because the format
        # knows no sharing.
        own[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    content = save(own, metadata={ATTRIBUTE: json.dumps(header)})
    # Bytes and not safetensors' own file writer, whose errors hide that the disk is full.
    with replace_atomically(path) as partial:
        partial.write_bytes(content)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidStore(
            f"{path}: its tensors cannot be read ({first_line(error)}); copy or make the file again"
        ) from error
    return tensors


def _read_header(path: Path, contract: str, what: str) -> Json:
    """Return our JSON of a safetensors file, after the checks that all kinds share."""
    metadata = _raw_header(path, what).get("__metadata__")
    text = metadata.get(ATTRIBUTE) if isinstance(metadata, dict) else None
    if text is None:
        raise InvalidStore(
            f"{path}: is safetensors, but carries no {ATTRIBUTE!r} header; only a {what} that histosynth wrote can be read"
        )
    try:
        header = json.loads(text)
        found = header["contract"]
        name, _, version = found.partition("/")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidStore(
            f"{path}: its {ATTRIBUTE!r} header is damaged; copy or make the file again"
        ) from None
    if name != contract.partition("/")[0]:
        raise InvalidStore(
            f"{path}: holds {found}, but a {what} ({contract}) is needed here; give a file of that kind"
        )
    if version != contract.partition("/")[2]:
        raise InvalidStore(
            f"{path}: holds {found}, and this version of histosynth ({__version__}) reads {contract}; "
            "it was made by another version, use that one or make the file again"
        )
    return dict(header)


def _raw_header(path: Path, what: str) -> Json:
    """Return the JSON at the head of a safetensors file, after checking that the file is one and
    whole.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            _refuse_pickle(path, start, what)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            header = stream.read(length) if 2 <= length <= _MAX_HEADER_BYTES else b""
            size = os.fstat(stream.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFound(f"{path}: no such {what}; check the path, or train one first") from None
    except IsADirectoryError:
        raise InvalidStore(
            f"{path}: is a folder, but a {what} is a safetensors file; give the file"
        ) from None
    except OSError as error:
        raise InvalidStore(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    if not header.startswith(b"{"):
        raise InvalidStore(
            f"{path}: is not a safetensors file, or is truncated; only a {what} that histosynth wrote can be read"
        )
    try:
        values: Json = json.loads(header)
        end = max(
            (entry["data_offsets"][1] for name, entry in values.items() if name != "__metadata__"),
            default=0,
        )
    except (ValueError, KeyError, TypeError, IndexError):
        raise InvalidStore(
            f"{path}: its header is truncated or damaged; copy or make the file again"
        ) from None
    if size != 8 + length + end:
        raise InvalidStore(
            f"{path}: is {size} bytes long and must be {8 + length + end}: it is truncated; copy or make the file again"
        )
    return values


def _refuse_pickle(path: Path, start: bytes, what: str) -> None:
    kind = next((kind for magic, kind in _PICKLE_MAGIC.items() if start.startswith(magic)), None)
    # A safetensors header may be 128 bytes long too, and its file then begins with the same byte as
    # a pickle.
    if kind is not None and start.startswith(b"\x80") and len(start) == 8 and start[2:] == bytes(6):
        kind = None
    if kind is None and path.suffix.lower() in _PICKLE_SUFFIXES:
        kind = f"by its name ({path.suffix}) a Python pickle"
    if kind is not None:
        raise InvalidStore(
            f"{path}: is {kind}, and opening a pickle can run any code, so it is refused; "
            f"give a {what} in {MODEL_SUFFIX} format as histosynth train writes it"
        )


def _to_tree(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    """Return JSON of a nested state; tensors go into ``tensors`` and leave their number.

    Containers become ``["dict", [[key, value], ...]]``, ``["list", [...]]`` and ``["tuple",
    [...]]``, so that integer keys and tuples come back as they were; tensors ``["tensor",
    number]``; the rest stands for itself.
    """
    import torch

    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return ["tensor", name]
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"{where}: keys of a checkpoint must be str or int")
        return [
            "dict",
            [[key, _to_tree(item, tensors, f"{where}.{key}")] for key, item in value.items()],
        ]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [
            kind,
            [_to_tree(item, tensors, f"{where}[{index}]") for index, item in enumerate(value)],
        ]
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
