"""The background of a reference image without its nuclei, and the textures of its nuclei.

A reference is a real image that synthetic patches imitate; its nuclei are those of the rough map or
of a model. Each nucleus leaves a hole in the background: the low frequencies in it are estimated
from the surroundings (normalised convolution, Knutsson and Westin 1993), and the fine detail is
copied from up to three nucleus-free places of the image. A nuclear texture is resampled into a
square frame around the ellipse of the nucleus, so that it can be stretched into any outline.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.components import disk
from histocli.instances.measurements import Measurements
from histocli.reference.rough import HALO_UM, RoughNuclei, blur_um

FRAME_PX = 24  # side of a frame
FRAME_EXTENT = 1.2  # a frame spans -1.2 to 1.2 half axes of the ellipse in both directions
MOST_FRAGMENTS = 256  # limit of textures kept from one reference
DETAIL_UM = 2.5
"""Finer detail is copied into holes. A critic that looks for filled pixels reached an AUC of 0.75
when this was 1 um, and 0.66 with 2.5 um (docs/research/background.md)."""


@dataclass(frozen=True)
class NuclearTextures:
    """F real nuclei, each in the frame of its own ellipse."""

    residual: FloatArray  # (F, 3, FRAME_PX, FRAME_PX), optical density minus ``colour``; 0 outside
    colour: FloatArray  # (F, 3), mean optical density of the nucleus
    surround: FloatArray  # (F, 3), mean over unlabelled pixels of the frame beyond the ellipse
    area_um2: FloatArray  # (F,)
    core_to_rim: FloatArray  # (F,), contrast of the core over that of the rim; low if vesicular
    single: npt.NDArray[np.bool_]  # (F,), IoU of outline and ellipse > 0.82: one nucleus
    nucleus: npt.NDArray[np.int64]  # (F,), row of the nucleus in the measurements

    def __len__(self) -> int:
        return len(self.colour)


def remove_nuclei(
    optical_density: FloatArray, rough: RoughNuclei, mpp: float, rng: np.random.Generator
) -> FloatArray:
    """Fill the holes of nuclei with tissue.

    Parameters
    ----------
    optical_density : ndarray of float32, shape (H, W, 3)
    rough : RoughNuclei
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (H, W, 3)
        Optical density; pixels more than about 4 um from any nucleus stay unchanged.
    """
    nuclei = rough.labels > 0
    if not nuclei.any():
        return optical_density.copy()
    hole = _holes(rough, mpp)
    trusted = ~hole & ~rough.suspicious
    if trusted.mean() < 0.02:
        trusted = ~nuclei
    weight = trusted.astype(np.float32)
    known = optical_density * weight[..., None]
    low = np.zeros_like(optical_density)
    missing = np.ones(weight.shape, np.float32)  # remaining weight, for wider scales
    for sigma in (1.5, 3.0, 6.0, 12.0, 40.0):  # micrometres, from near to far
        share = blur_um(weight, sigma, mpp)
        estimate = blur_um(known, sigma, mpp) / np.maximum(share, 1e-4)[..., None]
        # a scale has full weight where 15 % of its window is known
        take = missing * np.clip(share / 0.15, 0, 1)
        low += take[..., None] * estimate
        missing -= take
    low += missing[..., None] * (
        optical_density[trusted].mean(axis=0)
        if trusted.any()
        else optical_density.mean(axis=(0, 1))
    )
    smooth = blur_um(known, DETAIL_UM, mpp)
    smooth /= np.maximum(blur_um(weight, DETAIL_UM, mpp), 0.05)[..., None]
    # detail next to a hole would copy the nucleus's border as an arc: its weight is 0 where 60 % of
    # the surrounding 0.5 um are trusted, and 1 where all are
    sure = np.clip(2.5 * blur_um(weight, 0.5, mpp) - 1.5, 0, 1)
    sure = np.where(trusted, sure, 0).astype(np.float32)
    filled = low + _borrow_detail((optical_density - smooth).astype(np.float32), sure, hole, rng)
    soft = blur_um(hole.astype(np.float32), 0.4, mpp)[..., None]
    soft = np.where(nuclei[..., None], 1, soft)
    return np.maximum(optical_density * (1 - soft) + filled * soft, 0).astype(np.float32)


def _holes(rough: RoughNuclei, mpp: float) -> BoolMask:
    """Return nuclei with their blurred edges: ``HALO_UM``, and up to 2.5 um where still dark."""
    nuclei = (rough.labels > 0).astype(np.uint8)
    hole = cv2.dilate(nuclei, disk(HALO_UM / mpp)).astype(bool)
    elsewhere = rough.darkness[rough.tissue & ~hole]
    if elsewhere.size:
        base, nuclear = float(np.median(elsewhere)), float(np.median(rough.darkness[nuclei > 0]))
        dim = rough.darkness > base + 0.2 * (nuclear - base)  # blurred nuclei fade slowly
        near = cv2.dilate(nuclei, disk(2.0 / mpp)).astype(bool) & dim
        hole |= cv2.dilate(near.astype(np.uint8), disk(0.5 / mpp)).astype(bool)
    return np.asarray(hole)


def _borrow_detail(
    detail: FloatArray, sure: FloatArray, hole: BoolMask, rng: np.random.Generator
) -> FloatArray:
    """Copy fine detail into each hole from up to three places.

    Each place is the best of ten random tries: the one with the largest sum of ``sure``, the
    reliability of detail from 0 to 1, over the part of the hole that is still missing.
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(
        hole.astype(np.uint8), connectivity=4
    )
    height, width = hole.shape
    result = np.zeros_like(detail)
    for k in range(1, count):
        left, top, w, h = statistics[k, :4]
        inside = labels[top : top + h, left : left + w] == k
        missing = inside.astype(np.float32)
        wanted = float(missing.sum())
        for _ in range(3):
            best_gain, best = -1.0, (0, 0)
            for _ in range(10):
                y = int(rng.integers(0, max(1, height - h + 1)))
                x = int(rng.integers(0, max(1, width - w + 1)))
                gain = float((missing * sure[y : y + h, x : x + w]).sum())
                if gain > best_gain:
                    best_gain, best = gain, (y, x)
                if gain > 0.95 * float(missing.sum()):
                    break
            donor = slice(best[0], best[0] + h), slice(best[1], best[1] + w)
            share = missing * sure[donor]
            result[top : top + h, left : left + w] += share[..., None] * detail[donor]
            missing -= share
            if float(missing.sum()) < 0.1 * wanted:
                break
    return result


def cut_textures(
    optical_density: FloatArray,
    labels: InstanceLabels,
    nuclei: Measurements,
    mpp: float,
    rng: np.random.Generator,
) -> NuclearTextures:
    """Resample nuclei into the frames of their ellipses.

    Parameters
    ----------
    optical_density : ndarray of float32, shape (H, W, 3)
    labels : ndarray of int32, shape (H, W)
    nuclei : Measurements
        Measured from ``labels``.
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator
        Draws ``MOST_FRAGMENTS`` of the nuclei if there are more.

    Returns
    -------
    NuclearTextures
        Without nuclei that the image border cuts or that are thinner than 1.5 um.
    """
    rows = np.flatnonzero(~nuclei.touches_border & (nuclei.minor_um > 1.5))
    if len(rows) > MOST_FRAGMENTS:
        rows = np.sort(rng.choice(rows, MOST_FRAGMENTS, replace=False))
    u, v = np.meshgrid(*[FRAME_EXTENT * ((np.arange(FRAME_PX) + 0.5) / FRAME_PX * 2 - 1)] * 2)
    y, x = _places(nuclei, rows, u, v, mpp)
    at_y = np.clip(np.rint(y), 0, labels.shape[0] - 1).astype(int)
    at_x = np.clip(np.rint(x), 0, labels.shape[1] - 1).astype(int)
    owner = labels[at_y, at_x]
    own = owner == nuclei.id[rows, None, None]
    radius = np.hypot(u, v)
    ellipse = (radius <= 1)[None]
    inside = own & ellipse
    outside = (owner == 0) & (radius > 1.02)[None]
    frames = _sample(optical_density, y, x)
    colour = _masked_mean(frames, inside)
    surround = np.where(outside.any(axis=(1, 2))[:, None], _masked_mean(frames, outside), colour)
    contrast = (frames[..., 0] - surround[:, 0, None, None])[..., None]
    core = _masked_mean(contrast, inside & (radius < 0.55)[None])[:, 0]
    rim = _masked_mean(contrast, inside & ((radius > 0.65) & (radius < 0.95))[None])[:, 0]
    agreement = inside.sum(axis=(1, 2)) / np.maximum((own | ellipse).sum(axis=(1, 2)), 1)
    residual = np.where(inside[..., None], frames - colour[:, None, None], 0)
    return NuclearTextures(
        residual=np.ascontiguousarray(residual.transpose(0, 3, 1, 2), np.float32),
        colour=colour.astype(np.float32),
        surround=surround.astype(np.float32),
        area_um2=nuclei.area_um2[rows].astype(np.float32),
        core_to_rim=np.clip(core / np.maximum(rim, 0.02), 0, 3).astype(np.float32),
        single=agreement > 0.82,
        nucleus=rows.astype(np.int64),
    )


def _places(
    nuclei: Measurements,
    rows: npt.NDArray[np.integer],
    u: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    mpp: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return y and x in the image for ellipse coordinates (u, v) in the nuclei ``rows``."""
    half_major, half_minor = (
        axis_um[rows, None, None] / 2 / mpp for axis_um in (nuclei.major_um, nuclei.minor_um)
    )
    angle = nuclei.orientation_rad[rows, None, None]
    cos, sin = np.cos(angle), np.sin(angle)
    y = nuclei.y_px[rows, None, None] + sin * u * half_major + cos * v * half_minor
    x = nuclei.x_px[rows, None, None] + cos * u * half_major - sin * v * half_minor
    return y, x


def _sample(
    optical_density: FloatArray, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> FloatArray:
    """Look up an image at places (F, FRAME_PX, FRAME_PX), bilinearly."""
    at_x, at_y = (each.reshape(-1, FRAME_PX).astype(np.float32) for each in (x, y))
    chunk = 30720  # OpenCV maps have at most 32767 rows
    parts = [
        cv2.remap(
            optical_density, at_x[part], at_y[part], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        for part in (slice(i, i + chunk) for i in range(0, len(at_y), chunk))
    ]
    found = np.concatenate(parts) if parts else np.zeros((0, FRAME_PX, 3), np.float32)
    return np.asarray(found.reshape(-1, FRAME_PX, FRAME_PX, 3), np.float32)


def _masked_mean(frames: FloatArray, mask: BoolMask) -> FloatArray:
    """Return the mean of each frame over its mask, (F, C); 0 where the mask is empty."""
    total = (frames * mask[..., None]).sum(axis=(1, 2))
    return np.asarray(total / np.maximum(mask.sum(axis=(1, 2)), 1)[:, None], np.float32)
