"""Dark structures that are not nuclei: cytoplasm, red cells, pigment, debris, folds, ink.

All are drawn on the background in optical density, before nuclei. Their colours are the stains of
the reference (the real image that a patch imitates), except for brown pigment and ink.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.reference.statistics import Appearance
from histocli.synthesis.ink import add_ink

COARSE = 4  # cytoplasm, which is smooth, is drawn at this fraction of the resolution
CYTOPLASM_SHARE = 0.7  # this and the following: shares of patches that show the structure
RED_CELL_SHARE = 0.04  # more if the reference shows red cells
PIGMENT_SHARE = 0.04
DEBRIS_SHARE = 0.2
FOLD_SHARE = 0.04
INK_SHARE = 0.04


@dataclass(frozen=True)
class Stains:
    """Colours of one reference, as optical density."""

    hematoxylin: FloatArray  # (3,), density added by nuclei for an absorbance of red of 1
    appearance: Appearance


def add_cytoplasm(
    background: FloatArray,
    labels: InstanceLabels,
    stains: Stains,
    mpp: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Stain the surroundings of some nuclei with hematoxylin, like cytoplasm rich in RNA.

    ``background`` (H, W, 3) is an optical density, ``mpp`` micrometres per pixel. At most 0.6 of
    the median nuclear contrast is added, so cytoplasm is no darker than the paler nuclei.
    """
    if rng.random() > CYTOPLASM_SHARE:
        return background
    height, width = labels.shape
    coarse = (max(2, width // COARSE), max(2, height // COARSE))
    near = np.asarray(
        cv2.resize((labels > 0).astype(np.float32), coarse, interpolation=cv2.INTER_AREA),
        np.float32,
    )
    reach = float(rng.uniform(1.5, 4.0)) / mpp / COARSE
    near = np.asarray(cv2.GaussianBlur(near, (0, 0), reach), np.float32)
    patchy = _smooth_noise((coarse[1], coarse[0]), float(rng.uniform(8, 25)) / mpp / COARSE, rng)
    steep = float(rng.uniform(3, 20))  # high values give cells clear borders
    field = _sigmoid(steep * (near - float(rng.uniform(0.1, 0.35))))
    field *= _sigmoid(3 * (patchy - float(rng.uniform(-1, 0.7))))
    field *= np.clip(8 * near, 0, 1)  # none where no nucleus is near
    field = np.asarray(
        cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )
    grain = _smooth_noise((height, width), float(rng.uniform(0.25, 0.8)) / mpp, rng)
    field *= np.clip(1 + float(rng.uniform(0.05, 0.3)) * grain, 0, 2)
    field = np.minimum(field, 1)
    contrast = max(stains.appearance.contrast[2], 0.1)
    amount = contrast * float(rng.uniform(0.12, 0.6))
    return np.asarray(background + amount * field[..., None] * stains.hematoxylin, np.float32)


def add_distractors(
    background: FloatArray, tissue: BoolMask, stains: Stains, mpp: float, rng: np.random.Generator
) -> FloatArray:
    """Draw red cells, pigment, debris, folds and ink, each in a small share of patches.

    ``background`` (H, W, 3) is an optical density, ``tissue`` a mask (H, W) that holds pigment and
    debris, ``mpp`` micrometres per pixel.
    """
    appearance = stains.appearance
    # up to 30 % of patches have red cells, from a measured fraction of 5 % of the tissue
    shown = min(1.0, 20 * appearance.red_cell_fraction)
    blood = RED_CELL_SHARE + shown * (0.3 - RED_CELL_SHARE)
    blood *= appearance.stains_measured  # none if the colour of eosin is only assumed
    shares = (blood, PIGMENT_SHARE, DEBRIS_SHARE, FOLD_SHARE, INK_SHARE)
    red, brown, debris, fold, ink = rng.random(5) < shares
    if not (red or brown or debris or fold or ink):
        return background
    drawn = background.copy()
    if red:
        _add_red_cells(drawn, appearance, mpp, rng)
    ys, xs = np.nonzero(tissue[::4, ::4])
    if brown and len(ys):
        colour = np.array([0.55, 0.95, 1.45], np.float32) * float(rng.uniform(0.5, 1.2))
        count, spread_um = int(rng.integers(4, 30)), float(rng.uniform(3, 12))
        specks = _Specks(count, (0.3, 1.1), spread_um, colour)
        _add_specks(drawn, specks, _middle(ys, xs, rng), mpp, rng)
    if debris and len(ys):
        colour = stains.hematoxylin * max(appearance.contrast[3], 0.2)
        colour = colour * float(rng.uniform(0.7, 1.4))
        specks = _Specks(int(rng.integers(1, 8)), (0.35, 1.2), 25.0, colour)
        _add_specks(drawn, specks, _middle(ys, xs, rng), mpp, rng)
    if fold:
        drawn *= _fold(tissue.shape, mpp, rng)[..., None]
    if ink:
        add_ink(drawn, mpp, rng)
    return drawn


def _add_red_cells(
    drawn: FloatArray, appearance: Appearance, mpp: float, rng: np.random.Generator
) -> None:
    """Draw a group of red cells, or blood outside vessels."""
    height, width = drawn.shape[:2]
    colour = np.array(appearance.stain_matrix[1], np.float32)
    # red cells of purple eosin would look like nuclei: limit their absorbance of red to 0.12 of
    # that of green, and raise that of blue to half of it
    if colour[0] > 0.12 * colour[1]:
        colour[0], colour[2] = 0.12 * colour[1], max(colour[2], 0.5 * colour[1])
    eosin = colour * max(appearance.eosin[4], 0.3) * float(rng.uniform(0.9, 1.7))
    radius = float(rng.uniform(2.4, 3.8)) / mpp
    centre = rng.uniform(0, 1, 2) * (height, width)
    # blood outside vessels: overlapping cells are as dark as nuclei
    pool = rng.random() < 0.3
    spread = radius * float(rng.uniform(6, 14) if pool else rng.uniform(1.5, 8))
    behind = float(rng.uniform(0.4, 0.9)) if pool else 0.2  # share of the background seen through
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(60, 220) if pool else rng.integers(2, 25))):
        at = centre + rng.normal(0, spread, 2)
        reach = int(radius * 1.6) + 3
        top, left = max(0, int(at[0]) - reach), max(0, int(at[1]) - reach)
        box = (slice(top, max(top, int(at[0]) + reach)), slice(left, max(left, int(at[1]) + reach)))
        if drawn[box].size == 0:
            continue
        turn, squash = float(rng.uniform(0, np.pi)), float(rng.uniform(0.7, 1))
        dy, dx = y[box] - at[0], x[box] - at[1]
        u = dx * np.cos(turn) + dy * np.sin(turn)
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / squash
        r = np.hypot(u, v) / radius
        cover = _sigmoid((1 - r) * radius / float(rng.uniform(0.5, 1.2)))
        cover = cover * (1 - float(rng.uniform(0, 0.5)) * np.exp(-((r / 0.5) ** 2)))
        drawn[box] = drawn[box] * (1 - (1 - behind) * cover[..., None]) + cover[..., None] * eosin


@dataclass(frozen=True)
class _Specks:
    """A cloud of small dark ellipses."""

    count: int
    radius_um: tuple[float, float]
    spread_um: float  # standard deviation of their places around the middle
    colour: FloatArray  # (3,), optical density


def _middle(ys: np.ndarray, xs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one of the places (ys, xs) on a grid of every fourth pixel; in pixels."""
    chosen = int(rng.integers(len(ys)))
    return np.array([ys[chosen] * 4.0, xs[chosen] * 4.0])


def _add_specks(
    drawn: FloatArray, specks: _Specks, middle: np.ndarray, mpp: float, rng: np.random.Generator
) -> None:
    """Draw specks around a middle (y, x)."""
    field = np.zeros(drawn.shape[:2], np.float32)
    for _ in range(specks.count):
        y, x = middle + rng.normal(0, specks.spread_um / mpp, 2)
        axes = rng.uniform(*specks.radius_um, 2) / mpp
        # in sixteenths of a pixel (a shift of 4 bits), because specks are a few pixels wide
        centre, half = (round(x * 16), round(y * 16)), [max(8, round(axis * 16)) for axis in axes]
        angle, dark = float(rng.uniform(0, 180)), float(rng.uniform(0.6, 1.0))
        cv2.ellipse(field, centre, half, angle, 0, 360, dark, -1, cv2.LINE_8, 4)
    soft = np.asarray(cv2.GaussianBlur(field, (0, 0), float(rng.uniform(0.6, 1.2))), np.float32)
    drawn += soft[..., None] * specks.colour


def _fold(shape: tuple[int, ...], mpp: float, rng: np.random.Generator) -> FloatArray:
    """Return the factor (H, W) on absorbance of a band of folded tissue."""
    height, width = shape
    turn = float(rng.uniform(0, np.pi))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cos, sin = np.cos(turn), np.sin(turn)
    across = (y - rng.uniform(0, height)) * cos - (x - rng.uniform(0, width)) * sin
    across += 6 / mpp * np.sin(((y * sin + x * cos) * mpp / 30) + rng.uniform(0, 7))
    half = float(rng.uniform(3, 12)) / mpp
    band = _sigmoid((half - np.abs(across)) / float(rng.uniform(1.5, 5)))
    return np.asarray(1 + float(rng.uniform(0.3, 0.9)) * band, np.float32)


def _smooth_noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> FloatArray:
    """Draw Gaussian noise of unit spread, smoothed by ``sigma_px``; coarse noise is enlarged."""
    factor = max(1, int(sigma_px // 2))
    small = (shape[0] // factor + 3, shape[1] // factor + 3)
    noise = rng.standard_normal(small, dtype=np.float32)
    smooth = cv2.GaussianBlur(
        noise, (0, 0), max(sigma_px / factor, 0.3), borderType=cv2.BORDER_REFLECT
    )
    noise = np.asarray(smooth, np.float32)
    noise /= max(float(noise.std()), 1e-6)
    if factor > 1:
        noise = np.asarray(
            cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32
        )
    return np.asarray(noise[: shape[0], : shape[1]], np.float32)


def _sigmoid(x: np.ndarray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), np.float32)
