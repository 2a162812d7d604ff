"""Outlines lie inside their nuclei, separate those that touch, and leave everything else alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from histocli.figures.colours import LINE, PALETTE, graded, viridis
from histocli.figures.overlays import add_colour_bar, outline_mask, outline_overlay
from histocli.figures.qc import heat_map
from histocli.figures.sheets import MARGIN_PX, PAIR_GAP_PX, patch_sheet

LABELS = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.integers(-1, 3),
)


@given(LABELS, st.integers(1, 3))
def test_an_outline_is_what_erosion_takes_from_each_nucleus(labels, thickness_px):
    """The oracle erodes nucleus by nucleus, with a disc, as if each went on behind the border of
    the image."""
    y, x = np.mgrid[-thickness_px : thickness_px + 1, -thickness_px : thickness_px + 1]
    disc = y**2 + x**2 <= thickness_px**2
    expected = np.zeros(labels.shape, bool)
    for nucleus in range(1, 4):
        inside = labels == nucleus
        expected |= inside & ~ndimage.binary_erosion(inside, disc, border_value=1)
    np.testing.assert_array_equal(outline_mask(labels, thickness_px), expected)


@given(LABELS)
def test_nothing_but_outlines_and_ignored_pixels_changes(labels):
    image = np.full((*labels.shape, 3), 90, np.uint8)
    before = image.copy()
    drawn = outline_overlay(image, labels)
    np.testing.assert_array_equal(image, before)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal((drawn != 90).any(-1), outline_mask(labels) | (labels < 0))


def test_nuclei_that_touch_show_two_lines():
    labels = np.zeros((9, 12), np.int32)
    labels[2:7, 1:6] = 1
    labels[2:7, 6:11] = 2
    drawn = outline_overlay(np.zeros((9, 12, 3), np.uint8), labels, colours=PALETTE)
    np.testing.assert_array_equal(drawn[4, 5], PALETTE[1])
    np.testing.assert_array_equal(drawn[4, 6], PALETTE[2])


def test_all_outlines_have_one_colour_unless_others_are_given():
    labels = np.repeat(np.arange(1, 5), 4)[None].repeat(6, axis=0)
    drawn = outline_overlay(np.zeros((6, 16, 3), np.uint8), labels)
    assert {tuple(colour) for colour in drawn.reshape(-1, 3)} == {(0, 0, 0), tuple(LINE[0])}


def test_graded_colours_rise_in_lightness_and_end_at_the_given_values():
    colours = graded(np.array([np.nan, -9.0, 0.0, 2.0, 5.0, 10.0, 99.0]), 0.0, 10.0).astype(int)
    light = colours @ [0.2126, 0.7152, 0.0722]
    assert (colours[:2] == colours[2]).all()
    assert (colours[-1] == colours[-2]).all()
    assert (np.diff(light[2:6]) > 10).all()
    assert (graded(np.array([3.0]), 3.0, 3.0) == colours[2]).all()


def test_a_colour_bar_names_its_ends_and_leaves_the_rest():
    image = np.full((300, 400, 3), 90, np.uint8)
    drawn = add_colour_bar(image, 0.5, 1.0, "probability")
    assert (image == 90).all()
    rows, columns = np.nonzero((drawn != 90).any(-1))
    assert rows.min() > 250
    assert columns.min() > 200
    for end in graded(np.array([0.5, 1.0]), 0.5, 1.0):
        assert (drawn == end).all(-1).any()
    tiny = np.full((60, 60, 3), 90, np.uint8)
    assert (add_colour_bar(tiny, 0, 1, "x") == tiny).all()


def test_any_size_of_id_has_a_colour():
    labels = np.full((3, 3), 4_000_000_001, np.uint32)
    labels[1, 1] = 0
    drawn = outline_overlay(np.zeros((3, 3, 3), np.uint8), labels, colours=PALETTE)
    np.testing.assert_array_equal(drawn[0, 1], PALETTE[1])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="must be"):
        outline_overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.int32))


@settings(max_examples=20)
@given(
    st.lists(st.tuples(st.integers(60, 140), st.integers(60, 140)), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_a_sheet_shows_every_patch_whole_beside_its_outlines(shapes, columns):
    zoom = max(1, round(256 / max(max(shape) for shape in shapes)))
    images = [np.full((*shape, 3), 10 + index, np.uint8) for index, shape in enumerate(shapes)]
    labels = [np.zeros(shape, np.int32) for shape in shapes]
    sheet = patch_sheet(images, labels, columns=columns)
    for index, (height, width) in enumerate(shapes):
        assert (sheet == 10 + index).all(-1).sum() == 2 * height * width * zoom**2
    assert (sheet[:MARGIN_PX] == 255).all()
    assert (sheet[:, -MARGIN_PX:] == 255).all()
    rows = -(-len(shapes) // min(columns, len(shapes)))
    assert (
        sheet.shape[0]
        == rows * (zoom * max(height for height, _ in shapes) + MARGIN_PX) + MARGIN_PX
    )


def test_small_patches_are_enlarged_and_the_sheet_is_broader_than_high():
    images, labels = [np.zeros((32, 32, 3), np.uint8)] * 16, [np.zeros((32, 32), np.int32)] * 16
    height, width, _ = patch_sheet(images, labels).shape
    assert width > 2 * (2 * 256 + PAIR_GAP_PX)
    assert 1.0 < width / height < 2.2


def test_a_sheet_needs_patches():
    with pytest.raises(ValueError, match="at least one"):
        patch_sheet([], [])


def test_the_heat_map_colours_visible_tissue_only():
    """Left glass in the margin of the mask, middle tissue without nuclei, right dense tissue."""
    overview = np.full((40, 90, 3), 245, np.uint8)
    overview[:, 30:] = (200, 120, 180)
    density = np.zeros((40, 90), np.float32)
    density[:, 60:] = 5000.0
    drawn = heat_map(overview, density, np.ones((40, 90), bool), 5000.0).astype(int)
    assert np.ptp(drawn[:, :30], axis=-1).max() == 0  # grey: nothing to see there
    light = drawn.mean(axis=(0, 2))
    assert light[80] > light[45] + 40
    np.testing.assert_array_equal(drawn[0, 45], viridis(np.array([0.0]))[0])
    np.testing.assert_array_equal(drawn[0, 80], viridis(np.array([1.0]))[0])
