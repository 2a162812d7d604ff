"""Textures of one reference: its tissue with the nuclei taken out, and its nuclei one by one.

Background: behind a nucleus the low frequencies are guessed from around it (normalised convolution,
Knutsson and Westin 1993) and the high ones are copied from a place of the same image that has no
nuclei. Nuclei: each is resampled into the frame of its own ellipse, so that it can be stretched
into any new outline without streaks.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from histocli.base.types import BoolMask, FloatArray, InstanceLabels
from histocli.instances.components import disk
from histocli.instances.measurements import Measurements
from histocli.reference.rough import HALO_UM, RoughNuclei, blur_um

# side of a nuclear texture; the ellipse of the nucleus touches the sides of the inner 10/12
FRAME_PX = 24
FRAME_EXTENT = 1.2  # the frame shows the ellipse times this
MOST_FRAGMENTS = 256  # textures kept per reference
SCALES_UM = (1.5, 3.0, 6.0, 12.0, 40.0)  # of the guess behind a nucleus, from near to far
FADE_UM = 0.5
MOST_DONORS = 3  # places that one hole borrows from
PENUMBRA = 0.2  # of the way from tissue to nuclei in darkness
PENUMBRA_UM = 2.0  # from a rough nucleus
# what is finer than this is copied; at 1 a critic found filled places with an AUC of 0.75, so with
# 0.66
DETAIL_UM = 2.5
SURROUND_UM = 2.0  # the ring around a nucleus that its contrast is measured against


@dataclass(frozen=True)
class NuclearTextures:
    """Real nuclei in the frame of their own ellipse."""

    residual: FloatArray
    """(F, 3, FRAME_PX, FRAME_PX), optical density minus the nucleus's mean."""
    colour: FloatArray
    """(F, 3), mean optical density of the nucleus."""
    surround: FloatArray
    """(F, 3), mean optical density of the ring around it."""
    area_um2: FloatArray
    """(F,)."""
    core_to_rim: FloatArray
    """(F,), contrast of the core over that of the rim: below 1 is a vesicular nucleus."""
    single: npt.NDArray[np.bool_]
    """(F,), whether the outline is an ellipse, as that of one nucleus is."""
    nucleus: npt.NDArray[np.int64]
    """(F,), which row of the measurements each comes from."""

    def __len__(self) -> int:
        return len(self.colour)


def remove_nuclei(
    optical_density: FloatArray, rough: RoughNuclei, mpp: float, rng: np.random.Generator
) -> FloatArray:
    """Fill the places of nuclei with tissue.

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
        Optical density; untouched away from nuclei.
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
    missing = np.ones(weight.shape, np.float32)  # what nearer scales left open
    for sigma in SCALES_UM:
        share = blur_um(weight, sigma, mpp)
        estimate = blur_um(known, sigma, mpp) / np.maximum(share, 1e-4)[..., None]
        # trust a scale where a sixth of its window is known
        take = missing * np.clip(share / 0.15, 0, 1)
        low += take[..., None] * estimate
        missing -= take
    low += missing[..., None] * (
        optical_density[trusted].mean(axis=0)
        if trusted.any()
        else optical_density.mean(axis=(0, 1))
    )
    fine = (
        blur_um(known, DETAIL_UM, mpp)
        / np.maximum(blur_um(weight, DETAIL_UM, mpp), 0.05)[..., None]
    )
    # next to a hole the image still holds the nucleus's border: detail fades out there, else arcs
    # would be copied along
    sure = np.clip(2.5 * blur_um(weight, FADE_UM, mpp) - 1.5, 0, 1)
    sure = np.where(trusted, sure, 0).astype(np.float32)
    filled = low + _borrow_detail((optical_density - fine).astype(np.float32), sure, hole, rng)
    soft = blur_um(hole.astype(np.float32), 0.4, mpp)[..., None]
    soft = np.where(nuclei[..., None], 1, soft)
    return np.maximum(optical_density * (1 - soft) + filled * soft, 0).astype(np.float32)


def _holes(rough: RoughNuclei, mpp: float) -> BoolMask:
    """Return what is taken out: nuclei, the ring of their edge, and their penumbra where focus is
    poor.
    """
    nuclei = (rough.labels > 0).astype(np.uint8)
    hole = cv2.dilate(nuclei, disk(HALO_UM / mpp)).astype(bool)
    elsewhere = rough.darkness[rough.tissue & ~hole]
    if elsewhere.size:
        base, nuclear = float(np.median(elsewhere)), float(np.median(rough.darkness[nuclei > 0]))
        dim = rough.darkness > base + PENUMBRA * (nuclear - base)
        near = cv2.dilate(nuclei, disk(PENUMBRA_UM / mpp)).astype(bool) & dim
        hole |= cv2.dilate(near.astype(np.uint8), disk(0.5 / mpp)).astype(bool)
    return np.asarray(hole)


def _borrow_detail(
    detail: FloatArray, sure: FloatArray, hole: BoolMask, rng: np.random.Generator
) -> FloatArray:
    """Copy high frequencies into each hole from shifts of it that meet few holes; later ones where
    the earlier are not sure.
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
        for _ in range(MOST_DONORS):
            best_gain, best = -1.0, (0, 0)
            for _ in range(10):
                y, x = (
                    int(rng.integers(0, max(1, height - h + 1))),
                    int(rng.integers(0, max(1, width - w + 1))),
                )
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
        Of the same labels.
    mpp : float
        Micrometres per pixel.
    rng : numpy.random.Generator
        Chooses among nuclei when there are more than ``MOST_FRAGMENTS``.

    Returns
    -------
    NuclearTextures
        Of the nuclei that are not cut by the image border; may be empty.
    """
    whole = np.flatnonzero(~nuclei.touches_border & (nuclei.minor_um > 1.5))
    if len(whole) > MOST_FRAGMENTS:
        whole = np.sort(rng.choice(whole, MOST_FRAGMENTS, replace=False))
    n = len(whole)
    if n == 0:
        empty = np.zeros((0, 3), np.float32)
        nothing = np.zeros(0, np.float32)
        return NuclearTextures(
            np.zeros((0, 3, FRAME_PX, FRAME_PX), np.float32),
            empty,
            empty,
            nothing,
            nothing,
            np.zeros(0, bool),
            np.zeros(0, np.int64),
        )
    unit = (np.arange(FRAME_PX) + 0.5) / FRAME_PX * 2 - 1
    v, u = np.meshgrid(unit * FRAME_EXTENT, unit * FRAME_EXTENT, indexing="ij")
    angle = nuclei.orientation_rad[whole, None, None]
    major, minor = (
        nuclei.major_um[whole, None, None] / 2 / mpp,
        nuclei.minor_um[whole, None, None] / 2 / mpp,
    )
    x = nuclei.x_px[whole, None, None] + np.cos(angle) * u * major - np.sin(angle) * v * minor
    y = nuclei.y_px[whole, None, None] + np.sin(angle) * u * major + np.cos(angle) * v * minor
    columns, rows = (
        x.reshape(-1, FRAME_PX).astype(np.float32),
        y.reshape(-1, FRAME_PX).astype(np.float32),
    )
    frames = np.concatenate(
        [  # OpenCV maps have at most 32767 rows
            cv2.remap(
                optical_density,
                columns[i : i + 30720],
                rows[i : i + 30720],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )
            for i in range(0, len(rows), 30720)
        ]
    ).reshape(n, FRAME_PX, FRAME_PX, 3)
    at_y = np.clip(np.rint(y), 0, labels.shape[0] - 1).astype(int)
    at_x = np.clip(np.rint(x), 0, labels.shape[1] - 1).astype(int)
    owner = labels[at_y, at_x]
    own = owner == nuclei.id[whole, None, None]
    radius = np.hypot(u, v)
    inside = own & (radius <= 1)[None]
    outside = (owner == 0) & (radius > 1.02)[None]
    colour = _masked_mean(frames, inside)
    surround = np.where(outside.any(axis=(1, 2))[:, None], _masked_mean(frames, outside), colour)
    contrast = frames[..., 0] - surround[:, 0, None, None]
    core = _masked_mean(contrast[..., None], inside & (radius < 0.55)[None])[:, 0]
    rim = _masked_mean(contrast[..., None], inside & ((radius > 0.65) & (radius < 0.95))[None])[
        :, 0
    ]
    ellipse = (radius <= 1)[None]
    agreement = (own & ellipse).sum(axis=(1, 2)) / np.maximum((own | ellipse).sum(axis=(1, 2)), 1)
    residual = np.where(inside[..., None], frames - colour[:, None, None], 0)
    return NuclearTextures(
        residual=np.ascontiguousarray(residual.transpose(0, 3, 1, 2), np.float32),
        colour=colour.astype(np.float32),
        surround=surround.astype(np.float32),
        area_um2=nuclei.area_um2[whole].astype(np.float32),
        core_to_rim=np.clip(core / np.maximum(rim, 0.02), 0, 3).astype(np.float32),
        single=agreement > 0.82,
        nucleus=whole.astype(np.int64),
    )


def _masked_mean(frames: FloatArray, mask: BoolMask) -> FloatArray:
    """Mean over the pixels of each frame where the mask holds, shape (F, C); 0 where it holds
    nowhere.
    """
    total = (frames * mask[..., None]).sum(axis=(1, 2))
    return np.asarray(total / np.maximum(mask.sum(axis=(1, 2)), 1)[:, None], np.float32)
