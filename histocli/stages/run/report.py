"""What a run leaves: the places of its outputs, its result, and the report of all stages."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import orjson

from histocli.base.errors import StoreExists
from histocli.base.files import partial_path, replace_atomically
from histocli.base.text import plain_json, valid_unicode
from histocli.base.types import Json
from histocli.stages.segment.results import SegmentResult
from histocli.stages.shared.pages import check_page
from histocli.stages.shared.results import StageResult
from histocli.stores.logs import log_path

SCHEMA = "histosynth.run/1"


@dataclass(frozen=True, kw_only=True)
class RunResult(StageResult):
    """The result of ``run``; ``output`` is the path of the report."""

    schema: ClassVar[str] = SCHEMA

    stages: list[Json] = field(default_factory=list)
    """For each stage its name (``stage``) and the fields of its own result; of ``segment`` the
    sums over all slides."""
    slides: list[Json] = field(default_factory=list)
    """The results of ``segment``, one a slide."""
    nuclei: int = 0
    mm2: float = 0.0
    scores: Json | None = None
    """Mean scores, where there is a truth."""
    links: Json = field(default_factory=dict)
    """Paths of the outputs, from the folder of the report."""
    failed: tuple[str, ...] = ()
    """Inputs that could not be read, under ``--on-error continue``."""


@dataclass(frozen=True)
class Places:
    """Where the outputs of a run lie."""

    out: Path

    @property
    def patches(self) -> Path:
        """Drawn patches."""
        return self.out / "patches.zarr"

    @property
    def refined(self) -> Path:
        """Refined patches, with ``--refine``."""
        return self.out / "refined.zarr"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.out / "nuclei.safetensors"

    @property
    def nuclei(self) -> Path:
        """Folder of the results of the slides."""
        return self.out / "nuclei"

    @property
    def scores(self) -> Path:
        """Scores as JSON, with ``--truth``."""
        return self.out / "scores.json"

    @property
    def page(self) -> Path:
        """Scores as a page, with ``--truth``."""
        return self.out / "scores.html"

    @property
    def slides_page(self) -> Path:
        """All slides as a page."""
        return self.out / "slides.html"

    @property
    def report(self) -> Path:
        """The report of the run."""
        return self.out / "report.json"

    @property
    def begun(self) -> Path:
        """What an unfinished run has decided, for the run that goes on."""
        return partial_path(self.report)

    def check_report(self) -> None:
        """Raise ``StoreExists`` if a file that is no report or page of ours is in its place."""
        check_page(self.slides_page, replace=True, option="--out")
        if os.path.lexists(self.report) and not read_ours(self.report):
            raise StoreExists(
                f"{self.report}: is in the way and was not made by histosynth; choose another --out"
            )

    def links(self, slides: list[SegmentResult]) -> Json:
        """Return the paths of the outputs that are there, from the folder of the report."""
        named = {
            "patches": self.patches,
            "refined": self.refined,
            "model": self.model,
            "training": log_path(self.model),
            "scores": self.scores,
            "page": self.page,
            "slides_page": self.slides_page,
        }
        there = {name: path for name, path in named.items() if path.exists()}
        found: Json = {name: self._link(path) for name, path in there.items()}
        found["slides"] = {
            slide.input: {form: self._link(Path(path)) for form, path in slide.outputs.items()}
            for slide in slides
            if slide.status in ("done", "skipped")
        }
        return found

    def _link(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.out)).as_posix()


def read_ours(path: Path) -> Json:
    """Return the content of a file that a run wrote; an empty object for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    ours = isinstance(content, dict) and str(content.get("schema", "")).startswith("histosynth.")
    return content if ours else {}


def write_json(path: Path, content: Json) -> None:
    """Write a file of JSON, indented for people; it is whole or absent."""
    with replace_atomically(path) as partial:
        plain = valid_unicode(plain_json(content))
        partial.write_bytes(orjson.dumps(plain, option=orjson.OPT_INDENT_2) + b"\n")
