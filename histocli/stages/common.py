"""What all stages share: the shape of their results, time, and hashes of inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.system import available_cpus, reuse_freed_memory
from histocli.base.types import Json
from histocli.stores.patches import PatchStore
from histocli.stores.provenance import plain_json

Status: TypeAlias = Literal["done", "skipped", "planned", "failed"]
"""``skipped``: it was there already; ``planned``: a dry run."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a command reports about one output; every command adds fields of its own."""

    schema: ClassVar[str] = "histosynth/1"
    """Name and version of the JSON form, such as ``histosynth.pack/1``."""

    output: str
    """Path of what was made."""
    status: Status
    """How it went."""
    seconds: float
    """How long it took."""
    error: str | None = None
    """One line when the status is ``failed``."""

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``: the schema first, then the fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values: Json = plain_json({"schema": self.schema, **fields, "seconds": round(self.seconds, 3)})
        return values


class Stopwatch:
    """Counts seconds from its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of all files of a store with their names.

    Parameters
    ----------
    path : Path
        A file, or a folder such as a Zarr image.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputNotFound
        There is nothing.
    InvalidInput
        It cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(path).as_posix().encode() + b"\0")
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()
    except FileNotFoundError:
        raise InputNotFound(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error


def patch_glass_levels(store: PatchStore, patches: range, images: npt.NDArray[np.uint8]) -> list[float]:
    """Return the level of empty glass for each of some patches.

    A synthetic patch has the level of its reference, which was measured on far more pixels; where none is recorded, the patch
    itself is measured.

    Parameters
    ----------
    store : PatchStore
    patches : range
    images : ndarray of uint8, shape (len(patches), H, W, 3)
        These patches.
    """
    from histocli.optics.density import white_level  # late: it brings torch, which evaluate and info do without

    recorded = [record.statistics.get("appearance", {}).get("white_level") for record in store.references]
    levels = [recorded[store.reference[patch]] for patch in patches]
    return [white_level(image) if level is None else float(level) for level, image in zip(levels, images, strict=True)]


def prepare_process() -> None:
    """Prepare the process for networks: memory is reused, and processors are those granted (torch does not know quotas)."""
    import torch

    reuse_freed_memory()
    if torch.get_num_threads() > available_cpus():
        torch.set_num_threads(available_cpus())
