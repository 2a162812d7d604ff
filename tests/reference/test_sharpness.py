"""The finest detail of an image, against noise and blur whose strength is known."""

import cv2
import numpy as np
import pytest

from histocli.reference.sharpness import fine_detail


def scene(noise=0.0, blur=0.0):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    nuclei = (y - 64) ** 2 + (x - 64) ** 2 < 40**2
    light = np.where(nuclei, 0.3, 0.8).astype(np.float32)
    if blur:
        light = cv2.GaussianBlur(light, (0, 0), blur)
    return np.repeat(light[..., None], 3, axis=-1) + rng.normal(0, noise, (128, 128, 3)).astype(
        np.float32
    ), nuclei


def test_even_nuclei_have_no_detail_within():
    core, edge = fine_detail(*scene())
    assert core < 0.001  # the last of the border's tail
    assert edge > 0.05


def test_noise_is_measured_in_its_own_unit():
    """White noise of unit spread keeps 1 - 2 g0^2 + g^2 of its power when its blur is taken away;
    about 0.92 of its spread."""
    kernel = cv2.getGaussianKernel(9, 1.0)
    weights = (kernel @ kernel.T).ravel()
    left = np.sqrt(1 - 2 * weights.max() + (weights**2).sum())
    assert fine_detail(*scene(noise=0.02))[0] == pytest.approx(0.02 * left, rel=0.05)


def test_a_blurred_border_has_less_detail():
    edges = [fine_detail(*scene(blur=blur))[1] for blur in (0.5, 1.0, 2.0)]
    assert edges[0] > 1.5 * edges[1] > 3 * edges[2]


def test_without_nuclei_nothing_is_known():
    light, nuclei = scene(noise=0.02)
    assert fine_detail(light, np.zeros_like(nuclei)) == (0.0, 0.0)
