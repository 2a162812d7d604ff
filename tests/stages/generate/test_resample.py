"""``--rounds``: parameters follow the pilots that look real."""

import numpy as np
import pytest

from histocli.stages.generate import resample
from histocli.stores.patches import PatchStore
from histocli.training.two_sample import TwoSampleScores
from tests.stages.generate.test_run import assert_same, contents, folder, run

__all__ = ["folder"]


@pytest.fixture
def few_pilots(monkeypatch):
    """Rounds of sixteen patches, judged by classifiers of three steps."""
    monkeypatch.setattr(resample, "PILOTS", 16)
    monkeypatch.setattr(resample, "PILOT_BATCH", 8)
    schedule = resample.TwoSampleSchedule
    monkeypatch.setattr(
        resample,
        "TwoSampleSchedule",
        lambda **values: schedule(**values, steps=3, batch=2, folds=2),
    )


def test_parameters_are_resampled_and_recorded(folder, few_pilots, monkeypatch):
    run(folder, rounds=2)
    recorded = PatchStore.open(folder / "a.zarr").attributes["variation"]
    assert recorded["strength"]["factor"] > 0
    assert any(value["factor"] != 1 for value in recorded.values())
    in_order = resample.map_unordered
    with monkeypatch.context() as patched:  # pilots may come in any order
        patched.setattr(resample, "map_unordered", lambda *given: reversed([*in_order(*given)]))
        run(folder, "b.zarr", rounds=2)
    assert_same(folder / "a.zarr", folder / "b.zarr")
    run(folder, "plain.zarr")
    assert "variation" not in PatchStore.open(folder / "plain.zarr").attributes
    assert not np.array_equal(
        contents(folder / "plain.zarr")["image"], contents(folder / "a.zarr")["image"]
    )


def test_patches_are_drawn_around_the_pilots_that_looked_real(folder, few_pilots, monkeypatch):
    """A judge who likes what is pale, pilot by pilot."""

    def judge_by_lightness(real, pilots, real_of, style_of, *_):
        return TwoSampleScores(np.zeros(len(real)), pilots.mean(axis=(1, 2, 3)), real_of, style_of)

    monkeypatch.setattr(resample, "PILOTS", 64)
    monkeypatch.setattr(resample, "judge", judge_by_lightness)
    run(folder, rounds=3)
    factors = {
        name: value["factor"]
        for name, value in PatchStore.open(folder / "a.zarr").attributes["variation"].items()
    }
    assert factors["strength"] * factors["coverage"] < 0.85


def test_one_reference_leaves_parameters_as_measured(folder, few_pilots, caplog):
    run(folder, refs=[str(folder / "refs" / "a.png")], rounds=1)
    assert "at least two references" in caplog.text
    assert "variation" not in PatchStore.open(folder / "a.zarr").attributes
