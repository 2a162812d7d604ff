"""Safetensors files of histosynth: named tensors, and a header in JSON for everything else.

Python pickles are refused, because opening one can run any code. Reading a header needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocli.base.errors import InvalidStore, StoreNotFound
from histocli.base.files import replace_atomically
from histocli.base.formats import ATTRIBUTE
from histocli.base.text import first_line
from histocli.base.types import Json
from histocli.stores.provenance import check_contract

if TYPE_CHECKING:
    import torch

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], header: Json) -> None:
    """Write tensors from any device with a header; an older file is replaced at the end."""
    from safetensors.torch import save

    seen: set[int] = set()
    own: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory (tied weights, views), so they are copied.
        memory = value.untyped_storage().data_ptr()
        own[name] = value.clone() if memory in seen else value
        seen.add(memory)
    content = save(own, metadata={ATTRIBUTE: json.dumps(header)})
    # safetensors' own file writer is not used, because its errors do not show a full disk.
    with replace_atomically(path) as partial:
        partial.write_bytes(content)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, on the CPU; call :func:`read_header`, which checks, first."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidStore(
            f"{path}: its tensors cannot be read ({first_line(error)}); copy or make the file again"
        ) from error


def read_header(path: Path, contract: str, what: str) -> Json:
    """Return the header of a file that must have a contract, such as ``histosynth-model/1``.

    ``what`` names the expected file in messages. Raises ``StoreNotFound`` for a missing file, and
    ``InvalidStore`` for a pickle, a truncated or foreign file, or another contract.
    """
    with _opened(path, what) as file:
        text = (file.metadata() or {}).get(ATTRIBUTE)
    if text is None:
        raise InvalidStore(
            f"{path}: is safetensors, but carries no {ATTRIBUTE!r} header; "
            f"only a {what} that histosynth wrote can be read"
        )
    found = None
    with suppress(ValueError, KeyError, TypeError):
        header: Json = json.loads(text)
        found = header["contract"]
    if not isinstance(found, str):
        raise InvalidStore(
            f"{path}: its {ATTRIBUTE!r} header is damaged; copy or make the file again"
        )
    check_contract(path, found, contract, "file", f"a {what} ({contract})")
    return header


def count_values(path: Path, what: str) -> int:
    """Return the number of values in all tensors of a file, without reading the tensors."""
    with _opened(path, what) as file:
        shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
        return sum(map(math.prod, shapes))


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    """Open a safetensors file after checking it; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    _refuse_others(path, what)
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise InvalidStore(
            f"{path}: is truncated or damaged ({first_line(error)}); copy or make the file again"
        ) from None
    with file:
        yield file


def _refuse_others(path: Path, what: str) -> None:
    """Raise an error unless a file can be read and begins like safetensors, not like a pickle."""
    try:
        with path.open("rb") as stream:
            start, first = stream.read(LENGTH_BYTES), stream.read(1)
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
    kind = ""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        kind = f"by its name ({path.suffix}) a Python pickle"
    # Pickles begin with byte 0x80. So may the length of a header, but a header, which is JSON,
    # follows it, and the bytes of a length that memory can hold end in zeros.
    is_length = first == b"{" and start[5:] == bytes(LENGTH_BYTES - 5)
    if start.startswith(b"\x80") and not is_length:
        kind = "a Python pickle"
    if start.startswith(b"PK\x03\x04"):
        kind = "a zip archive, as torch.save writes it around a pickle"
    if kind:
        raise InvalidStore(
            f"{path}: is {kind}, and opening a pickle can run any code, so it is refused; "
            f"give a {what} in .safetensors format as histosynth train writes it"
        )
    if first != b"{":
        raise InvalidStore(
            f"{path}: is not a safetensors file, or is truncated; "
            f"only a {what} that histosynth wrote can be read"
        )
