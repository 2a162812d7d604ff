"""Patches: labels and picture tell the same, each patch for itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from histocli.base.rng import rng_for
from histocli.instances.kinds import Kind
from histocli.optics.density import optical_density_to_rgb, rgb_to_optical_density
from histocli.reference.statistics import analyse_reference
from histocli.synthesis import chromatin
from histocli.synthesis import patch as module
from histocli.synthesis.patch import draw_patch, paint_patches
from histocli.synthesis.recipe import FULL_RECIPE
from tests.synthesis.recipes import COMPONENTS, without
from tests.tissue import make_tissue

CPU = torch.device("cpu")
SIDE = 64


def draw(reference, index=0, side=SIDE, seed=0, recipe=FULL_RECIPE):
    return draw_patch(reference, side, rng_for(seed, "patch", index), recipe)


@pytest.fixture(scope="module")
def drawings(reference):
    return [draw(reference, index) for index in range(8)]


@pytest.fixture(scope="module")
def images(drawings):
    return paint_patches(drawings, CPU)


def bare(drawing):
    """Return the background of a drawing as the picture shows it."""
    return optical_density_to_rgb(drawing.background, drawing.white)


def check_labels(labels):
    assert labels.dtype == np.int32
    assert set(np.unique(labels)) - {-1, 0} == set(range(1, labels.max() + 1))
    assert labels.min() >= -1


def test_patch_i_does_not_know_its_neighbours(drawings, images):
    for index, drawing in enumerate(drawings):
        alone = paint_patches([drawing], CPU)[0]
        assert np.abs(alone.astype(int) - images[index]).max() <= 1
    turned = paint_patches(drawings[::-1], CPU)[::-1]
    assert np.abs(turned.astype(int) - images).max() <= 1


def test_patch_i_depends_on_seed_reference_and_i_only(reference, drawings):
    again = draw(reference, 3)
    np.testing.assert_array_equal(again.instance_labels, drawings[3].instance_labels)
    np.testing.assert_array_equal(again.nuclei, drawings[3].nuclei)
    np.testing.assert_array_equal(again.background, drawings[3].background)
    assert (draw(reference, 3, seed=1).instance_labels != again.instance_labels).any()
    assert (draw(reference, 4).instance_labels != again.instance_labels).any()


@pytest.mark.parametrize(
    ("side", "mpp", "reference_side"),
    [(64, 0.5, 128), (33, 1.0, 128), (100, 0.25, 256), (256, 0.5, 40), (64, 2.0, 100)],
)
def test_any_size_and_any_pixel_size(side, mpp, reference_side):
    """Also a reference that is smaller than the patch."""
    reference = analyse_reference(
        make_tissue(reference_side, mpp).image, mpp, "r", rng_for(0, "analyse")
    )
    drawing = draw(reference, side=side)
    image = paint_patches([drawing], CPU)
    assert image.shape == (1, side, side, 3)
    assert image.dtype == np.uint8
    assert drawing.instance_labels.shape == (side, side)
    check_labels(drawing.instance_labels)
    assert drawing.instance_labels.max() >= 1


def test_ids_are_consecutive_and_the_rest_is_background_or_ignored(drawings):
    for drawing in drawings:
        check_labels(drawing.instance_labels)
        assert drawing.instance_labels.max() >= 1
        # a label lies on a drawn nucleus, and each drawn nucleus has one label or is ignored
        assert (drawing.layout.instance_labels[drawing.instance_labels > 0] > 0).all()
        for k in range(1, drawing.instance_labels.max() + 1):
            assert len(np.unique(drawing.layout.instance_labels[drawing.instance_labels == k])) == 1


def test_nuclei_are_darker_in_red_than_what_they_cover(drawings, images):
    for drawing, image in zip(drawings, images, strict=True):
        inside = drawing.instance_labels > 0
        covered = rgb_to_optical_density(bare(drawing))[inside, 0].mean()
        assert rgb_to_optical_density(image)[inside, 0].mean() > covered + 0.1


def test_away_from_nuclei_the_picture_is_the_background(drawings, images):
    for drawing, image in zip(drawings, images, strict=True):
        away = ndimage.distance_transform_edt(drawing.layout.instance_labels <= 0) > 6
        assert away.any()
        assert np.abs(image[away].astype(int) - bare(drawing)[away]).max() <= 1


def test_without_nuclei_the_picture_is_the_background(reference, glass, monkeypatch):
    drawing = draw(glass)
    assert drawing.instance_labels.max() == 0
    assert paint_patches([drawing], CPU).min() >= 254
    original = module.draw_arrangement
    monkeypatch.setattr(
        module, "draw_arrangement", lambda *given: replace(original(*given), coverage=0.0, crowds=0)
    )
    # red cells, pigment, debris and folds are drawn into the background
    drawing = draw(reference, recipe=without("distractors"))
    assert drawing.instance_labels.max() == 0
    assert np.abs(paint_patches([drawing], CPU)[0].astype(int) - bare(drawing)).max() <= 1
    # ...and the background is a piece of the reference, turned or mirrored
    palette = {tuple(values) for values in reference.background.reshape(-1, 3).round(4).tolist()}
    assert {
        tuple(values) for values in drawing.background[::9, ::9].reshape(-1, 3).round(4).tolist()
    } <= palette


def test_patches_with_and_without_nuclei_share_a_batch(reference, glass):
    together = paint_patches([draw(glass), draw(reference), draw(glass, 1)], CPU)
    assert together[0].min() >= 254
    assert together[2].min() >= 254
    assert np.abs(together[1].astype(int) - paint_patches([draw(reference)], CPU)[0]).max() <= 1


@pytest.mark.parametrize("recipe", [without("crowds"), FULL_RECIPE], ids=["without crowds", "full"])
def test_a_reference_without_nuclei_lends_its_background(empty_reference, recipe):
    """Its nuclei, if any, are drawn in the colour of hematoxylin."""
    drawings = [draw(empty_reference, index, recipe=recipe) for index in range(6)]
    painted = paint_patches(drawings, CPU)
    for drawing, image in zip(drawings, painted, strict=True):
        check_labels(drawing.instance_labels)
        inside = drawing.instance_labels > 0
        assert inside.mean() < 0.15
        if inside.any():
            density = rgb_to_optical_density(image)[inside].mean(axis=0)
            assert density[0] > rgb_to_optical_density(bare(drawing))[inside, 0].mean() + 0.05


def test_nothing_lies_on_empty_glass():
    reference = analyse_reference(make_tissue(glass=True).image, 0.5, "r", rng_for(0, "analyse"))
    for index in range(12):
        drawing = draw(reference, index)
        nuclei = drawing.layout.instance_labels > 0
        # the mask of tissue is smoothed over a cell, so that a rim of glass beside tissue counts as
        # tissue
        glass = ndimage.minimum_filter(drawing.background.max(axis=-1) < 0.1, 15)
        assert nuclei[glass].sum() <= 0.02 * max(1, nuclei.sum())


def test_what_may_be_a_missed_nucleus_is_ignored_unless_covered(reference):
    doubtful = replace(reference, ignored=np.ones_like(reference.ignored))
    drawing = draw(doubtful)
    assert (drawing.instance_labels != 0).all()
    assert (drawing.instance_labels > 0).any()


def test_nuclei_too_pale_to_call_are_ignored(reference, monkeypatch):
    monkeypatch.setattr(chromatin, "LEAST_CONTRAST", 100.0)
    drawing = draw(reference)
    assert drawing.instance_labels.max() == 0
    assert (drawing.instance_labels[drawing.layout.instance_labels > 0] == -1).all()


def test_sites_turn_and_mirror_with_the_crop():
    """Nuclei of the reference lie where the crop, taken before they were removed, is dark."""
    tissue = make_tissue(192, elongation=2.2)
    reference = analyse_reference(tissue.image, 0.5, "r", rng_for(0, "analyse"))
    dark = replace(reference, background=rgb_to_optical_density(tissue.image))
    shapes = set()
    for index in range(16):
        crop = module._crop(dark, SIDE, rng_for(0, "crop", index))
        background, sites = crop.background, crop.sites
        red = background[..., 0]
        inside = (sites.y_px >= 0) & (sites.y_px < SIDE) & (sites.x_px >= 0) & (sites.x_px < SIDE)
        assert inside.sum() > 2
        y, x = sites.y_px[inside].round().astype(int), sites.x_px[inside].round().astype(int)
        y, x = np.clip(y, 0, SIDE - 1), np.clip(x, 0, SIDE - 1)
        assert np.median(red[y, x]) > 2 * np.median(red)
        # eight pixels along the axis stay in the nucleus (half axes of 11.8 and 5.4 pixels); eight
        # across leave it
        along = ndimage.map_coordinates(
            red,
            [
                sites.y_px + 8 * np.sin(sites.orientation_rad),
                sites.x_px + 8 * np.cos(sites.orientation_rad),
            ],
        )
        across = ndimage.map_coordinates(
            red,
            [
                sites.y_px + 8 * np.cos(sites.orientation_rad),
                sites.x_px - 8 * np.sin(sites.orientation_rad),
            ],
        )
        assert np.median(along[inside]) > np.median(across[inside]) + 0.1
        shapes.add(red.tobytes())
    assert len(shapes) == 16


def test_every_component_is_on_by_default():
    assert set(COMPONENTS) >= {"pale", "crowds", "fibres", "cytoplasm", "distractors"}
    assert all(getattr(FULL_RECIPE, name) is True for name in COMPONENTS)


def seen(drawing):
    """Return everything of a drawing that can differ, as bytes."""
    looks = (
        drawing.nuclei,
        drawing.textures,
        drawing.grain,
        drawing.nucleoli,
        np.array(drawing.fine),
    )
    return b"".join(
        values.tobytes() for values in (drawing.instance_labels, drawing.background, *looks)
    )


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_changes_some_patch(reference, component):
    if component == "noise_textures":  # it stands in only where hardly any nucleus is a clean one
        few = replace(reference.textures, single=np.zeros_like(reference.textures.single))
        reference = replace(reference, textures=few)
    # neither are there spindle cells in this reference, nor has its background a direction
    if component == "fibres":
        mixture = tuple(0.5 * float(kind in (Kind.DENSE, Kind.SPINDLE)) for kind in Kind)
        statistics = reference.statistics
        statistics = replace(statistics, appearance=replace(statistics.appearance, mixture=mixture))
        rows = np.arange(reference.background.shape[0])[:, None, None]
        striped = (reference.background + 0.2 + 0.2 * np.sin(2 * np.pi * rows / 24)).astype(
            np.float32
        )
        reference = replace(reference, background=striped, statistics=statistics)
    changed = [
        seen(draw(reference, index)) != seen(draw(reference, index, recipe=without(component)))
        for index in range(12)
    ]
    assert any(changed)


@pytest.mark.parametrize("margin_um", [-0.5, 0.0, 0.5])
def test_labels_reach_as_far_over_the_painted_edge_as_the_margin_says(
    reference, monkeypatch, margin_um
):
    original = module.draw_arrangement
    monkeypatch.setattr(
        module, "draw_arrangement", lambda *given: replace(original(*given), margin_um=margin_um)
    )
    for index in range(3):
        drawing = draw(reference, index, recipe=without("pale"))
        # 0 at the painted edge
        labelled, depth_px = drawing.instance_labels > 0, drawing.layout.depth_px
        margin_px = margin_um / reference.mpp
        assert depth_px[labelled].min() >= -margin_px
        assert depth_px[labelled].min() < 1 - margin_px  # and no further
        owned = (drawing.layout.instance_labels > 0) & (drawing.instance_labels >= 0)
        assert labelled[owned & (depth_px >= -margin_px)].all()


def test_ghosts_are_ignored_and_the_others_are_labelled(reference, monkeypatch):
    """Which nuclei are too pale to call is decided by hand here: every other one."""
    original = chromatin.draw_appearances

    def every_other(*given):
        looks = original(*given)
        return replace(looks, ghosts=np.arange(len(looks.ghosts)) % 2 == 1)

    monkeypatch.setattr(module, "draw_appearances", every_other)
    for index in range(4):
        drawing = draw(reference, index)
        owner = drawing.layout.instance_labels
        odd = (owner > 0) & (owner % 2 == 1)
        assert odd.any()
        assert (drawing.instance_labels[odd] == -1).all()
        assert (
            drawing.instance_labels[(owner > 0) & ~odd & (drawing.layout.depth_px > 1)] > 0
        ).all()
        check_labels(drawing.instance_labels)


def test_pale_nuclei_are_ghosts_and_strong_ones_are_not(reference):
    """What is ignored adds less absorbance of red to its surroundings than what is labelled."""
    strength, red = module.COLUMNS.index("strength"), module.COLUMNS.index("red")
    ghosts, labelled = [], []
    for index in range(16):
        drawing = draw(reference, index)
        for number in range(1, len(drawing.layout.outlines) + 1):
            inside = drawing.layout.instance_labels == number
            if inside.any():
                group = ghosts if (drawing.instance_labels[inside] == -1).all() else labelled
                added = drawing.nuclei[number, red] - drawing.background[inside][:, 0].mean()
                group.append(drawing.nuclei[number, strength] * added)
    assert len(ghosts) > 3
    assert len(labelled) > 20
    assert np.median(ghosts) < 0.8 * np.median(labelled)


@pytest.mark.gpu
def test_cuda_paints_what_the_processor_paints(drawings, images):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    painted = paint_patches(drawings, torch.device("cuda"))
    assert np.abs(painted.astype(int) - images).max() <= 2
