"""Nuclei of a crowd end where their neighbours begin.

Outlines are rasterised by scikit-image, pixel centre by pixel centre, which shares no code with the
synthesis.
"""

from dataclasses import replace

import numpy as np
import pytest
from skimage.draw import polygon

from histocli.base.rng import rng_for
from histocli.instances.kinds import Kind
from histocli.synthesis.crowds import (
    LARGEST_CROWD,
    LEAST_LEFT,
    Member,
    plan_epithelium,
    plan_lymphocytes,
    press,
)
from histocli.synthesis.shapes import ANGLES, draw_outline

SIDE, MPP = 160, 0.5


def member(y, x, radius=10.0, elongation=1.0, direction=0.0):
    outline = draw_outline(np.pi * radius**2, elongation, direction, 0.0, rng_for(0, "outline"))
    return Member(outline, float(y), float(x), Kind.DENSE)


def rasterise(members, side=SIDE):
    """Return how many outlines cover each pixel."""
    count = np.zeros((side, side), int)
    for each in members:
        radii = each.outline.radii_px.astype(float)
        count[
            polygon(
                each.y_px + radii * np.sin(ANGLES), each.x_px + radii * np.cos(ANGLES), count.shape
            )
        ] += 1
    return count


def area_px(each):
    """Area of the polygon, by the shoelace formula."""
    x, y = each.outline.radii_px * np.cos(ANGLES), each.outline.radii_px * np.sin(ANGLES)
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def scattered(seed, elongation, n=25):
    rng = rng_for(seed, "scattered")
    found = []
    for _ in range(n):
        area = 400 * float(np.exp(rng.normal(0, 0.3)))
        outline = draw_outline(area, elongation, float(rng.uniform(-2, 2)), 0.04, rng)
        found.append(
            Member(
                outline,
                float(rng.uniform(25, SIDE - 25)),
                float(rng.uniform(25, SIDE - 25)),
                Kind.DENSE,
            )
        )
    return found


@pytest.mark.parametrize("gap", [0.0, 0.1])
@pytest.mark.parametrize("elongation", [1.0, 1.3, 3.0])
def test_what_is_pressed_does_not_overlap(elongation, gap):
    before = after = 0
    for seed in range(8):
        members = scattered(seed, elongation)
        before += int((rasterise(members) > 1).sum())
        after += int((rasterise(press(members, gap)) > 1).sum())
    assert before > 10_000
    assert after == 0


def test_two_equal_nuclei_end_halfway_between_them():
    """The gap is that share of the distance of their centres."""
    for gap in (0.0, 0.2):
        left, right = press([member(80, 70), member(80, 86)], gap)
        assert left.outline.radius_towards(0.0) == pytest.approx(8 * (1 - gap / 2), rel=0.01)
        assert right.outline.radius_towards(np.pi) == pytest.approx(8 * (1 - gap / 2), rel=0.01)
        # on their far sides they are as they were
        assert left.outline.radius_towards(np.pi) == pytest.approx(10, rel=1e-3)
        assert right.outline.radius_towards(0.0) == pytest.approx(10, rel=1e-3)


def test_the_larger_nucleus_keeps_more():
    small, large = press([member(80, 70, radius=8), member(80, 84, radius=12)], 0.0)
    assert large.outline.radius_towards(np.pi) / small.outline.radius_towards(0.0) == pytest.approx(
        12 / 8, rel=0.02
    )


def test_far_neighbours_are_left_alone():
    """Those that nothing reaches keep their outline to the last bit, beside others that are
    pressed."""
    members = [member(30, 30), member(30, 44), member(120, 120), member(120, 142), member(30, 120)]
    pressed = press(members, 0.2)
    assert len(pressed) == len(members)
    for before, after in zip(members[2:], pressed[2:], strict=True):
        np.testing.assert_allclose(after.outline.radii_px, before.outline.radii_px, rtol=1e-6)
    for before, after in zip(members[:2], pressed[:2], strict=True):
        assert area_px(after) < 0.97 * area_px(before)
    alone = press([members[0], members[2]], 0.2)
    assert alone == [members[0], members[2]]
    assert press([], 0.2) == []


def test_order_places_and_kinds_are_kept():
    members = [
        replace(each, kind=Kind(k % len(Kind))) for k, each in enumerate(scattered(3, 1.2, n=12))
    ]
    pressed = press(members, 0.05)
    places = [(each.y_px, each.x_px, each.kind) for each in members]
    kept = [(each.y_px, each.x_px, each.kind) for each in pressed]
    assert kept == [place for place in places if place in kept]
    assert len(kept) > 4


def test_slivers_are_left_out():
    """A nucleus in the midst of close ones keeps hardly anything of its area; its neighbours
    stay."""
    ring = [
        member(80 + 12 * np.sin(angle), 80 + 12 * np.cos(angle), radius=12)
        for angle in np.arange(6) * np.pi / 3
    ]
    middle = member(80, 80, radius=12)
    kept = press([*ring[:3], middle, *ring[3:]], 0.0)
    assert (80.0, 80.0) not in {(each.y_px, each.x_px) for each in kept}
    for seed in range(6):
        members = scattered(seed, 1.3, n=40)
        whole = {(each.y_px, each.x_px): area_px(each) for each in members}
        pressed = press(members, 0.0)
        assert len(pressed) < len(members)
        for each in pressed:
            assert area_px(each) > 0.95 * LEAST_LEFT * whole[each.y_px, each.x_px]


def plan(form, seed):
    rng = rng_for(seed, form)
    if form == "lymphocytes":
        return plan_lymphocytes((SIDE, SIDE), MPP, rng)
    return plan_epithelium((SIDE, SIDE), 50 / MPP**2, 0.2, 1.5, Kind.VESICULAR, rng)


@pytest.mark.parametrize("form", ["epithelium", "lymphocytes"])
def test_the_generator_decides_all(form):
    first, again, other = plan(form, 1), plan(form, 1), plan(form, 2)
    assert len(first) > 3
    assert [(each.y_px, each.x_px) for each in first] == [(each.y_px, each.x_px) for each in again]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.outline.radii_px, two.outline.radii_px)
    assert [(each.y_px, each.x_px) for each in first] != [(each.y_px, each.x_px) for each in other]


@pytest.mark.parametrize(
    ("form", "kind", "typical"),
    [("epithelium", Kind.VESICULAR, 50), ("lymphocytes", Kind.LYMPHOCYTE, 28)],
)
def test_sizes_are_those_of_the_kind(form, kind, typical):
    """Pressing takes some of the area that was asked for, and adds none."""
    areas = []
    for seed in range(20):
        members = plan(form, seed)
        assert len(members) <= LARGEST_CROWD
        assert {each.kind for each in members} <= {kind}
        areas += [area_px(each) * MPP**2 for each in members]
    assert 0.6 * typical < np.median(areas) < 1.1 * typical
    assert min(areas) > 0.2 * typical
    assert max(areas) < 2.5 * typical


@pytest.mark.parametrize("form", ["epithelium", "lymphocytes"])
def test_crowds_are_dense(form):
    """Somewhere in each crowd that lies in the patch, nuclei cover most of a window some nuclei
    wide."""
    densest = []
    for seed in range(12):
        covered = rasterise(plan(form, seed)) > 0
        windows = covered.reshape(4, SIDE // 4, 4, SIDE // 4).mean(axis=(1, 3))  # of 20 um
        densest.append(windows.max())
    assert np.median(densest) > 0.3
