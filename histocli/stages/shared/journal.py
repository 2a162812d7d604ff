"""The journal of a training: metrics as JSON lines, learning curves, and TensorBoard event files.

Beside an output, ``<out>.log/`` holds::

    metrics.jsonl     every line that is logged
    curves.png        learning curves, drawn at each checkpoint and at the end
    tensorboard/      event files, with ``--tensorboard``
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from histocli.base.errors import InvalidOption
from histocli.base.files import disk_errors
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.stages.shared.curves import write_curves
from histocli.stores.logs import append_metrics, event_path, start_log

PACKAGE = "tensorboard"


def check_tracking(execution: Execution) -> None:
    """Raise ``InvalidOption`` if event files are asked for but their package is not installed."""
    if execution.tensorboard and importlib.util.find_spec(PACKAGE) is None:
        raise InvalidOption(
            "--tensorboard needs the optional package tensorboard: "
            "pip install 'histosynth[tensorboard]'; without it, metrics.jsonl and curves.png "
            "in the folder <output>.log hold the same"
        )


class Journal:
    """Writes the journal of one output; only a process that ``writes`` touches files.

    Unless ``keep``, the journal of an earlier training is removed.
    """

    def __init__(self, out: Path, *, keep: bool, writes: bool, tensorboard: bool) -> None:
        self._out = out
        self._writes = writes
        self._events: Any = None
        self._step = 0  # of the last line that had one
        if not writes:
            return
        start_log(out, keep=keep)
        if tensorboard:
            from torch.utils import tensorboard as board  # late: an optional package

            with disk_errors(out):
                self._events = board.SummaryWriter(str(event_path(out)))

    def log(self, values: Json) -> None:
        """Append a line to ``metrics.jsonl``, and its numbers to the event files."""
        if not self._writes:
            return
        append_metrics(self._out, values)
        if self._events is not None:
            self._step = int(values.get("step", self._step))
            with disk_errors(self._out):
                for name, value in scalars(values):
                    self._events.add_scalar(name, value, self._step)

    def draw(self) -> None:
        """Draw the learning curves of all that was logged, and flush the event files."""
        if not self._writes:
            return
        write_curves(self._out)
        if self._events is not None:
            with disk_errors(self._out):
                self._events.flush()


def scalars(values: Json, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a line, but the step, with the names of TensorBoard: ``a/b``.

    >>> list(scalars({"step": 3, "loss": 0.5, "held_out": {"aji": 0.7, "n": None}}))
    [('loss', 0.5), ('held_out/aji', 0.7)]
    """
    for key, value in values.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and prefix + key != "step" and math.isfinite(value):
            yield prefix + key, float(value)
