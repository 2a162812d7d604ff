"""Tissue made in code, whose truth is known: dark ellipses on pink.

Each ``x`` is a nucleus on a jittered lattice; with ``glass``, the left third is empty:

    ..........        ...|......
    . x  x  x .       ...| x  x .
    .  x  x  x.       ...|  x  x.
    . x  x  x .       ...| x  x .
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.instances.measurements import measure
from histocli.optics.stains import TYPICAL_STAINS
from histocli.reference.morphology import morphology_of

HEMATOXYLIN = 1.1  # concentration in nuclei
EOSIN = 0.55  # concentration everywhere in tissue


@dataclass(frozen=True)
class Tissue:
    """An image with its truth."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    mpp: float


def paint_ellipses(shape, centres, major_px, minor_px, angles):
    """Return labels (H, W) of ellipses with half axes in pixels; ``angles`` from x towards y; later
    ones lie on top."""
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number, ((cy, cx), angle) in enumerate(zip(centres, angles, strict=True), start=1):
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        labels[(along / major_px) ** 2 + (across / minor_px) ** 2 < 1] = number
    return labels


def make_tissue(
    side_px=192,
    mpp=0.5,
    *,
    spacing_um=14.0,
    area_um2=50.0,
    elongation=1.4,
    angle=None,
    glass=False,
    nuclei=True,
    seed=0,
    noise=2.0,
):
    """Draw tissue; ``angle`` None lets every nucleus point its own way."""
    rng = np.random.default_rng(seed)
    step = spacing_um / mpp
    lattice = np.arange(step / 2, side_px, step)
    centres = [
        (y + rng.uniform(-1, 1) / mpp, x + rng.uniform(-1, 1) / mpp)
        for y in lattice
        for x in lattice
    ]
    if glass:
        centres = [(y, x) for y, x in centres if x > side_px / 3 + 8 / mpp]
    angles = (
        rng.uniform(-np.pi / 2, np.pi / 2, len(centres))
        if angle is None
        else np.full(len(centres), angle)
    )
    major = np.sqrt(area_um2 * elongation / np.pi) / mpp
    labels = paint_ellipses((side_px, side_px), centres, major, major / elongation, angles)
    if not nuclei:
        labels[:] = 0
    soft = cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 0.25 / mpp)
    texture = cv2.GaussianBlur(rng.standard_normal((side_px, side_px)), (0, 0), 2.0 / mpp)
    pink = EOSIN * (1 + 0.15 * texture / texture.std())
    concentrations = np.stack([HEMATOXYLIN * soft + 0.03, pink], axis=-1)
    light = 256 * np.exp(-concentrations @ TYPICAL_STAINS) - 1
    if glass:
        light[:, : side_px // 3] = 250
    light += rng.normal(0, noise, light.shape) if noise else 0
    return Tissue(np.clip(np.rint(light), 0, 255).astype(np.uint8), labels, mpp)


def measure_morphology(labels, tissue, mpp):
    """Return the priors of a label image."""
    return morphology_of(measure(labels, mpp), tissue, mpp)
