"""Cytoplasm stays near nuclei and paler than they are; distractors are rare, and change nothing but
what they return."""

from dataclasses import replace

import numpy as np
import pytest

from histocli.base.rng import rng_for
from histocli.synthesis import surroundings as module
from histocli.synthesis.chromatin import hematoxylin_direction
from histocli.synthesis.ink import COLOURS, add_ink
from histocli.synthesis.surroundings import Stains, add_cytoplasm, add_distractors
from tests.tissue import paint_ellipses

MPP, SIDE = 0.5, 96
LABELS = paint_ellipses((SIDE, SIDE), [(30, 30), (30, 50), (60, 40)], 9, 7, [0.2, 1.0, 0.5])
TISSUE = np.ones((SIDE, SIDE), bool)
SHARES = ("RED_CELL_SHARE", "PIGMENT_SHARE", "DEBRIS_SHARE", "FOLD_SHARE", "INK_SHARE")


@pytest.fixture(scope="module")
def stains(reference):
    return Stains(hematoxylin_direction(reference), reference.statistics.appearance)


@pytest.fixture
def background():
    values = np.random.default_rng(0).uniform(0.05, 0.5, (SIDE, SIDE, 3)).astype(np.float32)
    values.setflags(write=False)  # a change in place is an error
    return values


def test_no_cytoplasm_without_nuclei(background, stains):
    for seed in range(20):
        empty = np.zeros_like(LABELS)
        np.testing.assert_array_equal(
            add_cytoplasm(background, empty, stains, MPP, rng_for(seed, "cell")), background
        )
        ignored = np.full_like(LABELS, -1)
        np.testing.assert_array_equal(
            add_cytoplasm(background, ignored, stains, MPP, rng_for(seed, "cell")), background
        )


def test_cytoplasm_is_paler_than_nuclei(background, stains):
    limit = 0.6 * stains.appearance.contrast[2]
    for seed in range(60):
        added = add_cytoplasm(background, LABELS, stains, MPP, rng_for(seed, "cell")) - background
        assert added[..., 0].max() <= limit + 1e-5


def test_cytoplasm_is_hematoxylin_on_some_patches(background, stains):
    """Nothing is taken away, and at most 0.6 of the typical contrast is added anywhere."""
    limit = 0.6 * stains.appearance.contrast[2]
    most, changed = 0.0, 0
    for seed in range(60):
        added = add_cytoplasm(background, LABELS, stains, MPP, rng_for(seed, "cell")) - background
        assert added.min() >= -1e-6
        most = max(most, float(added[..., 0].max()))
        changed += bool(np.any(added > 0.01))
        if added.any():
            strong = added[..., 0] > 0.02
            ratio = added[strong] / added[strong][:, :1]
            np.testing.assert_allclose(
                ratio, np.broadcast_to(stains.hematoxylin, ratio.shape), rtol=0.02, atol=1e-3
            )
    assert 12 < changed < 45  # some patches, not all
    assert 0.2 * limit < most <= 2 * limit


def test_cytoplasm_lies_around_nuclei(background, stains):
    one = paint_ellipses((SIDE, SIDE), [(20, 20)], 8, 8, [0.0])
    near = far = 0.0
    for seed in range(40):
        added = (add_cytoplasm(background, one, stains, MPP, rng_for(seed, "cell")) - background)[
            ..., 0
        ]
        near += float(added[10:30, 10:30].mean())
        far += float(added[70:, 70:].max())
    assert near > 0.1
    assert far < 0.01 * near


def test_the_generator_decides_all(background, stains):
    for add, about in ((add_cytoplasm, LABELS), (add_distractors, TISSUE)):
        results = []
        for seed in range(12):
            first, again = (
                add(background, about, stains, MPP, rng_for(seed, "draw")) for _ in range(2)
            )
            np.testing.assert_array_equal(first, again)
            results.append(first.tobytes())
        assert len(set(results)) > 1


def test_distractors_are_rare_and_leave_their_input_alone(background, stains):
    """The input is read-only: drawing into it would be an error."""
    before = background.copy()
    changed = []
    for seed in range(80):
        drawn = add_distractors(background, TISSUE, stains, MPP, rng_for(seed, "distract"))
        assert drawn.shape == background.shape
        assert np.isfinite(drawn).all()
        assert drawn.min() >= 0
        changed.append(not np.array_equal(drawn, background))
    np.testing.assert_array_equal(background, before)
    assert 0.05 < np.mean(changed) < 0.5


def only(monkeypatch, share):
    for name in SHARES:
        monkeypatch.setattr(module, name, float(name == share))


@pytest.mark.parametrize("share", SHARES)
def test_each_distractor_is_drawn(background, stains, monkeypatch, share):
    only(monkeypatch, share)
    measured = replace(
        stains, appearance=replace(stains.appearance, stains_measured=True, red_cell_fraction=0.0)
    )
    changed = [
        not np.array_equal(
            add_distractors(background, TISSUE, measured, MPP, rng_for(seed, "one")), background
        )
        for seed in range(24)
    ]
    # many specks of debris, 60 um apart, fall outside this patch of 48 um
    assert np.mean(changed) > 0.1
    if share == "FOLD_SHARE":
        assert all(changed)


@pytest.mark.parametrize("share", SHARES[1:])
def test_specks_and_folds_only_darken(background, stains, monkeypatch, share):
    only(monkeypatch, share)
    unmeasured = replace(stains, appearance=replace(stains.appearance, stains_measured=False))
    for seed in range(12):
        drawn = add_distractors(background, TISSUE, unmeasured, MPP, rng_for(seed, "dark"))
        assert (drawn >= background - 1e-6).all()


def test_a_fold_is_tissue_twice_at_most(background, stains, monkeypatch):
    """Every colour is as much darker as every other, by a factor that is 1 away from the fold."""
    only(monkeypatch, "FOLD_SHARE")
    unmeasured = replace(stains, appearance=replace(stains.appearance, stains_measured=False))
    for seed in range(12):
        factor = (
            add_distractors(background, TISSUE, unmeasured, MPP, rng_for(seed, "fold")) / background
        )
        np.testing.assert_allclose(factor[..., 0], factor[..., 2], rtol=1e-5)
        assert factor.max() < 2
        assert factor.min() < 1.1


def test_red_cells_need_measured_stains(background, stains, monkeypatch):
    only(monkeypatch, "RED_CELL_SHARE")
    guessed = replace(
        stains, appearance=replace(stains.appearance, stains_measured=False, red_cell_fraction=0.5)
    )
    for seed in range(12):
        np.testing.assert_array_equal(
            add_distractors(background, TISSUE, guessed, MPP, rng_for(seed, "blood")), background
        )


def test_nothing_is_drawn_on_glass(background, stains, monkeypatch):
    for share in ("PIGMENT_SHARE", "DEBRIS_SHARE"):
        only(monkeypatch, share)
        unmeasured = replace(stains, appearance=replace(stains.appearance, stains_measured=False))
        drawn = add_distractors(background, ~TISSUE, unmeasured, MPP, rng_for(0, "glass"))
        np.testing.assert_array_equal(drawn, background)


@pytest.mark.parametrize("eosin", [[0.07, 0.99, 0.11], [0.45, 0.85, 0.28]], ids=["red", "purple"])
def test_red_cells_are_red_whatever_the_eosin_is(stains, monkeypatch, eosin):
    """In a purple stain, cells of the colour of eosin would be taken for nuclei, and would teach
    that nuclei are none."""
    monkeypatch.setattr(module, "RED_CELL_SHARE", 1.0)
    for name in SHARES[1:]:
        monkeypatch.setattr(module, name, 0.0)
    matrix = np.array([stains.appearance.stain_matrix[0], eosin], np.float32)
    appearance = replace(
        stains.appearance, stains_measured=True, red_cell_fraction=1.0, stain_matrix=matrix
    )
    glass = np.zeros((*TISSUE.shape, 3), np.float32)
    dark = 0.0
    for seed in range(12):
        drawn = add_distractors(
            glass, TISSUE, replace(stains, appearance=appearance), MPP, rng_for(seed, "red")
        )
        dark = max(dark, float(drawn.max()))
        red, green, blue = drawn[drawn.max(axis=-1) > 0.2].T
        assert (red < 0.15 * green).all()
        if eosin[0] > 0.2:
            assert (blue > 0.45 * green).all()
    assert dark > 0.5


def test_ink_adds_one_colour(background):
    """Ink darkens, and all of it in one hue; each is near to one of the known inks."""
    for seed in range(40):
        drawn = background.copy()
        add_ink(drawn, MPP, rng_for(seed, "ink"))
        added = drawn - background
        assert added.min() >= -1e-5
        inked = added[added.sum(axis=-1) > 0.1]
        hue = inked / inked.sum(axis=-1, keepdims=True)
        assert hue.std(axis=0).max() < 1e-3
    inks = np.array(COLOURS)
    assert (inks[0].argmin(), inks[3].argmin()) == (1, 0)  # green and red ink pass their own light
