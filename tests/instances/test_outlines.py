"""Outlines run along pixel edges: they hold their nucleus's pixels, its area, and nothing else."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import points_in_poly

from histocli.instances.outlines import trace_outlines


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((120, 150)), 3)
    labels, _ = ndimage.label(smooth > np.quantile(smooth, 0.7))
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        labels[box][ndimage.binary_fill_holes(labels[box] == number)] = number
    return labels


def drawn(labels, **more):
    numbers = np.arange(1, labels.max() + 1)
    boxes = np.array([[y.start, x.start, y.stop, x.stop] for y, x in ndimage.find_objects(labels)])
    return dict(zip(numbers.tolist(), trace_outlines(labels, numbers, boxes, **more), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_without_tolerance_the_pixel_centres_inside_are_the_nucleus(seed):
    labels = blobs(seed)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    centres = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)
    for number, polygon in drawn(labels, tolerance_px=0).items():
        inside = points_in_poly(centres, polygon).reshape(labels.shape)
        np.testing.assert_array_equal(inside, labels == number)


def area(polygon):
    x, y = polygon[:-1].T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_the_area_is_that_of_the_nucleus():
    y, x = np.mgrid[:60, :60]
    for radius in (3, 5, 10, 20):
        labels = ((y - 30) ** 2 + (x - 30) ** 2 < radius**2).astype(int)
        assert area(drawn(labels)[1]) == pytest.approx(
            labels.sum(), rel=0.08 if radius < 10 else 0.04
        )
        # a contour tracer's polygon through pixel centres is far smaller
        contour = cv2.findContours(
            labels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )[0][0]
        assert cv2.contourArea(contour) < 0.96 * labels.sum()


def test_places_and_closing():
    labels = np.zeros((10, 10), int)
    labels[2:4, 5:9] = 1
    (polygon,) = trace_outlines(labels[1:], np.array([1]), np.array([[2, 5, 4, 9]]), origin=(1, 0))
    assert {tuple(point) for point in polygon} == {(5, 2), (9, 2), (9, 4), (5, 4)}
    np.testing.assert_array_equal(polygon[0], polygon[-1])


def test_one_pixel():
    labels = np.zeros((3, 3), int)
    labels[1, 1] = 1
    assert area(drawn(labels)[1]) == 1
