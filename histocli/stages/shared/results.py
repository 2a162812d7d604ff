"""The result of a command for one output, and the watch that measures its seconds."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

from histocli.base.progress import seconds_before
from histocli.base.text import plain_json
from histocli.base.types import Json

# skipped: the output was finished already; planned: a dry run
Status: TypeAlias = Literal["done", "skipped", "planned", "failed"]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a command for one output; each command's subclass adds fields."""

    schema: ClassVar[str] = "histosynth/1"  # name and version of the JSON form of the command
    output: str  # path of the output
    status: Status = "planned"  # how the command ended for this output
    seconds: float = 0.0  # seconds since the command began
    error: str | None = None  # message, one line; None unless the status is ``failed``

    def to_json(self) -> Json:
        """Return the JSON object of ``--json``: the schema first, then the fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["seconds"] = round(self.seconds, 3)
        values: Json = plain_json({"schema": self.schema, **fields})
        return values


class Stopwatch:
    """Counts seconds from the moment it is made, ``before_s`` earlier ones included."""

    def __init__(self, before_s: float = 0.0) -> None:
        self._start = time.perf_counter() - before_s

    @classmethod
    def of_command(cls) -> Self:
        """Return a watch that began with the command, before its libraries were loaded."""
        return cls(seconds_before())

    @property
    def seconds(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._start
