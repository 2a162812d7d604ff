"""Contrast of nuclei."""

import numpy as np
import pytest

from histocli.metrics.contrast import nuclear_contrast

GREY = [200, 160, 120, 80, 40, 20]


def squares() -> tuple[np.ndarray, np.ndarray]:
    """Six squares of 8 x 8 in a row on light grey, each darker than the one before."""
    image, labels = np.full((20, 120, 3), 230, np.uint8), np.zeros((20, 120), np.int32)
    for k, grey in enumerate(GREY):
        window = np.s_[6:14, 20 * k + 6 : 20 * k + 14]
        image[window], labels[window] = grey, k + 1
    return image, labels


def test_contrast_is_the_difference_of_optical_density():
    image, labels = squares()
    expected = np.log(231 / (np.array(GREY) + 1))
    assert nuclear_contrast(image, labels) == pytest.approx(expected, rel=1e-5)


def test_contrast_does_not_see_other_nuclei_ignored_pixels_or_what_is_far():
    image, labels = squares()
    before = nuclear_contrast(image, labels)
    image[:, 40:][labels[:, 40:] == 0] = 0  # black around all but the first two
    assert nuclear_contrast(image, labels)[0] == pytest.approx(before[0])
    image, labels = squares()
    labels[4, :] = -1
    image[4, :] = 0
    assert nuclear_contrast(image, labels) == pytest.approx(before)


def test_an_enclosed_nucleus_is_compared_with_the_whole_background():
    """Nucleus 2 lies inside nucleus 1, whose ring is the light background."""
    image, labels = np.full((40, 40, 3), 230, np.uint8), np.zeros((40, 40), np.int32)
    labels[5:35, 5:35], image[5:35, 5:35] = 1, 150
    labels[18:22, 18:22], image[18:22, 18:22] = 2, 20
    assert nuclear_contrast(image, labels)[1] == pytest.approx(np.log(231 / 21), rel=1e-5)


def test_labels_need_not_be_consecutive():
    image, labels = squares()
    assert nuclear_contrast(image, labels * 1000) == pytest.approx(nuclear_contrast(image, labels))
    assert nuclear_contrast(image, labels * 0).shape == (0,)
    assert nuclear_contrast(image, np.ones_like(labels)).shape == (1,)  # no background at all
