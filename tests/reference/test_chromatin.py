"""Kinds of nuclei are told apart on images drawn in code, one tissue from another."""

import cv2
import numpy as np
import pytest

from histocli.base.rng import rng_for
from histocli.instances.kinds import N_KINDS, Kind
from histocli.instances.measurements import measure
from histocli.reference.chromatin import edge_softness, estimate_mixture
from histocli.reference.texture import cut_textures
from tests.tissue import paint_ellipses

MPP, SIDE = 0.25, 256
CENTRES = [(y, x) for y in range(32, SIDE, 64) for x in range(32, SIDE, 64)]


def draw(*, major_um=4.0, minor_um=4.0, core=1.0, edge_px=1.0, soft_px=None):
    """Return red absorbance and labels of 16 nuclei whose inner half has so much of the contrast of
    the rim.

    With ``soft_px``, the last quarter of them is blurred by so much.
    """
    major, minor = major_um / MPP, minor_um / MPP
    angles = [0.4] * len(CENTRES)
    labels = paint_ellipses((SIDE, SIDE), CENTRES, major, minor, angles)
    middle = paint_ellipses((SIDE, SIDE), CENTRES, 0.7 * major, 0.7 * minor, angles) > 0
    contrast = np.where(middle, core, 1.0) * (labels > 0) * 0.7
    sharp = cv2.GaussianBlur(contrast.astype(np.float32), (0, 0), edge_px)
    if soft_px is not None:
        last = 3 * SIDE // 4
        sharp[last:] = cv2.GaussianBlur(contrast.astype(np.float32), (0, 0), soft_px)[last:]
    density = np.repeat((0.15 + sharp)[..., None], 3, axis=2).astype(np.float32)
    return density, labels


def mixture_of(density, labels, typical_area_um2=50.0):
    nuclei = measure(labels, MPP)
    textures = cut_textures(density, labels, nuclei, MPP, rng_for(0, "cut"))
    softness = edge_softness(density[..., 0], labels, nuclei, textures)
    return estimate_mixture(nuclei, textures, softness, typical_area_um2)


def check(mixture):
    assert len(mixture) == N_KINDS
    assert sum(mixture) == pytest.approx(1)
    assert min(mixture) >= 0


def test_shares_follow_what_is_drawn():
    dense, vesicular = mixture_of(*draw()), mixture_of(*draw(core=0.3))
    long = mixture_of(*draw(major_um=7.5, minor_um=2.5))
    for mixture in (dense, vesicular, long):
        check(mixture)
    assert dense[Kind.DENSE] > 0.9
    assert vesicular[Kind.VESICULAR] > 0.8 > 0.1 > dense[Kind.VESICULAR]
    assert long[Kind.SPINDLE] > 0.8 > 0.1 > dense[Kind.SPINDLE]


def test_small_round_dark_nuclei_are_lymphocytes_if_others_are_paler():
    """Half of the nuclei are small and dark, the others large and pale."""
    density, labels = draw(major_um=3.0, minor_um=3.0)
    pale, large = draw(major_um=5.0, minor_um=5.0)
    half = SIDE // 2
    density[half:] = 0.15 + 0.6 * (pale[half:] - 0.15)
    labels[half:] = large[half:]
    mixture = mixture_of(density, labels, 78.0)
    check(mixture)
    # weighed by the root of the area: 3 um against 5
    assert mixture[Kind.LYMPHOCYTE] == pytest.approx(3 / 8, abs=0.06)
    assert mixture_of(pale, large, 78.0)[Kind.LYMPHOCYTE] == 0


def test_nuclei_out_of_focus_are_blurred():
    density, labels = draw(soft_px=5.0)
    assert mixture_of(density, labels)[Kind.BLURRED] == pytest.approx(0.25, abs=0.03)
    assert mixture_of(*draw())[Kind.BLURRED] == 0
    nuclei = measure(labels, MPP)
    textures = cut_textures(density, labels, nuclei, MPP, rng_for(0, "cut"))
    softness = edge_softness(density[..., 0], labels, nuclei, textures)
    assert softness.shape == (len(textures),)
    low = nuclei.y_px[textures.nucleus] > 3 * SIDE / 4
    assert np.median(softness) == pytest.approx(1)
    assert softness[low].min() > 1.8 * softness[~low].max()


def test_an_empty_image_is_taken_for_dense():
    density = np.full((64, 64, 3), 0.2, np.float32)
    labels = np.zeros((64, 64), np.int32)
    assert mixture_of(density, labels) == tuple(float(kind is Kind.DENSE) for kind in Kind)
    nuclei = measure(labels, MPP)
    textures = cut_textures(density, labels, nuclei, MPP, rng_for(0, "cut"))
    assert edge_softness(density[..., 0], labels, nuclei, textures).shape == (0,)


def test_ids_need_not_be_consecutive():
    density, labels = draw(core=0.3, soft_px=3.0)
    assert mixture_of(density, labels) == pytest.approx(mixture_of(density, labels * 5))


def test_rare_kinds_are_never_ruled_out():
    """A small image may lack dying and dividing cells by chance."""
    mixture = mixture_of(*draw())
    assert 0 < mixture[Kind.APOPTOTIC] < 0.02
    assert 0 < mixture[Kind.MITOTIC] < 0.02
