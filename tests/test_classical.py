"""The classical baseline finds dark disks, splits touching ones, and measures in micrometres."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from histocli.metrics.counts import count

EXAMPLE = Path(__file__).parents[1] / "examples" / "classical.py"
classical_nuclei = runpy.run_path(str(EXAMPLE))["classical_nuclei"]

EOSIN, HEMATOXYLIN, GLASS = (235, 180, 210), (90, 60, 140), (245, 245, 245)


def disks(side: int, centres: list[tuple[int, int]], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Purple disks on pink; each disk is one label."""
    image, labels = np.full((side, side, 3), EOSIN, np.uint8), np.zeros((side, side), np.int32)
    for k, (y, x) in enumerate(centres, 1):
        cv2.circle(labels, (x, y), radius, k, -1)
    image[labels > 0] = HEMATOXYLIN
    return image, labels


def test_finds_disks():
    image, truth = disks(128, [(30, 30), (30, 90), (90, 60)], 12)
    found = classical_nuclei(image, 0.25)
    assert found.dtype == np.int32
    assert count(truth, found).true_positives == found.max() == 3


def test_splits_touching_disks():
    image, truth = disks(96, [(48, 34), (48, 58)], 14)
    assert count(truth, classical_nuclei(image, 0.25)).true_positives == 2


def test_parameters_are_in_micrometres():
    """The same tissue at half the pixel size gives the same nuclei; a disk of 2 um is debris, one
    of 20 um is not."""
    image, _ = disks(128, [(30, 30), (30, 90), (90, 60)], 12)
    twice = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    assert classical_nuclei(twice, 0.125).max() == classical_nuclei(image, 0.25).max()
    assert classical_nuclei(disks(64, [(32, 32)], 10)[0], 0.1).max() == 0
    assert classical_nuclei(disks(64, [(32, 32)], 10)[0], 1.0).max() == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (40, 40), (0, 0)])
@pytest.mark.parametrize("grey", [0, 255])
def test_one_colour_has_no_nuclei(shape, grey):
    labels = classical_nuclei(np.full((*shape, 3), grey, np.uint8), 0.25)
    assert labels.shape == shape
    assert not labels.any()
