"""Nuclei lie on tissue, apart or slightly over each other, numbered in the order of depth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histocli.base.rng import rng_for
from histocli.instances.kinds import Kind
from histocli.instances.measurements import local_direction, measure
from histocli.synthesis.arrangement import ALL_DENSE, draw_arrangement
from histocli.synthesis.directions import STEP_PX, DirectionField
from histocli.synthesis.layout import Sites, place_nuclei
from histocli.synthesis.placement import LEAST_TISSUE, MOST_HIDDEN
from tests.synthesis.recipes import PLAIN_RECIPE
from tests.tissue import make_tissue, measure_morphology

MPP = 0.5
NOWHERE = Sites(*(np.zeros(0, np.float32) for _ in range(5)), np.zeros(0, np.int64))
TYPICAL = measure_morphology(np.zeros((8, 8), np.int32), np.ones((8, 8), bool), MPP)
INHABITED = replace(TYPICAL, n_nuclei=40, nuclear_fraction=0.2)
PLAIN = replace(
    draw_arrangement(TYPICAL, ALL_DENSE, rng_for(0, "plain")),
    coverage=0.25,
    area_um2=45.0,
    log_area_sd=0.3,
    large_share=0.0,
    large_factor=2.0,
    elongation=1.6,
    irregularity=0.03,
    direction_rad=0.4,
    direction_turn=0.0,
    direction_sharing=0.5,
    touching_share=0.3,
    in_place_share=0.0,
    restored_share=0.0,
    mixture=ALL_DENSE,
    crowds=0,
    clusters=0,
)


def place(arrangement=PLAIN, *, side=128, tissue=None, sites=NOWHERE, mpp=MPP, seed=0, fibres=None):
    if tissue is None:
        tissue = np.ones((side, side), bool)
    return place_nuclei(arrangement, tissue, sites, mpp, rng_for(seed, "place"), fibres)


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([33, 64, 100]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.floats(0, 0.8),
)
def test_ids_are_consecutive_and_every_nucleus_is_one_piece(seed, side, mpp, touching):
    layout = place(
        replace(PLAIN, touching_share=touching, coverage=0.5), side=side, mpp=mpp, seed=seed
    )
    labels = layout.instance_labels
    assert labels.dtype == np.int32
    assert set(np.unique(labels[labels > 0])) == set(range(1, len(layout.outlines) + 1))
    assert labels.min() >= -1
    for k in range(1, len(layout.outlines) + 1):
        assert ndimage.label(labels == k)[1] == 1


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_later_nuclei_hide_little_of_earlier_ones(seed):
    """The full area of a nucleus is that of its outline, drawn where nothing cuts it."""
    layout = place(replace(PLAIN, touching_share=0.8, coverage=0.6), side=160, seed=seed)
    measured = measure(layout.instance_labels, MPP)
    for k, outline in enumerate(layout.outlines):
        if not measured.touches_border[k]:
            full = (
                0.5
                * np.sum(outline.radii_px.astype(float) ** 2)
                * 2
                * np.pi
                / len(outline.radii_px)
                * MPP**2
            )
            # of a pixel around the rim
            assert measured.area_um2[k] > (1 - MOST_HIDDEN) * full - 4 * MPP * np.sqrt(full)
            assert measured.area_um2[k] < 1.15 * full + 2


def test_nothing_lies_on_glass():
    tissue = np.ones((128, 128), bool)
    tissue[:, :50] = False
    at_the_edge = 0
    for seed in range(12):
        labels = place(replace(PLAIN, touching_share=0.0), tissue=tissue, seed=seed).instance_labels
        assert labels[:, 60:].max() > 0
        assert labels[:, :30].max() == 0
        nuclei = measure(labels, MPP)
        for k in nuclei.id[~nuclei.touches_other]:  # of these no part is hidden
            assert tissue[labels == k].mean() >= LEAST_TISSUE
            at_the_edge += not tissue[labels == k].all()
    assert at_the_edge > 3
    assert place(tissue=np.zeros((64, 64), bool)).outlines == []


@pytest.mark.parametrize("coverage", [0.05, 0.2, 0.4])
def test_the_coverage_is_near_the_aim(coverage):
    shares = [
        (place(replace(PLAIN, coverage=coverage), seed=seed).instance_labels > 0).mean()
        for seed in range(5)
    ]
    assert np.mean(shares) == pytest.approx(coverage, rel=0.25)


def test_the_generator_decides_all():
    first, again, other = (place(seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.instance_labels, again.instance_labels)
    np.testing.assert_array_equal(first.depth_px, again.depth_px)
    assert (first.instance_labels != other.instance_labels).any()


def test_neighbours_share_their_direction_as_much_as_asked():
    sharing = {
        share: np.mean(
            [
                local_direction(
                    measure(
                        place(
                            replace(PLAIN, direction_sharing=share, elongation=2.2),
                            side=256,
                            seed=seed,
                        ).instance_labels,
                        MPP,
                    )
                )
                for seed in range(3)
            ]
        )
        for share in (0.0, 0.98)
    }
    assert sharing[0.98] > 0.85
    assert sharing[0.0] < 0.4


def test_nuclei_touch_as_often_as_asked():
    def touching(share):
        layouts = (
            place(replace(PLAIN, touching_share=share, coverage=0.1), seed=seed)
            for seed in range(8)
        )
        return np.mean(
            np.concatenate(
                [measure(layout.instance_labels, MPP).touches_other for layout in layouts]
            )
        )

    assert touching(0.0) < 0.3  # some meet by chance
    assert touching(0.8) > touching(0.0) + 0.3


def test_sizes_spread_as_asked():
    def areas(**changes):
        layouts = (
            place(replace(PLAIN, touching_share=0, coverage=0.2, **changes), side=192, seed=seed)
            for seed in range(4)
        )
        found = [measure(layout.instance_labels, MPP) for layout in layouts]
        return np.concatenate([each.area_um2[~each.touches_border] for each in found])

    even, uneven, two_kinds = (
        areas(log_area_sd=0.02),
        areas(log_area_sd=0.5),
        areas(log_area_sd=0.02, large_share=0.5, large_factor=2.5),
    )
    assert np.median(even) == pytest.approx(45, rel=0.08)
    assert np.log(even).std() < 0.12
    assert np.log(uneven).std() > 0.3
    assert ((two_kinds > 90) & (two_kinds < 130)).mean() > 0.25
    assert ((two_kinds > 38) & (two_kinds < 52)).mean() > 0.25


def test_sites_of_the_reference_are_used():
    y, x = (side.ravel().astype(np.float32) for side in np.mgrid[20:120:25, 20:120:25])
    sites = Sites(
        y, x, *(np.full(len(y), value, np.float32) for value in (0, 30, 1.5)), np.full(len(y), -1)
    )
    arrangement = replace(PLAIN, in_place_share=1.0, coverage=0.2, log_area_sd=0.1)
    found = measure(place(arrangement, sites=sites).instance_labels, MPP)
    apart = np.hypot(found.y_px[:, None] - y, found.x_px[:, None] - x).min(axis=1)
    assert np.median(apart) * MPP < 2.5
    # beside no sites, nuclei lie anywhere
    free = measure(place(arrangement).instance_labels, MPP)
    assert (
        np.median(np.hypot(free.y_px[:, None] - y, free.x_px[:, None] - x).min(axis=1)) * MPP > 2.5
    )


def test_coordinates_inside_a_nucleus_follow_its_ellipse():
    layout = place(replace(PLAIN, irregularity=0.0, touching_share=0, coverage=0.1), side=200)
    labels = layout.instance_labels
    whole = measure(labels, MPP)
    for k in whole.id[~whole.touches_border & ~whole.touches_other]:
        inside = labels == k
        radius = np.hypot(layout.frame_u[inside], layout.frame_v[inside])
        assert radius.max() < 1.15
        assert radius.max() > 0.8
        depth = layout.depth_px[inside]
        assert radius[depth.argmax()] < 0.7
        assert np.corrcoef(radius, depth)[0, 1] < -0.85
    assert (layout.depth_px[labels == 0] == 0).all()


def test_what_is_drawn_follows_what_was_measured():
    """Over many patches, the aims of dense tissue are denser than those of sparse tissue, and
    larger nuclei stay larger."""

    def aims(**changes):
        tissue = make_tissue(192, **changes)
        morphology = measure_morphology(tissue.labels, np.ones(tissue.labels.shape, bool), MPP)
        return [draw_arrangement(morphology, ALL_DENSE, rng_for(seed, "aim")) for seed in range(60)]

    base, sparse, large, parallel = (
        aims(),
        aims(spacing_um=28),
        aims(area_um2=100),
        aims(angle=0.3, elongation=2.0),
    )
    assert np.mean([a.coverage for a in sparse]) < 0.5 * np.mean([a.coverage for a in base])
    assert np.median([a.area_um2 for a in large]) > 1.5 * np.median([a.area_um2 for a in base])
    assert (
        np.mean([a.direction_sharing for a in parallel])
        > np.mean([a.direction_sharing for a in base]) + 0.2
    )
    assert np.mean([a.elongation for a in parallel]) > np.mean([a.elongation for a in base]) + 0.2
    for aim in base + sparse + large + parallel:
        assert 0 < aim.coverage < 1
        assert 0 <= aim.direction_sharing < 1
        assert 0 <= aim.touching_share <= 1
        assert sum(aim.mixture) == pytest.approx(1)


def test_restored_nuclei_are_those_of_the_reference_again():
    y, x = (side.ravel().astype(np.float32) for side in np.mgrid[20:120:25, 20:120:25])
    area, elongation = (
        np.linspace(30, 60, len(y)).astype(np.float32),
        np.full(len(y), 1.8, np.float32),
    )
    turned = np.linspace(-1.4, 1.4, len(y)).astype(np.float32)
    textures = np.arange(len(y))
    sites = Sites(y, x, turned, area, elongation, textures)
    arrangement = replace(
        PLAIN,
        in_place_share=1.0,
        restored_share=1.0,
        coverage=0.1,
        touching_share=0.0,
        margin_um=0.0,
    )
    layout = place(arrangement, sites=sites)
    own = np.asarray(layout.own_textures)
    assert (own >= 0).all()
    found = measure(layout.instance_labels, MPP)
    assert np.hypot(found.y_px - y[own], found.x_px - x[own]).max() < 2
    assert np.abs(np.log(found.area_um2 / area[own])).max() < 0.25
    assert np.abs(np.sin(found.orientation_rad - turned[own])).max() < 0.25
    # without the cause, no texture is bound to a place
    assert set(place(replace(arrangement, restored_share=0.0), sites=sites).own_textures) == {-1}


def only(kind):
    return tuple(float(each is kind) for each in Kind)


def test_kinds_come_in_the_shares_asked_for():
    mixture = tuple(0.5 * float(kind in (Kind.DENSE, Kind.SPINDLE)) for kind in Kind)
    kinds = []
    for seed in range(6):
        layout = place(replace(PLAIN, mixture=mixture), side=160, seed=seed)
        assert len(layout.kinds) == len(layout.outlines)
        kinds += layout.kinds
    assert set(kinds) == {Kind.DENSE, Kind.SPINDLE}
    assert np.mean(np.equal(kinds, Kind.SPINDLE)) == pytest.approx(0.5, abs=0.12)


def test_kinds_differ_in_size_and_shape():
    """Measured on the labels, against dense nuclei of 45 um2."""

    def shapes(kind):
        layouts = (
            place(
                replace(
                    PLAIN, mixture=only(kind), touching_share=0, coverage=0.15, log_area_sd=0.05
                ),
                side=192,
                seed=seed,
            )
            for seed in range(3)
        )
        found = [measure(layout.instance_labels, MPP) for layout in layouts]
        area, elongation = (
            np.concatenate([getattr(each, name)[~each.touches_border] for each in found])
            for name in ("area_um2", "elongation")
        )
        return np.median(area), np.median(elongation)

    dense, vesicular, spindle, lymphocyte, apoptotic = (
        shapes(kind)
        for kind in (Kind.DENSE, Kind.VESICULAR, Kind.SPINDLE, Kind.LYMPHOCYTE, Kind.APOPTOTIC)
    )
    assert dense[0] == pytest.approx(45, rel=0.1)
    assert vesicular[0] > 1.15 * dense[0]
    assert spindle[1] > 2.2 > 1.9 > dense[1]
    assert lymphocyte[0] == pytest.approx(28, rel=0.15)
    assert lymphocyte[1] < 1.4
    assert apoptotic[0] < 20


def test_spindles_lie_along_fibres_and_round_nuclei_do_not():
    def alignment(kind, fibres):
        """Cosine of twice the angle between nuclei and the fibres at 0.7: 1 is along, 0 is any
        way."""
        found = [
            measure(
                place(
                    replace(PLAIN, mixture=only(kind), touching_share=0),
                    side=160,
                    seed=seed,
                    fibres=fibres,
                ).instance_labels,
                MPP,
            )
            for seed in range(3)
        ]
        return np.mean(
            np.cos(
                2
                * (
                    np.concatenate([each.orientation_rad[~each.touches_border] for each in found])
                    - 0.7
                )
            )
        )

    coarse = (160 // STEP_PX, 160 // STEP_PX)
    field = DirectionField(np.full(coarse, 0.7, np.float32), np.full(coarse, 0.9, np.float32))
    vague = replace(field, coherence=np.full(coarse, 0.05, np.float32))
    assert alignment(Kind.SPINDLE, field) > 0.8
    for loose in (vague, None):
        assert alignment(Kind.SPINDLE, loose) < 0.65
    assert alignment(Kind.LYMPHOCYTE, field) < 0.65


def test_crowds_and_clusters_are_added_where_asked():
    alone = place(replace(PLAIN, coverage=0.01), side=160)
    assert len(alone.outlines) < 5
    crowded = [
        place(replace(PLAIN, coverage=0.01, crowds=2), side=160, seed=seed) for seed in range(6)
    ]
    assert np.median([len(layout.outlines) for layout in crowded]) > 12
    infiltrated = [
        place(replace(PLAIN, coverage=0.01, clusters=1), side=160, seed=seed) for seed in range(6)
    ]
    assert (
        np.mean(np.concatenate([np.equal(layout.kinds, Kind.LYMPHOCYTE) for layout in infiltrated]))
        > 0.7
    )


def test_what_the_recipe_leaves_out_is_not_aimed_at():
    mixture = tuple(np.full(len(Kind), 1 / len(Kind)).tolist())
    plain = [
        draw_arrangement(TYPICAL, mixture, rng_for(seed, "aim"), PLAIN_RECIPE) for seed in range(40)
    ]
    assert {(aim.crowds, aim.clusters, aim.mixture) for aim in plain} == {(0, 0, ALL_DENSE)}
    full = [draw_arrangement(INHABITED, mixture, rng_for(seed, "aim")) for seed in range(40)]
    assert {aim.crowds for aim in full} >= {0, 1}
    assert {aim.clusters for aim in full} == {0, 1}
    for aim in full:
        assert sum(aim.mixture) == pytest.approx(1)
        assert min(aim.mixture) >= 0
    # the mixture of patches follows the reference's, and varies widely around it
    spindly = tuple(0.5 * float(kind in (Kind.DENSE, Kind.SPINDLE)) for kind in Kind)
    drawn = [
        draw_arrangement(TYPICAL, spindly, rng_for(seed, "aim")).mixture[Kind.SPINDLE]
        for seed in range(60)
    ]
    assert np.mean(drawn) > np.mean([aim.mixture[Kind.SPINDLE] for aim in full]) + 0.15
    assert np.std(drawn) > 0.1
