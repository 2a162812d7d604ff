"""What every input of ``segment`` has in common, whether it is a slide or a patch store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from histocli.base.inputs import InputImage
from histocli.base.types import Json
from histocli.config.common import Execution, config_hash
from histocli.config.segment import SegmentConfig
from histocli.inference.pipeline import PendingBlock
from histocli.stages.segment.loaded import LoadedModel
from histocli.stages.segment.results import Expected, SlideFacts
from histocli.stages.shared.frame import decide
from histocli.stages.shared.results import Stopwatch
from histocli.stores.rerun import Action


class Job(Protocol):
    """One input on its way.

    ``parts`` and ``load`` run in the thread that reads, ``write`` and ``finish`` in threads of
    their own.
    """

    input: InputImage
    outputs: dict[str, Path]
    """What is to be there in the end, by format."""
    watch: Stopwatch

    def decide(self) -> Action:
        """Apply the rerun rule to all outputs: skip only when none is to be made."""

    def check(self, model: LoadedModel) -> Expected:
        """Look at the input without decoding all of it, and count."""

    def parts(self, model: LoadedModel) -> list[Any]:
        """Begin; return what is read and written together."""

    def load(self, part: Any) -> list[PendingBlock]:
        """Read a part and bring it to the model's pixel size."""

    def write(self, part: Any, pending: list[PendingBlock]) -> None:
        """Wait for the nuclei of a part and keep them."""

    def finish(self) -> SlideFacts:
        """End, after all parts are written."""

    def facts(self) -> SlideFacts | None:
        """Return what outputs that are there already say; None where they say too little."""

    def close(self) -> None:
        """Let go of what is held, finished or not."""


def fingerprint(
    config: SegmentConfig, sha256: str, model: Json, mpp: float | None, **more: str
) -> str:
    """Identify what decides the labels; the formats do not, so that one can be added later."""
    return config_hash(config.of_labels(), slide=sha256, model=model["sha256"], mpp=mpp, **more)


def decide_again(out: Path, contract: str, mark: str, execution: Execution) -> Action:
    """Apply the rerun rule to an output; a partial one is gone on with, without being asked."""
    return decide(out, contract, mark, replace(execution, resume=not execution.overwrite))
