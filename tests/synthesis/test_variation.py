"""Parameters that vary: drawn as told, re-sampled towards what is judged real, and each does what
it says."""

from dataclasses import astuple, fields, replace

import numpy as np
import pytest
import torch

from histocli.base.rng import rng_for
from histocli.synthesis.patch import draw_patch, paint_patches
from histocli.synthesis.variation import (
    AS_MEASURED,
    BROAD_SD,
    NAMES,
    SMALLEST_SD,
    STAYS_BROAD,
    Spread,
    Variation,
)

MANY = 4000


def drawn(spread, n=MANY, seed=0):
    rng = np.random.default_rng(seed)
    return [spread.draw(rng) for _ in range(n)]


def logs(variations):
    return np.log(np.array([astuple(each) for each in variations]))


def test_factors_are_drawn_around_what_was_measured():
    found = logs(drawn(Spread()))
    assert np.abs(found.mean(axis=0)).max() < 0.02
    assert np.allclose(found.std(axis=0), BROAD_SD, atol=0.02)


def test_some_patches_stay_broad():
    narrow = Spread(mean=(1.0,) * len(NAMES), sd=(0.05,) * len(NAMES))
    found = logs(drawn(narrow))[:, 0]
    # five deviations below: never of the narrow ones
    assert np.mean(found < 0.75) == pytest.approx(STAYS_BROAD, abs=0.03)


def test_the_next_patches_are_drawn_around_those_that_look_real():
    """A judge who wants strong contrast, and looks at nothing else."""
    spread = Spread()
    index = NAMES.index("strength")
    for turn in range(3):
        variations = drawn(spread, 600, turn)
        scores = -np.abs(logs(variations)[:, index] - 0.4)
        spread = spread.refit(variations, scores, np.arange(600) % 7)
    assert spread.mean[index] == pytest.approx(0.4, abs=0.1)
    assert spread.sd[index] < 0.8 * BROAD_SD
    others = np.delete(np.array(spread.mean), index)
    assert np.abs(others).max() < 0.12
    assert np.delete(np.array(spread.sd), index).min() > 0.6 * BROAD_SD
    assert spread.to_json()["strength"]["factor"] == pytest.approx(
        np.exp(spread.mean[index]), abs=1e-3
    )


def test_references_that_look_more_real_whatever_is_drawn_do_not_count_for_more():
    groups = np.arange(400) % 2
    # the second reference's patches all score higher, and their contrast happens to be strong
    variations = [
        replace(each, strength=2.0) if group else each
        for each, group in zip(drawn(Spread(), 400), groups, strict=True)
    ]
    found = Spread().refit(variations, 10.0 * groups + np.random.default_rng(0).random(400), groups)
    assert found.mean[NAMES.index("strength")] == pytest.approx(0.7 * 0.5 * np.log(2), abs=0.08)


def test_what_was_not_judged_changes_nothing():
    spread = Spread(mean=(0.1,) * len(NAMES))
    assert spread.refit(drawn(spread, 20), np.full(20, np.nan), np.zeros(20, int)) is spread
    best = spread.refit(drawn(spread, 400), np.arange(400.0), np.zeros(400, int))
    assert min(best.sd) >= SMALLEST_SD


def paint(reference, variation, n=6):
    drawings = [
        draw_patch(reference, 96, rng_for(0, "patch", index), variation=variation)
        for index in range(n)
    ]
    return drawings, paint_patches(drawings, torch.device("cpu")).astype(float)


def test_factors_of_one_are_what_was_measured(reference):
    plain = draw_patch(reference, 64, rng_for(0, "patch", 0))
    same = draw_patch(reference, 64, rng_for(0, "patch", 0), variation=Variation())
    assert Variation() == AS_MEASURED
    np.testing.assert_array_equal(plain.instance_labels, same.instance_labels)
    np.testing.assert_array_equal(plain.nuclei, same.nuclei)
    assert plain.fine == same.fine


@pytest.mark.parametrize("name", [field.name for field in fields(Variation)])
def test_each_factor_changes_patches(reference, name):
    _, plain = paint(reference, AS_MEASURED)
    _, changed = paint(reference, replace(AS_MEASURED, **{name: 0.5}))
    assert np.abs(plain - changed).max() > 3


def test_contrast_size_and_number_go_where_they_are_sent(reference):
    drawings, plain = paint(reference, AS_MEASURED)
    _, strong = paint(reference, replace(AS_MEASURED, strength=1.5))
    nuclei = np.stack([drawing.instance_labels > 0 for drawing in drawings])
    assert strong[nuclei].mean() < plain[nuclei].mean() - 3

    def layouts(**changed):
        return [drawing.layout for drawing in paint(reference, replace(AS_MEASURED, **changed))[0]]

    sparse, dense = (
        np.mean([(layout.instance_labels > 0).mean() for layout in layouts(coverage=c)])
        for c in (0.6, 1.6)
    )
    assert sparse < dense
    many, few = (sum(len(layout.outlines) for layout in layouts(area=a)) for a in (0.6, 1.6))
    assert many > few
