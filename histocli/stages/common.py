"""What all stages share: the shape of their results, time, and hashes of inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.memory import reuse_freed_memory
from histocli.base.system import available_cpus
from histocli.base.text import plain_json
from histocli.base.types import Json

if TYPE_CHECKING:
    import torch

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
        values: Json = plain_json(
            {"schema": self.schema, **fields, "seconds": round(self.seconds, 3)}
        )
        return values


class Stopwatch:
    """Counts seconds from its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start


class Clock:
    """Tells how far a training is, by steps or by seconds."""

    def __init__(
        self, steps: int, time_budget_s: float | None, reserve_s: float, watch: Stopwatch
    ) -> None:
        """Count ``steps``, or the seconds of a budget less what is reserved for the end, but at
        least half of it.
        """
        self.steps = steps
        self.budget_s = (
            None if time_budget_s is None else max(time_budget_s - reserve_s, 0.5 * time_budget_s)
        )
        self.watch = watch
        self.earlier_s = 0.0
        """Of the same training, before it was resumed."""
        self.begun_s: float | None = None

    @property
    def trained_s(self) -> float:
        """Seconds of training, resumed ones included; 0 before the first step."""
        return self.earlier_s + (
            self.watch.seconds - self.begun_s if self.begun_s is not None else 0
        )

    def progress(self, step: int) -> float:
        """Share of the training that is done."""
        if self.begun_s is None:
            self.begun_s = self.watch.seconds
        if self.budget_s is None:
            return step / self.steps
        available = max(self.budget_s - self.begun_s, 1.0)  # reading the patches has taken its part
        return max(self.trained_s / (available + self.earlier_s), 0.0)


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
        raise InvalidInput(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def prepare_process() -> None:
    """Prepare the process for networks: memory is reused, and processors are those granted (torch
    does not know quotas).
    """
    import torch

    reuse_freed_memory()
    if torch.get_num_threads() > available_cpus():
        torch.set_num_threads(available_cpus())


def weights_digest(network: torch.nn.Module) -> str:
    """Return a fingerprint of what a network has learnt: its parameters, not the statistics it
    gathered.
    """
    digest = hashlib.sha256()
    for value in network.parameters():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
