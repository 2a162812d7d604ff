"""Measurements against scikit-image's, one nucleus at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import regionprops

from histocli.instances.measurements import local_direction, measure, touching_ids
from tests.tissue import make_tissue, paint_ellipses

LABELS = arrays.arrays(
    np.int32,
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    elements=st.sampled_from([-1, 0, 1, 4, 9]),
)


def same_direction(first, second):
    """Tell how far two axes are apart, radians; an axis has no head."""
    return abs((first - second + np.pi / 2) % np.pi - np.pi / 2)


@given(LABELS, st.sampled_from([0.25, 0.5, 1.0]))
def test_any_label_image_is_measured_as_scikit_image_does(labels, mpp):
    """Gaps in the ids, pieces and ignored pixels included."""
    found = measure(labels, mpp)
    expected = regionprops(np.maximum(labels, 0))
    assert [*found.id] == [region.label for region in expected]
    assert len(found) == len(expected)
    for k, region in enumerate(expected):
        assert found.area_um2[k] == pytest.approx(region.area * mpp**2)
        assert (found.y_px[k], found.x_px[k]) == pytest.approx(region.centroid)
        # scikit-image takes pixels for points; as squares they add 1/12 to the moments, 16/12 to
        # the square of a diameter
        assert found.major_um[k] == pytest.approx(
            np.sqrt(region.axis_major_length**2 + 4 / 3) * mpp
        )
        assert found.minor_um[k] == pytest.approx(
            np.sqrt(region.axis_minor_length**2 + 4 / 3) * mpp
        )
        assert found.elongation[k] >= 1
        top, left, bottom, right = region.bbox
        cut = top == 0 or left == 0 or bottom == labels.shape[0] or right == labels.shape[1]
        assert found.touches_border[k] == cut


@given(st.floats(-1.5, 1.5), st.floats(1.2, 3.0))
def test_an_ellipse_has_the_axes_and_the_direction_it_was_drawn_with(angle, elongation):
    minor = 12.0
    labels = paint_ellipses((90, 90), [(45, 44)], minor * elongation, minor, [angle])
    found = measure(labels, 0.5)
    assert found.elongation[0] == pytest.approx(elongation, rel=0.04)
    assert same_direction(found.orientation_rad[0], angle) < 0.05
    assert found.area_um2[0] == pytest.approx(np.pi * minor**2 * elongation * 0.25, rel=0.03)
    # scikit-image counts its angle from the y axis towards x
    assert (
        same_direction(found.orientation_rad[0], np.pi / 2 - regionprops(labels)[0].orientation)
        < 1e-6
    )


def test_nothing_is_measured_where_there_is_nothing():
    for labels in (np.zeros((4, 4), np.int32), np.full((2, 3), -1, np.int32)):
        found = measure(labels, 0.25)
        assert len(found) == 0
        assert found.area_um2.shape == (0,)


def test_a_pixel_is_a_square():
    found = measure(np.array([[0, 7]], np.int32), 0.25)
    assert found.elongation[0] == pytest.approx(1)
    assert found.area_um2[0] == 0.0625


@given(LABELS)
def test_touching_is_sharing_an_edge(labels):
    expected = set()
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for ny, nx in ((y, x + 1), (y + 1, x)):
                if ny < height and nx < width and 0 < labels[y, x] != labels[ny, nx] > 0:
                    expected |= {int(labels[y, x]), int(labels[ny, nx])}
    assert set(touching_ids(labels).tolist()) == expected
    found = measure(labels, 1.0)
    assert {int(k) for k in found.id[found.touches_other]} == expected


def test_parallel_nuclei_share_their_direction_and_random_ones_do_not():
    shared = {
        name: local_direction(measure(make_tissue(384, elongation=2.0, angle=angle).labels, 0.5))
        for name, angle in (("parallel", 0.4), ("random", None))
    }
    assert shared["parallel"] > 0.95
    assert shared["random"] < 0.35


def test_round_or_few_nuclei_have_no_common_direction():
    assert local_direction(measure(make_tissue(elongation=1.0, angle=0.4).labels, 0.5)) == 0
    assert local_direction(measure(make_tissue(60, elongation=2.0, angle=0.4).labels, 0.5)) == 0
