"""Stages that record what the command line asked of them, so that its tests need no tensors and no
stores.

A fake stage returns what the test put into ``answer``, or raises it.
"""

import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import histocli.stages

VERBS = ("generate", "refine", "train", "segment", "pack", "info", "evaluate", "export", "run")


@dataclass
class FakeResult:
    status: str = "done"
    output: str | None = "out.zarr"
    error: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    sheet: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "histosynth.fake/1",
            "output": self.output,
            "status": self.status,
            "error": self.error,
            **self.more,
        }

    def describe(self) -> list[tuple[str, list[tuple[str, str]]]]:
        return [("Patches", [("number", "12"), ("seed", "34")])]

    def page(self) -> list[tuple[str, list[tuple[str, str]]]]:
        return [("Patches", [("number", "12")])]


@dataclass
class Call:
    verb: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]


class FakeStages:
    """``calls`` is what was asked of them.

    ``answer`` is the result, several of them for a stage that reports each, an error, or a function
    of the keywords.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer: Any = FakeResult()

    def run(self, verb: str, *arguments: Any, **keywords: Any) -> Any:
        self.calls.append(Call(verb, arguments, keywords))
        answer = (
            self.answer(**keywords)
            if callable(self.answer) and not isinstance(self.answer, type)
            else self.answer
        )
        if isinstance(answer, BaseException):
            raise answer
        if "report" in keywords and not isinstance(answer, FakeResult):
            answer = [keywords["report"](result) for result in answer]
        return answer


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """Replace every stage for one test."""
    fake = FakeStages()
    for verb in VERBS:
        folder = Path(histocli.stages.__path__[0]) / verb
        name = f"histocli.stages.{verb}" + (".run" if folder.is_dir() else "")
        module = types.ModuleType(name)
        setattr(module, verb, lambda *a, _verb=verb, **k: fake.run(_verb, *a, **k))
        monkeypatch.setitem(sys.modules, name, module)
    return fake
