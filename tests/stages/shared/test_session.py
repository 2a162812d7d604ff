"""A session of steps: one clock, one log, one checkpoint, and a stop that loses nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from histocli.base.distributed import Team
from histocli.base.errors import InvalidInput, InvalidOption, InvalidStore, Stopped
from histocli.base.progress import command_at_work, seconds_before
from histocli.stages.shared import session as module
from histocli.stages.shared.frame import Plan, Work
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stages.shared.session import Clock, Session, refuse_short_budget
from histocli.stores import models
from histocli.stores.checkpoints import checkpoint_path, read_checkpoint
from histocli.stores.logs import log_path


@dataclass(frozen=True)
class Step:
    """What a toy step reports."""

    step: int
    loss: float

    def averaged(self):
        return {"loss": self.loss, "rare": self.loss if self.step % 2 else None}

    def latest(self):
        return {"rate": 1 / self.step}


class Walk:
    """A toy that learns: each step draws from its own number and moves a weight."""

    def __init__(self) -> None:
        self.step = 0
        self.weight = torch.zeros(1)

    def __call__(self, progress):
        while progress(self.step) < 1:
            moved = np.random.default_rng(self.step).normal()
            self.weight = self.weight * 0.9 + moved
            self.step += 1
            yield Step(self.step, abs(moved))

    def state(self):
        return {"step": self.step, "weight": self.weight}

    def restore(self, state):
        self.step, self.weight = int(state["step"]), state["weight"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "m.safetensors"


class FakeWatch:
    """A clock that moves on by a tenth of a second whenever it is read."""

    def __init__(self, now=0.0):
        self.now = now

    @property
    def seconds(self):
        self.now += 0.1
        return self.now


def begin(out: Path, *, resume=False, fingerprint="aa", clock=None, members=None, **given):
    """Return a session and the toy that it trains."""
    plan = Plan(
        out=out,
        contract=models.CONTRACT,
        fingerprint=fingerprint,
        planned=lambda: StageResult(output=str(out)),
        watch=Stopwatch(),
    )
    work = Work(plan.planned(), resume, members or Team())
    session = Session(plan, work, clock or Clock(50, None, 0.0, FakeWatch()), **given)
    walk = Walk()
    session.register("walk", walk)
    return session, walk


def run(session, walk, **part):
    part = {"name": "toy", "note": lambda record: f"step {record.step}"} | part
    return list(session.steps(walk, **part))


def lines(out):
    return [json.loads(line) for line in (log_path(out) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_after", [1, 19, 20, 33])
def test_what_is_stopped_goes_on_as_if_it_had_not_been(out, tmp_path, stop_after):
    whole, expected = begin(tmp_path / "whole.safetensors")
    run(whole, expected)
    session, walk = begin(out, stop_after=stop_after)
    with pytest.raises(Stopped, match=f"after {stop_after} steps.*to go on"):
        run(session, walk)
    session, walk = begin(out, resume=True)
    assert len(run(session, walk)) == 50 - stop_after
    assert torch.equal(walk.weight, expected.weight)
    assert session.mean("loss") == whole.mean("loss")
    both = [
        [{name: line[name] for name in ("step", "loss", "rare", "rate")} for line in lines(path)]
        for path in (out, whole.out)
    ]
    assert both[0] == both[1]
    assert [line["step"] for line in both[0]] == [20, 40]


def test_the_log_holds_means_of_the_last_steps(out):
    session, walk = begin(out)
    records = run(session, walk)
    line = lines(out)[-1]
    assert line["loss"] == pytest.approx(np.mean([record.loss for record in records[20:40]]))
    assert line["rare"] == pytest.approx(np.mean([record.loss for record in records[20:40:2]]))
    assert line["rate"] == 1 / 40
    assert line["seconds"] > 0


def test_a_signal_stops_at_the_end_of_a_step_with_what_the_caller_did(out, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(module, "stop_requested", lambda: next(answers, False))
    session, walk = begin(out)
    seen = []

    def train():
        for record in session.steps(walk, name="toy", note=str):
            seen.append(record.step)
            walk.weight += 1  # of the step, so that it is kept

    with pytest.raises(Stopped, match="after 2 steps"):
        train()
    assert seen == [1, 2]
    kept = read_checkpoint(checkpoint_path(out)).state["walk"]
    assert torch.equal(kept["weight"], walk.weight)


def test_a_stop_asked_for_at_the_end_changes_nothing(out):
    session, walk = begin(out, stop_after=50)
    assert len(run(session, walk)) == 50


def test_processes_stop_together_and_the_first_one_writes(out):
    """The other process was asked to stop."""

    class Pair(Team):
        def gather(self, value):
            return [value, True] if isinstance(value, bool) else [value, value]

    for rank in (1, 0):
        session, walk = begin(out, members=Pair(rank=rank, size=2))
        with pytest.raises(Stopped, match="after 1 steps"):
            run(session, walk)
        assert checkpoint_path(out).exists() == (rank == 0)


def test_processes_go_by_the_clock_of_the_first_one(out):
    class Second(Team):
        def gather(self, value):
            return [1.0 if isinstance(value, float) else value, value]

    session, walk = begin(out, members=Second(rank=1, size=2))
    assert run(session, walk) == []


def test_a_checkpoint_is_kept_from_time_to_time(out, monkeypatch):
    """So that even a power cut costs a minute."""
    monkeypatch.setattr(module, "CHECKPOINT_S", 0.0)
    session, walk = begin(out)
    for record in session.steps(walk, name="toy", note=str):
        if record.step == 4:
            break
    session, walk = begin(out, resume=True)
    assert walk.step == 3


def test_a_loss_that_is_no_number_ends_it_with_advice_and_keeps_the_checkpoint(out):
    session, walk = begin(out)
    session.save()
    with pytest.raises(InvalidInput, match="--learning-rate"):
        list(session.steps(lambda progress: [Step(1, float("nan"))], name="toy", note=str))
    walk.weight[:] = float("nan")
    session.save()
    assert read_checkpoint(checkpoint_path(out)).state["walk"]["weight"] == 0


def test_what_is_finished_takes_no_further_step(out):
    session, walk = begin(out)
    for record in session.steps(walk, name="toy", note=str):
        if record.step == 3:
            break
    session.finish()
    session, walk = begin(out, resume=True)
    assert walk.step == 3
    assert run(session, walk) == []


def test_parts_share_one_clock_and_bars_count_all_steps(out):
    shown = []

    class Bar:
        def __init__(self, name, total):
            shown.append([name, total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def advance(self, steps=1, note=""):
            shown[-1][2] += steps

    session, walk = begin(out, track=Bar)
    run(session, walk, name="first", end=0.6)
    assert walk.step == 30
    assert session.done == 1
    run(session, walk, name="second", begin=0.6)
    assert shown == [["first", 30, 30], ["second", 20, 20]]


def test_a_checkpoint_that_does_not_fit_is_refused(out):
    session, walk = begin(out)
    walk.state = dict
    session.save()
    with pytest.raises(InvalidStore, match=r"does not fit this training.*--overwrite") as refused:
        begin(out, resume=True)
    assert "\n" not in str(refused.value)
    with pytest.raises(InvalidStore, match=r"does not fit this refinement.*other settings"):
        begin(out, resume=True, fingerprint="bb", noun="refinement")


def test_a_new_training_forgets_the_log_and_checkpoint_of_an_earlier_one(out):
    session, walk = begin(out)
    run(session, walk)
    session.save()
    begin(out)
    assert not checkpoint_path(out).exists()
    assert not (log_path(out) / "metrics.jsonl").exists()
    session, _ = begin(out, resume=True)  # stopped before the first checkpoint
    assert session.clock.earlier_s == 0


@pytest.mark.parametrize("budget", [3.0, 20.0])
def test_a_time_budget_is_kept(out, budget):
    watch = FakeWatch()
    session, walk = begin(out, clock=Clock(0, budget, 0.0, watch))
    assert len(run(session, walk)) > 2
    assert watch.now <= budget + 1


def test_the_clock_counts_seconds_of_training_from_the_first_step():
    clock = Clock(0, 100.0, 12.0, FakeWatch(5.0))  # reading took its time
    done = [clock.progress(step) for step in range(2000)]
    assert done[0] < 0.01
    assert (np.diff(done) > 0).all()
    assert done[-1] > 1
    end = next(step for step, share in enumerate(done) if share >= 1)
    assert 5.0 + 0.1 * end <= 100.0 - 12.0 + 0.5
    by_steps = Clock(8, None, 12.0, FakeWatch())
    assert [by_steps.progress(step) for step in (0, 2, 8)] == [0, 0.25, 1]


def test_a_resumed_clock_goes_on_where_it_was():
    first = Clock(0, 100.0, 12.0, FakeWatch())
    for _ in range(100):
        before = first.progress(0)
    second = Clock(0, 100.0, 12.0, FakeWatch())
    second.earlier_s = first.trained_s
    assert 0.5 * before < second.progress(0) < 1.2 * before


@pytest.mark.parametrize(("steps", "too_short"), [(7, True), (99, True), (100, False)])
def test_a_budget_that_ended_after_few_steps_is_said(out, caplog, steps, too_short):
    session, _ = begin(out, clock=Clock(3000, 60.0, 10.0, FakeWatch()))
    session.clock.progress(0)
    assert session.was_too_short(steps) is too_short
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == too_short
    assert all(f"{steps} steps" in line and "--time-budget" in line for line in said)


def test_few_steps_that_the_user_asked_for_are_no_trouble(out, caplog):
    for clock in (Clock(3, None, 0.0, FakeWatch()), Clock(3, 60.0, 0.0, FakeWatch())):
        session, _ = begin(out, clock=clock)
        assert not session.was_too_short(3)
    assert not caplog.records


@pytest.mark.parametrize(
    ("spent_s", "after_s", "fits"), [(5, 20, True), (5, 60, False), (58, 0, False)]
)
def test_a_budget_without_time_to_train_is_refused(spent_s, after_s, fits):
    clock = Clock(3000, 60.0, after_s, FakeWatch(spent_s), 0.9)
    if fits:
        refuse_short_budget(clock, Team(), after_s, "painting takes long")
    else:
        with pytest.raises(InvalidOption, match=r"painting takes long.*give at least [2-9]m"):
            refuse_short_budget(clock, Team(), after_s, "painting takes long")
    refuse_short_budget(Clock(3000, None, 0.0, FakeWatch(spent_s)), Team(), after_s, "no budget")


def test_reserves_are_cut_where_they_would_leave_no_training():
    assert Clock(9, 100.0, 30.0, FakeWatch()).budget_s == pytest.approx(70)
    assert Clock(9, 100.0, 80.0, FakeWatch()).budget_s == pytest.approx(50)
    assert Clock(9, 100.0, 80.0, FakeWatch(), 0.9).budget_s == pytest.approx(20)


def test_a_budget_counts_from_the_start_of_the_command():
    assert seconds_before() == 0
    with command_at_work():
        watch = Stopwatch.of_command()
        assert watch.seconds >= 0
        assert seconds_before() >= watch.seconds - 1
    assert seconds_before() == 0
    assert 5 <= Stopwatch(5.0).seconds < 6
