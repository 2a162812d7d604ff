"""What every input of ``segment`` has in common, whether it is a slide or a patch store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

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


class Job(ABC):
    """One input on its way.

    ``parts`` and ``load`` run in the thread that reads, ``write`` and ``finish`` in threads of
    their own. Outputs are given by format, the model by its name and content hash.
    """

    def __init__(
        self,
        given: InputImage,
        outputs: dict[str, Path],
        config: SegmentConfig,
        execution: Execution,
        model: Json,
    ) -> None:
        self.input, self.outputs = given, outputs
        self.config, self.execution, self.model = config, execution, model
        self.given_mpp = given.mpp if given.mpp is not None else config.mpp
        self.watch = Stopwatch()
        self.held = ExitStack()

    @abstractmethod
    def decide(self) -> Action:
        """Apply the rerun rule to all outputs: skip only when none is to be made."""

    @abstractmethod
    def check(self, model: LoadedModel) -> Expected:
        """Look at the input without decoding all of it, and count."""

    @abstractmethod
    def parts(self, model: LoadedModel) -> list[Any]:
        """Begin, or go on with unfinished outputs; return what is read and written together."""

    @abstractmethod
    def load(self, part: Any) -> list[PendingBlock]:
        """Read a part and bring it to the model's pixel size."""

    @abstractmethod
    def write(self, part: Any, pending: list[PendingBlock]) -> None:
        """Wait for the nuclei of a part and keep them."""

    @abstractmethod
    def finish(self) -> SlideFacts:
        """End, after all parts are written."""

    @abstractmethod
    def facts(self) -> SlideFacts | None:
        """Return what outputs that are there already say; None where they say too little."""

    def close(self) -> None:
        """Let go of what is held, finished or not."""
        self.held.close()

    def fingerprint_of(self, sha256: str, **more: str) -> str:
        """Identify what decides the labels; the formats do not, so that one can be added later."""
        model = self.model["sha256"]
        settings = self.config.of_labels()
        return config_hash(settings, slide=sha256, model=model, mpp=self.given_mpp, **more)

    def decide_about(self, out: Path, contract: str, fingerprint: str) -> Action:
        """Apply the rerun rule to one output; an unfinished one is gone on with unasked."""
        again = replace(self.execution, resume=not self.execution.overwrite)
        return decide(out, contract, fingerprint, again)
