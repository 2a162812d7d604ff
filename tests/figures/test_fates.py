"""Overlays of fates: what is drawn where, and that everybody can tell the colours apart."""

import itertools

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from histocli.figures.fates import COLOURS, Fated, fate_overlay, worst_window
from histocli.figures.overlays import SCALE_BAR_SHARE, add_scale_bar, scale_bar_um

# Machado, Oliveira and Fernandes 2009, severity 1, in linear light
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def seen(colour, blindness):
    """sRGB as somebody sees it, in CIELAB."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    return rgb2lab(
        np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)[
            None, None
        ]
    )[0, 0]


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_everybody_can_tell_the_colours_apart(blindness):
    """A difference of 2.3 is just noticeable; thin lines need far more."""
    for one, two in itertools.combinations(COLOURS.values(), 2):
        assert deltaE_ciede2000(seen(one, blindness), seen(two, blindness)) > 12


def scene():
    """Nucleus 1 matched, 2 missed; prediction 2 false."""
    truth, prediction = np.zeros((30, 30), np.int32), np.zeros((30, 30), np.int32)
    truth[3:9, 3:9], truth[15:22, 3:10] = 1, 2
    prediction[3:9, 3:9], prediction[15:22, 18:26] = 1, 2
    fates = np.array([0, 1], np.uint8)
    return Fated(truth, fates), Fated(prediction, fates)


def test_each_kind_has_its_colour_and_missed_is_filled():
    image = np.full((30, 30, 3), 200, np.uint8)
    before = image.copy()
    drawn = fate_overlay(image, *scene())
    assert (image == before).all()
    assert (drawn[3, 4] == COLOURS["matched"]).all()
    assert (drawn[15, 5] == COLOURS["missed"]).all()
    assert (drawn[18, 6] != 200).any()  # inside the missed one
    assert (drawn[5, 5] == 200).all()  # inside the matched one
    edge = drawn[15, 18:26]
    black = (edge == 0).all(axis=1)
    assert black.any()
    assert not black.all()  # dotted
    assert (drawn[0, 0] == 200).all()


def test_split_and_merged():
    truth = np.zeros((20, 20), np.int32)
    truth[2:10, 2:10] = 1
    for kind, name in ((2, "split"), (3, "merged")):
        side = Fated(truth, np.array([kind], np.uint8))
        drawn = fate_overlay(np.full((20, 20, 3), 200, np.uint8), side, side)
        assert (drawn[2, 4] == COLOURS[name]).all()


@pytest.mark.parametrize(
    ("width", "mpp", "length"),
    [(256, 0.25, 10), (1000, 0.25, 50), (512, 0.5, 50), (100, 8.0, 200), (10, 0.05, 0)],
)
def test_scale_bars_are_round_and_short(width, mpp, length):
    assert scale_bar_um(width, mpp) == length
    assert length / mpp <= SCALE_BAR_SHARE * width


@pytest.mark.parametrize("side", [64, 256, 700])
def test_the_bar_is_as_long_as_it_says(side):
    image = np.full((side, side, 3), 90, np.uint8)
    drawn = add_scale_bar(image, 0.25)
    unit = max(1, round(side / 256))
    row = drawn[side - 5 * unit - 1]
    assert (row == 0).all(axis=1).sum() == round(scale_bar_um(side, 0.25) / 0.25)
    assert (image == 90).all()
    assert (drawn[: side // 2] == 90).all()


def test_a_tiny_picture_has_no_bar():
    image = np.full((20, 400, 3), 90, np.uint8)
    assert (add_scale_bar(image, 0.25) == image).all()


def test_of_a_large_image_the_part_with_most_mistakes_is_shown():
    truth = np.zeros((900, 1000), np.int32)
    truth[20:40, 20:40], truth[800:890, 900:990] = 1, 2
    nothing = Fated(np.zeros_like(truth), np.zeros(0, np.uint8))
    rows, columns = worst_window([(Fated(truth, np.array([1, 1], np.uint8)), nothing)], 640)
    assert rows.start <= 800
    assert (rows.stop, columns.stop) >= (890, 990)
    assert rows.stop - rows.start == columns.stop - columns.start == 640


def test_several_predictions_share_the_part_in_which_they_are_worst_together():
    truth = np.zeros((400, 1600), np.int32)
    truth[10:40, 10:40], truth[10:50, 1500:1540] = 1, 2
    nothing = Fated(np.zeros_like(truth), np.zeros(0, np.uint8))
    fates = [np.array(each, np.uint8) for each in ([1, 0], [1, 1])]
    _, columns = worst_window([(Fated(truth, each), nothing) for each in fates], 640)
    assert columns.start <= 10  # missed by both, though the other nucleus is larger


def test_false_nuclei_show_on_black_and_on_white():
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 5:35] = 1
    nothing = Fated(np.zeros_like(labels), np.zeros(0, np.uint8))
    for grey in (0, 255):
        image = np.full((40, 40, 3), grey, np.uint8)
        drawn = fate_overlay(image, nothing, Fated(labels, np.array([1], np.uint8)))
        assert (drawn != grey).any(-1).sum() > 40
