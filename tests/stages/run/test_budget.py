"""A time budget is shared out once, and a resumed run decides alike."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import imagecodecs
import pytest

from histocli.base.errors import InvalidOption
from histocli.config.common import Execution
from histocli.config.run import RunConfig
from histocli.model.segmenter import SIZES
from histocli.stages.run import budget as module
from histocli.stages.run.budget import Budget, Decided, drawn_per_s, slides_s, titled
from histocli.stages.run.report import Places
from histocli.stages.segment.run import segment
from histocli.stores.models import read_model_header
from tests.tissue import make_tissue

CPU = Execution(device="cpu", precision="fp32", workers=2)
CONFIG = RunConfig(n=2000, patch_px=256, time_budget_s=600.0)


@pytest.fixture
def machine(monkeypatch):
    """What would be measured: seconds for the slides, patches a second, seconds of measuring."""
    known = SimpleNamespace(slides=100.0, rate=5.0, measuring=10.0, probed=0)

    def draw(*_):
        known.probed += 1
        return known.rate, known.measuring

    monkeypatch.setattr(module, "slides_s", lambda *_: known.slides)
    monkeypatch.setattr(module, "drawn_per_s", draw)
    return known


def decided(out, config=CONFIG, execution=CPU, *, drawing_s=60.0, refining_s=0.0):
    """Return the budget after all decisions; the clock stands still but for the drawing."""
    out.mkdir(exist_ok=True)
    budget = Budget(Places(out), config, execution)
    budget.watch = SimpleNamespace(seconds=0.0)
    budget.foresee(["slides"], 0)
    budget.decide_patches(["refs"])
    budget.watch.seconds += drawing_s
    if config.refine:
        budget.decide_refinement()
        budget.watch.seconds += refining_s
    budget.decide_training()
    return budget


def test_without_a_budget_nothing_is_measured_or_written(machine, tmp_path):
    budget = decided(tmp_path, replace(CONFIG, time_budget_s=None))
    assert budget.decided == Decided(2000)
    assert machine.probed == 0
    assert list(tmp_path.iterdir()) == []


def test_training_gets_what_the_others_leave(machine, tmp_path):
    assert decided(tmp_path).decided.train_s == 600 - 100 - 60
    machine.slides = 200
    assert decided(tmp_path / "b").decided.train_s == 600 - 200 - 60
    refined = decided(tmp_path / "c", replace(CONFIG, refine=True), refining_s=150.0).decided
    assert refined.refine_s == pytest.approx(module.REFINE_SHARE * (600 - 200 - 60))
    assert refined.train_s == 600 - 200 - 60 - 150  # even where refining took longer
    late = decided(tmp_path / "d", drawing_s=10_000.0).decided
    assert late.train_s == 60  # something has to be learnt


def test_a_truth_takes_time_too(machine, tmp_path):
    budget = Budget(Places(tmp_path), CONFIG, CPU)
    budget.foresee(["slides"], 20)
    assert budget.after_s > 100 + 20


def test_fewer_patches_are_drawn_in_little_time(machine, tmp_path, caplog):
    # 30 % of 500 s, less 10 s of measuring and 6 s of starting, at 5 a second in 2 processes
    assert decided(tmp_path).decided.n == 1340
    assert "1340 of 2000 patches" in caplog.text
    machine.rate = 50.0
    assert decided(tmp_path / "b").decided.n == 2000
    machine.rate = 0.01
    assert decided(tmp_path / "c").decided.n == module.LEAST_PATCHES
    assert decided(tmp_path / "d", replace(CONFIG, n=8)).decided.n == 8


def test_nothing_is_measured_where_any_machine_would_do(machine, tmp_path):
    long = replace(CONFIG, time_budget_s=7200.0)
    assert decided(tmp_path, long).decided.n == 2000
    assert machine.probed == 0


def test_slides_that_leave_no_time_to_learn_are_refused(machine, tmp_path):
    machine.slides = 500.0
    with pytest.raises(InvalidOption, match="the slides alone take about 500 s"):
        decided(tmp_path)


def test_a_resumed_run_decides_alike(machine, tmp_path):
    first = decided(tmp_path).decided
    machine.rate, machine.slides = 1.0, 300.0
    probed = machine.probed
    assert decided(tmp_path, drawing_s=0.0).decided == first
    # slides and formats change neither patches nor model
    assert decided(tmp_path, replace(CONFIG, formats=("csv",), slide_mpp=0.3)).decided == first
    assert machine.probed == probed
    assert decided(tmp_path, replace(CONFIG, seed=1)).decided != first


def test_a_run_that_stopped_before_the_training_decides_the_rest(machine, tmp_path):
    stopped = Budget(Places(tmp_path), CONFIG, CPU)
    stopped.foresee(["slides"], 0)
    stopped.decide_patches(["refs"])
    machine.rate = 0.1
    resumed = decided(tmp_path, drawing_s=5.0).decided
    assert resumed.n == stopped.decided.n
    assert resumed.train_s == 600 - 100 - 5


def test_what_is_overwritten_is_decided_anew(machine, tmp_path):
    first = decided(tmp_path).decided
    machine.rate = 1.0
    assert decided(tmp_path, execution=replace(CPU, overwrite=True)).decided.n < first.n


def test_slides_are_timed_with_a_network_of_the_size_and_leave_no_trace(tmp_path, monkeypatch):
    models = []

    def spy(slides, model, *others, **more):
        models.append(read_model_header(model))
        return segment(slides, model, *others, **more)

    monkeypatch.setattr(module, "segment", spy)
    monkeypatch.setattr(module, "SLIDES_OVER_NETWORK", 0.0)  # how fast this machine is counts not
    paths = []
    for name in "ab":
        path = tmp_path / f"{name}.png"
        imagecodecs.imwrite(str(path), make_tissue(128).image)
        paths.append(str(path))
    config = RunConfig(mpp=0.5, slide_mpp=0.5, size="M")
    expected = module.SEGMENT_S + 2 * module.SLIDE_S
    assert slides_s(paths, config, CPU) == expected
    (header,) = models
    assert header.architecture["channels"] == list(SIZES["M"])
    assert header.mpp == 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_rate_of_drawing_is_that_of_one_process(tmp_path):
    path = tmp_path / "reference.png"
    imagecodecs.imwrite(str(path), make_tissue(128).image)
    config = RunConfig(patch_px=32, mpp=0.5, reference_mpp=0.5)
    rate, measuring_s = drawn_per_s([str(path)], config, CPU)
    assert rate > 0
    assert measuring_s > 0
    assert [each.name for each in tmp_path.iterdir()] == ["reference.png"]


def test_bars_name_the_stage_once():
    seen = []

    @contextmanager
    def track(description, total):
        seen.append((description, total))
        yield

    named = titled(track, "segment", "3/4")
    for description in ("segment", "painting"):
        with named(description, 7):
            pass
    assert seen == [("3/4 segment", 7), ("3/4 segment: painting", 7)]
