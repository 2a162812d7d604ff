"""The base class of the two kinds of input of ``segment``: slides and patch stores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from histocli.base.formats import FORMATS
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
    """One input to be segmented.

    A job is divided into parts, which are read and written as a whole. ``parts`` and ``load`` run
    in the thread that reads, ``write`` and ``finish`` in other threads. Outputs are given by
    format, the model by its name and content hash.
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

    store: Path
    """The label store, which may be hidden if no store is asked for."""

    @abstractmethod
    def decide(self) -> Action:
        """Apply the rerun rule (create, resume, skip) to all outputs; skip if all are complete."""

    @abstractmethod
    def check(self, model: LoadedModel) -> Expected:
        """Estimate the work for a dry run, without segmenting."""

    @abstractmethod
    def parts(self, model: LoadedModel) -> list[Any]:
        """Begin the outputs, or resume unfinished ones; return the parts that are to be done."""

    @abstractmethod
    def tiles_of(self, part: Any) -> int:
        """Return the number of network tiles of a part; may be called after :meth:`parts`."""

    @abstractmethod
    def load(self, part: Any) -> list[PendingBlock]:
        """Read a part and bring it to the model's pixel size."""

    @abstractmethod
    def write(self, part: Any, pending: list[PendingBlock]) -> None:
        """Wait for the nuclei of a part and save them."""

    @abstractmethod
    def finish(self) -> SlideFacts:
        """Complete the outputs after all parts are written."""

    @abstractmethod
    def facts(self) -> SlideFacts | None:
        """Read the facts about the slide from existing outputs; None if none records them."""

    def close(self) -> None:
        """Release files and locks, whether the job is finished or not."""
        self.held.close()

    def fingerprint_of(self, sha256: str, **more: str) -> str:
        """Hash all that decides the labels; not the formats, so that one can be added later."""
        model = self.model["sha256"]
        settings = self.config.of_labels()
        return config_hash(settings, slide=sha256, model=model, mpp=self.given_mpp, **more)

    def decide_about(self, out: Path, form: str, fingerprint: str) -> Action:
        """Apply the rerun rule to one output of a format."""
        return decide(out, FORMATS[form].contract, fingerprint, self.execution)
