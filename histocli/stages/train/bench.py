"""A training as its extras find it when they join."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from histocli.stages.shared.session import Session
from histocli.stages.train.patches import TrainingPatches
from histocli.stages.train.plan import Request
from histocli.stages.train.selection import Examiner
from histocli.training.loop import Extra, Training


@dataclass(frozen=True)
class Bench:
    """All that a training is made of; an extra takes what it needs."""

    request: Request
    patches: TrainingPatches
    training: Training
    session: Session
    examiner: Examiner
    stack: ExitStack
    """Closes after the last step what an extra has opened."""


@dataclass(frozen=True)
class Joined:
    """An extra that the user asked for."""

    extra: Extra
    report: Callable[[], Any]
    """Returns what the result says about it, after the last step."""


def join(bench: Bench, extra: Extra, report: Callable[[], Any]) -> Joined:
    """Register an extra with the session: where a training is resumed, it is restored."""
    bench.session.register(extra.name, extra)
    return Joined(extra, report)
