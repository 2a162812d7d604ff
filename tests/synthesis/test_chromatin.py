"""How nuclei look follows their kind."""

from dataclasses import replace

import numpy as np
import pytest

from histocli.base.rng import rng_for
from histocli.instances.kinds import Kind
from histocli.synthesis.chromatin import (
    draw_appearances,
    draw_grain,
    draw_nucleoli,
    hematoxylin_direction,
)
from histocli.synthesis.painting import COLUMNS
from histocli.synthesis.placement import Layout
from histocli.synthesis.recipe import FULL_RECIPE
from histocli.synthesis.shapes import draw_outline
from tests.synthesis.recipes import PLAIN_RECIPE, without
from tests.tissue import paint_ellipses

SIDE = 96
CENTRES = [(y, x) for y in (16, 48, 80) for x in (16, 48, 80)]


def layout_of(kinds, own=-1):
    """Nine disks of radius 10, of the kinds given in turn."""
    labels = paint_ellipses((SIDE, SIDE), CENTRES, 10, 10, [0.0] * 9)
    frame_u, frame_v = np.zeros((2, SIDE, SIDE), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, (cy, cx) in enumerate(CENTRES, start=1):
        inside = labels == number
        frame_u[inside], frame_v[inside] = ((x - cx) / 10)[inside], ((y - cy) / 10)[inside]
    depth = np.where(labels > 0, 10 * (1 - np.hypot(frame_u, frame_v)), 0).astype(np.float32)
    outline = draw_outline(np.pi * 100, 1.0, 0.0, 0.0, rng_for(0, "outline"))
    return Layout(
        labels,
        depth,
        frame_u,
        frame_v,
        [outline] * 9,
        [own] * 9,
        [kinds[k % len(kinds)] for k in range(9)],
    )


def looks(reference, kinds, seed=0, recipe=FULL_RECIPE, own=-1):
    background = np.full((SIDE, SIDE, 3), 0.15, np.float32)
    hematoxylin = hematoxylin_direction(reference)
    return draw_appearances(
        reference, layout_of(kinds, own), background, hematoxylin, recipe, rng_for(seed, "look")
    )


def column(reference, kind, name, seeds=12, **changes):
    return np.concatenate(
        [
            looks(reference, [kind], seed, **changes).table[1:, COLUMNS.index(name)]
            for seed in range(seeds)
        ]
    )


def test_each_kind_has_its_looks(reference):
    recipe = without("pale")
    dense, vesicular = (
        column(reference, kind, "core", recipe=recipe) for kind in (Kind.DENSE, Kind.VESICULAR)
    )
    assert dense.min() >= 0.85
    assert vesicular.max() <= 0.75
    soft, sharp = (
        column(reference, kind, "softness_px", recipe=recipe) for kind in (Kind.BLURRED, Kind.DENSE)
    )
    assert soft.min() >= 0.35 / reference.mpp - 1e-5
    assert sharp.max() == 0
    strength = {
        kind: np.median(column(reference, kind, "strength", recipe=recipe))
        for kind in (Kind.DENSE, Kind.BLURRED, Kind.LYMPHOCYTE, Kind.APOPTOTIC)
    }
    assert (
        strength[Kind.BLURRED]
        < strength[Kind.DENSE]
        < strength[Kind.LYMPHOCYTE]
        < strength[Kind.APOPTOTIC]
    )


def test_without_chromatin_kinds_of_the_layout_do_not_matter(reference):
    recipe = without("chromatin")
    for seed in range(4):
        first, second = (
            looks(reference, [kind], seed, recipe) for kind in (Kind.APOPTOTIC, Kind.BLURRED)
        )
        np.testing.assert_array_equal(first.table, second.table)


def test_pale_nuclei_come_with_their_component_only(reference):
    """Without it no dense nucleus is fainter than 0.3."""
    with_pale = column(reference, Kind.DENSE, "strength", 30)
    bright = column(reference, Kind.DENSE, "strength", 30, recipe=without("pale"))
    assert bright.min() >= 0.3 - 1e-6
    assert 0.01 < (with_pale < 0.3).mean() < 0.2


def test_restored_nuclei_look_as_they_did(reference):
    """They keep their own texture and colour, whatever kind is drawn."""
    clean = int(np.flatnonzero(reference.textures.single)[0])
    for kind in (Kind.DENSE, Kind.VESICULAR, Kind.APOPTOTIC):
        found = looks(reference, [kind], recipe=without("chromatin"), own=clean)
        assert len(found.textures) == 1
        np.testing.assert_array_equal(found.textures[0], reference.textures.residual[clean])
        assert (found.table[1:, COLUMNS.index("core")] == 1).all()
        assert (found.table[1:, COLUMNS.index("texture_gain")] == 1).all()
        assert (found.table[1:, COLUMNS.index("clearing")] == 0).all()
        colour = found.table[1:, :3]
        ratio = colour / reference.textures.colour[clean]
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-4)
        assert np.abs(np.log(ratio)).max() < 0.3


def test_restored_nuclei_are_even_inside_whatever_their_kind(reference):
    clean = int(np.flatnonzero(reference.textures.single)[0])
    found = looks(reference, list(Kind), own=clean).table[1:]
    for name, value in (("core", 1), ("clearing", 0), ("softness_px", 0), ("texture_gain", 1)):
        assert (found[:, COLUMNS.index(name)] == value).all(), name


@pytest.mark.parametrize("noisy", [True, False])
def test_where_no_nucleus_is_clean_noise_stands_in(reference, noisy):
    """The noise has the measured spread; without the component, textures of fragments are used."""
    fragments = replace(reference.textures, single=np.zeros_like(reference.textures.single))
    broken = replace(reference, textures=fragments)
    found = looks(broken, [Kind.DENSE], recipe=FULL_RECIPE if noisy else without("noise_textures"))
    real = {frame.tobytes() for frame in reference.textures.residual}
    assert all((frame.tobytes() in real) is not noisy for frame in found.textures)
    if noisy:
        expected = reference.statistics.appearance.grain_sd * max(
            0.2, hematoxylin_direction(broken)[0]
        )
        assert found.textures[:, 0].std() == pytest.approx(expected, rel=0.05)


def test_a_patch_without_nuclei_has_an_empty_table(reference):
    nothing = np.zeros((SIDE, SIDE), np.float32)
    layout = Layout(nothing.astype(np.int32), nothing, nothing, nothing, [], [], [])
    background = np.zeros((SIDE, SIDE, 3), np.float32)
    found = draw_appearances(
        reference, layout, background, np.ones(3, np.float32), PLAIN_RECIPE, rng_for(0, "look")
    )
    assert found.table.shape == (1, len(COLUMNS))
    assert found.ghosts.tolist() == [False]
    assert draw_nucleoli(layout, found.table, rng_for(0, "nucleoli")).max() == 0


def test_ghosts_are_those_that_hardly_show(reference):
    """On a background as dark as nuclei none can be told; on a pale one, hardly any is lost."""
    layout = layout_of([Kind.DENSE])
    recipe = replace(PLAIN_RECIPE, chromatin=True)

    def lost(density):
        background = np.full((SIDE, SIDE, 3), density, np.float32)
        hematoxylin = hematoxylin_direction(reference)
        found = [
            draw_appearances(
                reference, layout, background, hematoxylin, recipe, rng_for(seed, "ghost")
            )
            for seed in range(8)
        ]
        assert not any(each.ghosts[0] for each in found)
        return np.mean([each.ghosts[1:].mean() for each in found])

    assert lost(3.0) == 1
    assert lost(0.05) < 0.1


def test_nucleoli_lie_in_pale_nuclei_only():
    layout = layout_of([Kind.DENSE, Kind.VESICULAR])
    table = np.zeros((10, len(COLUMNS)), np.float32)
    table[:, COLUMNS.index("core")] = [1, *(0.9 if k % 2 == 0 else 0.3 for k in range(9))]
    total = sum(draw_nucleoli(layout, table, rng_for(seed, "nucleoli")) for seed in range(5))
    dense = np.isin(layout.instance_labels, [1, 3, 5, 7, 9])
    assert total[dense | (layout.instance_labels == 0)].max() == 0
    for number in (2, 4, 6, 8):
        assert total[layout.instance_labels == number].max() > 0.9


def test_grain_has_unit_spread_and_is_as_fine_at_any_pixel_size():
    for seed in range(3):
        grain = draw_grain(128, 0.25, rng_for(seed, "grain"))
        assert grain.std() == pytest.approx(1, abs=1e-3)
        assert abs(grain.mean()) < 0.1

    def likeness(mpp):
        """Correlation of neighbours 0.5 um apart."""
        step = round(0.5 / mpp)
        grains = [draw_grain(128, mpp, rng_for(seed, "grain")) for seed in range(20)]
        return np.mean([(grain[:, step:] * grain[:, :-step]).mean() for grain in grains])

    assert likeness(0.125) == pytest.approx(likeness(0.25), abs=0.1)
    assert likeness(0.25) > 0.2
