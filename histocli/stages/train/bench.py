"""The objects of a training for its extras: optional parts such as hard examples."""

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
    """The objects of a training."""

    request: Request
    patches: TrainingPatches
    training: Training
    session: Session
    examiner: Examiner
    stack: ExitStack  # runs the closing functions that extras register, after the last step


@dataclass(frozen=True)
class Joined:
    """An extra that the user asked for."""

    extra: Extra
    report: Callable[[], Any]  # returns the report for the result; called after the last step


def join(bench: Bench, extra: Extra, report: Callable[[], Any]) -> Joined:
    """Register an extra with the session, which restores it if the training is resumed."""
    bench.session.register(extra.name, extra)
    return Joined(extra, report)
