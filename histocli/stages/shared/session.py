"""A session of training: the steps of a command with their clock, log and checkpoint.

The stage builds the networks and optimisers, and runs their steps through the session::

    session = Session(plan, work, Clock(config.steps, None, 12.0, plan.watch), noun="training")
    session.register("training", training)  # restores it from a checkpoint, if there is one
    for record in session.steps(
        lambda progress: train_steps(training, patches, schedule, progress, dtype),
        name="training",
        note=lambda record: f"step {record.step}",
    ):
        averaged.after_step(training.segmenter)  # part of the step: before the checkpoint
    write_model(plan.out, ...)
    session.checkpoint.remove()

The stage registers each part that a checkpoint must keep; the session registers itself. A training
that counts steps ends with the same bytes whether or not it was stopped and resumed; under a time
budget the number of steps varies. With several processes, all follow the clock of the first one
and stop together, and only the first one writes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from histocli.base.distributed import Team
from histocli.base.errors import InvalidInput, InvalidOption, InvalidStore, Stopped
from histocli.base.interrupts import stop_requested
from histocli.base.progress import Track, silent
from histocli.base.text import first_line
from histocli.base.types import Json
from histocli.stages.shared.frame import Plan, Work
from histocli.stages.shared.journal import Journal
from histocli.stages.shared.results import Stopwatch
from histocli.stores.checkpoints import (
    checkpoint_path,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.1  # share of a time budget that the training has at least
FEW_STEPS = 100  # steps below which a network has learnt next to nothing
RECORD_EVERY = 20  # steps between two lines of ``metrics.jsonl``, and over which a line averages
CHECKPOINT_S = 60.0  # seconds between two checkpoints

Progress: TypeAlias = Callable[[int], float]  # from steps to the share done; at 1 the steps end


class Record(Protocol):
    """The report of one step to the session."""

    @property
    def step(self) -> int:
        """Steps done, this one included."""

    def averaged(self) -> Mapping[str, float | None]:
        """Return the values whose means over the last steps are logged; means leave None out."""

    def latest(self) -> Json:
        """Return the values that are logged as they are."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


class Resumable(Protocol):
    """A part of a training that checkpoints keep."""

    def state(self) -> Mapping[str, Any]:
        """Return nested dicts, lists and tuples of tensors, numbers, strings and None."""

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""


class Clock:
    """Tells how much of a training is done: steps of ``steps``, or seconds of a time budget.

    The budget covers the whole command, counted from the start of ``watch``. Its last part is
    reserved for the work after the training: ``reserve_s``, but at most the share
    ``most_reserved`` of the budget.

    A resumed command has a whole new budget. The seconds trained earlier add to both the seconds
    done and the seconds in all, so that the share done is smaller than when the command stopped.
    """

    def __init__(
        self,
        steps: int,
        time_budget_s: float | None,
        reserve_s: float,
        watch: Stopwatch,
        most_reserved: float = 0.5,
    ) -> None:
        self.steps = steps
        self.watch = watch
        self._most_reserved = most_reserved
        self._time_budget_s = time_budget_s
        self._reserve_s = reserve_s
        self.earlier_s = 0.0  # seconds of training in earlier commands that this one resumes
        self.begun_s: float | None = None  # seconds on the watch when the training began

    def reserve(self, seconds: float) -> None:
        """Reserve more seconds of the budget for the work after the training."""
        self._reserve_s += seconds

    @property
    def budget_s(self) -> float | None:
        """Seconds from the start of the command to the end of its steps; None counts steps."""
        budget = self._time_budget_s
        if budget is None:
            return None
        return budget - min(self._reserve_s, self._most_reserved * budget)

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the budget, below 0 after it; None without a budget."""
        budget = self._time_budget_s
        return None if budget is None else budget - self.watch.seconds

    @property
    def overhead_s(self) -> float:
        """Seconds of the command before its training, and those that are reserved after it."""
        return (self.begun_s or 0.0) + self._reserve_s

    @property
    def trained_s(self) -> float:
        """Seconds since the training began, with those of earlier commands; 0 before the start."""
        now_s = 0 if self.begun_s is None else self.watch.seconds - self.begun_s
        return self.earlier_s + now_s

    def progress(self, step: int) -> float:
        """Return the share of the training that is done; the first call starts the clock."""
        if self.begun_s is None:
            self.begun_s = self.watch.seconds
        budget = self.budget_s
        if budget is None:
            return step / self.steps
        available = max(budget - self.begun_s, 1.0)  # reading the patches took begun_s seconds
        return max(self.trained_s / (available + self.earlier_s), 0.0)


def refuse_short_budget(clock: Clock, members: Team, after_s: float, why: str) -> None:
    """Raise ``InvalidOption`` if a time budget has no time for a training.

    ``after_s`` are the seconds that the work after it takes at least; ``why`` says so to the user.
    """
    need_s = clock.watch.seconds + after_s
    left_s = clock.left_s
    short = left_s is not None and left_s - after_s < LEAST_SHARE * (left_s + clock.watch.seconds)
    if members.from_leader(short):
        raise InvalidOption(
            f"--time-budget is too short: {why}, which leaves no time to train; give at least "
            f"{math.ceil(need_s / 30)}m"
        )


class Checkpoint:
    """The parts of a training that one file keeps, and that a resumed training restores.

    The file is read with ``resume`` and otherwise removed. ``noun`` names the whole in messages,
    ``training`` or ``refinement``. Only a process that ``writes`` changes the file.
    """

    def __init__(self, plan: Plan[Any], *, resume: bool, noun: str, writes: bool) -> None:
        self.path = checkpoint_path(plan.out)
        self.saved_at = time.monotonic()
        self._out = plan.out
        self._fingerprint = plan.fingerprint
        self._noun = noun
        self._writes = writes
        self._parts: dict[str, Resumable] = {}
        self._kept: Json = {}
        if not resume:
            self.remove()
        elif self.path.exists():  # a command may have stopped before it wrote a checkpoint
            checkpoint = read_checkpoint(self.path)
            with self._misfits():
                if checkpoint.config_hash != self._fingerprint:
                    raise ValueError("it was made with other settings or inputs")
            self._kept = dict(checkpoint.state)

    def register(self, name: str, part: Resumable) -> None:
        """Keep a part in checkpoints; if a checkpoint was read, the part is restored at once."""
        self._parts[name] = part
        if self._kept:
            with self._misfits():
                part.restore(self._kept.pop(name))

    def save(self) -> None:
        """Write all parts, unless a floating-point tensor holds values that are not finite."""
        if not self._writes:
            return
        state = {name: part.state() for name, part in self._parts.items()}
        if all(bool(torch.isfinite(each).all()) for each in _tensors(state)):
            write_checkpoint(self.path, state, config_hash=self._fingerprint)
            self.saved_at = time.monotonic()

    def remove(self) -> None:
        """Remove the file: the output is written, or a new training begins."""
        if self._writes:
            remove_checkpoint(self._out)

    @contextmanager
    def _misfits(self) -> Iterator[None]:
        """Turn errors of a checkpoint that does not fit into ``InvalidStore``."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidStore(
                f"{self.path}: the checkpoint does not fit this {self._noun} "
                f"({first_line(error)}); start anew with --overwrite"
            ) from error


class Session:
    """Runs steps, and keeps their log and checkpoint beside the output.

    ``work`` is the argument of the plan's ``make`` function; unless it resumes an earlier command,
    that command's log is removed. ``stop_after`` counts the steps of all commands. ``noun`` is what
    messages call the whole: ``training`` or ``refinement``.
    """

    def __init__(
        self,
        plan: Plan[Any],
        work: Work[Any],
        clock: Clock,
        *,
        stop_after: int | None = None,
        track: Track = silent,
        noun: str = "training",
        tensorboard: bool = False,
    ) -> None:
        self.out = plan.out
        self.clock = clock
        self.members = work.members
        self.done = 0.0  # share of the present ``steps`` loop that was done at its last record
        self.finished = False  # whether the training is over; ``steps`` then takes no further step
        self._before = 0.0  # share of the present loop that was done before its last step
        self._stop_after = stop_after
        self._track, self._recent = track, list[dict[str, float | None]]()
        leads, resume = work.members.leads, work.resume
        self.journal = Journal(self.out, keep=resume, writes=leads, tensorboard=tensorboard)
        self.checkpoint = Checkpoint(plan, resume=resume, noun=noun, writes=leads)
        self.register("session", self)

    def register(self, name: str, part: Resumable) -> None:
        """Keep a part in checkpoints; if a training is resumed, the part is restored at once."""
        self.checkpoint.register(name, part)

    def steps(
        self,
        stepping: Callable[[Progress], Iterable[AnyRecord]],
        *,
        name: str,
        note: Callable[[AnyRecord], str],
        begin: float = 0.0,
        end: float = 1.0,
    ) -> Iterator[AnyRecord]:
        """Take steps; log, save checkpoints and stop when due.

        Given the share of this loop that is done as a function of steps, ``stepping`` returns an
        iterator that takes one step for each of its records. ``name`` and the text that ``note``
        returns for a record stand beside the bar. ``begin`` and ``end`` are the shares of the whole
        training, 0..1, at which these steps begin and end. The body of the caller's loop belongs to
        the step, and runs before the step's checkpoint.

        Raises ``InvalidInput`` if a loss is not a number, and ``Stopped`` after a signal or
        ``stop_after`` steps; the checkpoint is saved.
        """
        length = end - begin
        # under a time budget the number of steps is unknown, so the bar shows the share of it
        steps = round(length * self.clock.steps)
        total: float = steps if self.clock.budget_s is None else 1.0
        shown = 0.0
        begun = False

        def progress(step: int) -> float:
            nonlocal begun
            done = (self._progress(step) - begin) / length
            if not begun:
                self._before, begun = max(done, 0.0), True
            return done

        with self._track(name, total) as bar:
            for record in stepping(progress):
                self._log_step(record)
                overall = self._progress(record.step)
                self.done = min((overall - begin) / length, 1.0)
                done = round(self.done * total, None if self.clock.budget_s is None else 3)
                if done > shown:
                    bar.advance(done - shown, note(record))
                    shown = done
                yield record
                self._before = self.done
                self._save_or_stop(record.step, overall)

    def passed(self, parts: int) -> bool:
        """Return whether the last step completed one of ``parts`` equal parts of this loop."""
        return int(self._before * parts) < int(self.done * parts)

    def was_too_short(self, steps: int) -> bool:
        """Tell whether the time budget ended the training after a few steps; warn if so."""
        budget = self.clock.budget_s
        if budget is None or steps >= min(FEW_STEPS, self.clock.steps):
            return False
        if self.members.leads:
            each_s = self.clock.trained_s / max(steps, 1)
            need_s = FEW_STEPS * each_s + self.clock.overhead_s
            logger.warning(
                "%s: the time budget was enough for %d steps, which teach a network next to "
                "nothing; give at least --time-budget %dm",
                self.out,
                steps,
                math.ceil(need_s / 60),
            )
        return True

    def mean(self, name: str) -> float | None:
        """Return the mean of a value over the last ``RECORD_EVERY`` steps; None if all are None."""
        values = [value for each in self._recent if (value := each[name]) is not None]
        return float(np.mean(values)) if values else None

    def log(self, values: Json) -> None:
        """Append a line to the journal."""
        self.journal.log(values)

    def save(self) -> None:
        """Write a checkpoint, and the learning curves so far."""
        self.checkpoint.save()
        self.journal.draw()

    def finish(self) -> None:
        """End the training and save that, so that a later command takes no further step."""
        if not self.finished:
            self.finished = True
            self.save()

    def state(self) -> Json:
        """Return the session's own part of a checkpoint."""
        seconds = self.clock.trained_s
        return {"trained_s": seconds, "recent": self._recent, "finished": self.finished}

    def restore(self, state: dict[str, Any]) -> None:
        """Load the session's own part of a checkpoint."""
        self.clock.earlier_s = float(state["trained_s"])
        self._recent = list(state["recent"])
        self.finished = bool(state["finished"])

    def _progress(self, step: int) -> float:
        """Return the share of the whole training done, by the clock of the first process."""
        if self.finished:
            return 1.0
        return float(self.members.from_leader(self.clock.progress(step)))

    def _log_step(self, record: Record) -> None:
        values = dict(record.averaged())
        if not all(math.isfinite(value) for value in values.values() if value is not None):
            raise InvalidInput(
                f"{self.out}: the loss is not a number at step {record.step}; lower "
                "--learning-rate, or use --precision fp32"
            )
        self._recent = [*self._recent[-(RECORD_EVERY - 1) :], values]
        if record.step % RECORD_EVERY == 0:
            means = {name: self.mean(name) for name in values}
            line = {"step": record.step, **means, **record.latest()}
            self.log(line | {"seconds": self.clock.trained_s})

    def _save_or_stop(self, step: int, progress: float) -> None:
        asked = stop_requested() or (self._stop_after is not None and step >= self._stop_after)
        stop = any(self.members.gather(asked)) and progress < 1
        if stop or time.monotonic() - self.checkpoint.saved_at > CHECKPOINT_S:
            self.save()
        if stop:
            raise Stopped(
                f"{self.out}: stopped after {step} steps, the checkpoint is saved; "
                "run the same command again to go on"
            )


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """Yield all floating-point tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        if state.is_floating_point():
            yield state
    elif isinstance(state, Mapping | list | tuple):
        for each in state.values() if isinstance(state, Mapping) else state:
            yield from _tensors(each)
