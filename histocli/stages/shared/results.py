"""What a command reports about one output, and the watch that measures how long it took."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from histocli.base.text import plain_json
from histocli.base.types import Json

Status: TypeAlias = Literal["done", "skipped", "planned", "failed"]
"""``skipped``: the output was there already; ``planned``: a dry run."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a command reports about one output; every command adds fields of its own."""

    schema: ClassVar[str] = "histosynth/1"
    """Name and version of the JSON form, such as ``histosynth.pack/1``."""

    output: str
    """Path of what was made."""
    status: Status = "planned"
    """How it went."""
    seconds: float = 0.0
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
    """Counts seconds from the moment it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._start
