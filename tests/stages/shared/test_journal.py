"""The journal of a training: curves that anyone can look at, and event files where asked for."""

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.errors import InvalidOption
from histocli.config.common import Execution
from histocli.stages.shared.curves import learning_curves, write_curves
from histocli.stages.shared.journal import Journal, check_tracking, scalars
from histocli.stores.logs import event_path, log_path, read_metrics

ROWS = [
    {"step": 20, "loss": 1.5, "learning_rate": 1e-3, "seconds": 1.0},
    {"step": 25, "held_out": {"aji": 0.2, "dice": 0.5}},
    {"step": 40, "loss": 0.5, "learning_rate": 5e-4, "seconds": 2.0},
    {"step": 50, "held_out": {"aji": 0.6, "dice": 0.7}},
    {"processes": 1},
]


def journal(path, **how):
    found = Journal(path, **{"keep": False, "writes": True, "tensorboard": False, **how})
    for row in ROWS:
        found.log(row)
    found.draw()
    return found


def test_curves_are_those_of_the_log():
    charts = learning_curves(ROWS, "m")
    assert [chart.title for chart in charts] == [
        "Loss · m",
        "Held-out patches · m",
        "Learning rate · m",
    ]
    assert charts[0].series == [("loss", [(20.0, 1.5), (40.0, 0.5)])]
    assert dict(charts[1].series)["dice"] == [(25.0, 0.5), (50.0, 0.7)]
    assert learning_curves([]) == learning_curves([{"auc": 1.0}]) == []


def test_lines_of_a_refinement_have_curves_too():
    rows = [{"step": n, "refiner": 1.0 / n, "critic": 2.0} for n in (1, 2)]
    (chart,) = learning_curves(rows)
    assert [name for name, _ in chart.series] == ["refiner", "critic"]


def test_the_picture_shows_a_falling_line(tmp_path):
    journal(tmp_path / "m.safetensors")
    picture = cv2.imread(str(log_path(tmp_path / "m.safetensors") / "curves.png"))
    first = picture[:, : picture.shape[1] // 3]
    blue = np.argwhere((first == (178, 114, 0)).all(-1))  # BGR of the first line
    left, right = blue[blue[:, 1].argmin()], blue[blue[:, 1].argmax()]
    assert right[0] - left[0] > 200  # rows count from above
    assert write_curves(tmp_path / "none") is None


def test_a_new_training_removes_the_old_journal_and_a_resumed_one_keeps_it(tmp_path):
    out = tmp_path / "m.safetensors"
    journal(out)
    event_path(out).mkdir()
    assert len(read_metrics(out)) == len(ROWS)
    journal(out, keep=True)
    assert len(read_metrics(out)) == 2 * len(ROWS)
    assert event_path(out).exists()
    Journal(out, keep=False, writes=True, tensorboard=False)
    assert read_metrics(out) == []
    assert not event_path(out).exists()
    assert not (log_path(out) / "curves.png").exists()


def test_a_process_that_does_not_lead_writes_nothing(tmp_path):
    journal(tmp_path / "m.safetensors", writes=False)
    assert list(tmp_path.iterdir()) == []


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-9, 9), st.text(max_size=3)),
        lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
        max_leaves=8,
    )
)
def test_scalars_are_all_finite_numbers(values):
    found = dict(scalars({"x": values, "step": 3}))
    assert "step" not in found
    assert all(np.isfinite(value) for value in found.values())
    assert all(name.split("/")[0] == "x" for name in found)


def test_without_the_package_the_option_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_tracking(Execution())
    with pytest.raises(InvalidOption, match=r"histosynth\[tensorboard\]"):
        check_tracking(Execution(tensorboard=True))


def test_event_files_hold_the_numbers_of_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="an optional package")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "m.safetensors"
    journal(out, tensorboard=True)
    found = EventAccumulator(str(event_path(out))).Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [(20, 1.5), (40, 0.5)]
    aji = [(each.step, round(each.value, 6)) for each in found.Scalars("held_out/aji")]
    assert aji == [(25, 0.2), (50, 0.6)]
