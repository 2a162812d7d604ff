"""Soft labels of real tissue: the maps that a teacher sees in it, learnt as they are.

Labels with hard edges teach a student only what the teacher is sure of. The maps themselves,
probability and border distance of every pixel, also say where the teacher doubts. They are averaged
over sizes and turns of the image, and count less where these disagree (Tarvainen and Valpola 2017
and Xie et al. 2020 describe students of averaged and of noisy views).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from histocli.base.types import FloatArray
from histocli.training.augmentation import Augmentation, cut_crops, vary_appearance
from histocli.training.sampling import Batch, window_px

SCALES = (0.85, 1.0, 1.2)
"""Magnifications at which the teacher sees the tissue."""
LEAST_WEIGHT = 0.1  # of a pixel about which the views disagree most
DISAGREEMENT = 3.0  # weight that is lost for each unit of the views' standard deviation


@dataclass(frozen=True)
class SoftTissue:
    """Patches of real tissue with a teacher's maps."""

    images: npt.NDArray[np.uint8]  # (n, H, W, 3), sRGB
    maps: npt.NDArray[np.uint8]
    """Probability of nucleus, border distance and weight, each times 255; (n, H, W, 3)."""

    def __len__(self) -> int:
        return len(self.images)

    def draw(
        self,
        size: int,
        crop_px: int,
        augmentation: Augmentation,
        rng: np.random.Generator,
        device: torch.device,
    ) -> Batch:
        """Draw patches, cut a crop of each and vary its appearance; the maps only turn with it.

        Parameters and result as in :func:`histocli.training.sampling.draw_crops`; ``nucleus`` and
        ``valid`` of the batch are between 0 and 1 here.
        """
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        chosen = rng.integers(0, len(self), size)
        height, width = self.images.shape[1:3]
        side_y, side_x = (window_px(crop_px, side) for side in (height, width))
        corners = rng.integers(0, [height - side_y + 1, width - side_x + 1], size=(size, 2))
        planes = torch.empty((size, 6, side_y, side_x), dtype=torch.float32)
        for plane, patch, (top, left) in zip(planes, chosen, corners, strict=True):
            window = (patch, slice(top, top + side_y), slice(left, left + side_x))
            plane[:3] = torch.from_numpy(self.images[window]).permute(2, 0, 1)
            plane[3:] = torch.from_numpy(self.maps[window]).permute(2, 0, 1)
        crops = cut_crops(planes.to(device), crop_px, augmentation.scale, generator)
        ones = torch.ones(size, device=device)
        return Batch(
            pixels=vary_appearance(crops[:, :3], augmentation, generator) / 255,
            nucleus=crops[:, 3] / 255,
            distance=crops[:, 4] / 255,
            valid=crops[:, 5] / 255,
            weight=ones,
            borders=ones,
        )


def maps_over_scales(
    predict: Callable[[npt.NDArray[np.uint8]], FloatArray],
    patches: npt.NDArray[np.uint8],
    multiple_px: int,
) -> FloatArray:
    """Return a teacher's maps of patches, averaged over ``SCALES``, and how much these disagree.

    Parameters
    ----------
    predict : callable
        Maps (N, H, W, 2) of patches (N, H, W, 3), whose sides are multiples of ``multiple_px``.
    patches : ndarray of uint8, shape (N, H, W, 3)
        sRGB.

    Returns
    -------
    ndarray of float32, shape (N, H, W, 3)
        Probability, border distance, and the standard deviation of the probability over the scales.
    """
    height, width = patches.shape[1:3]
    seen = []
    for scale in SCALES:
        rows, columns = (
            max(round(side * scale / multiple_px), 1) * multiple_px for side in (height, width)
        )
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        resized = [cv2.resize(each, (columns, rows), interpolation=way) for each in patches]
        maps = predict(np.stack(resized))
        back = [cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in maps]
        seen.append(np.stack(back))
    probability = np.stack([each[..., 0] for each in seen])
    mean = np.mean(seen, axis=0)
    return np.concatenate([mean, probability.std(axis=0)[..., None]], axis=-1).astype(np.float32)


def mean_maps(maps: Sequence[FloatArray]) -> FloatArray:
    """Return the mean of several teachers' maps, with the disagreement over all of their views.

    Parameters
    ----------
    maps : sequence of ndarray of float32, shape (N, H, W, 3)
        What ``maps_over_scales`` returned for each teacher.
    """
    if len(maps) == 1:
        return maps[0]
    seen = np.stack(maps)
    mean = seen[..., :2].mean(axis=0)
    # the variance over all views is the mean variance of the teachers plus that of their means
    variance = np.square(seen[..., 2]).mean(axis=0) + seen[..., 0].var(axis=0)
    return np.concatenate([mean, np.sqrt(variance)[..., None]], axis=-1).astype(np.float32)


def soft_tissue(images: npt.NDArray[np.uint8], maps: list[FloatArray]) -> SoftTissue:
    """Return patches with the maps of ``maps_over_scales`` as soft labels."""
    seen = np.stack(maps)
    weight = np.clip(1 - DISAGREEMENT * seen[..., 2], LEAST_WEIGHT, 1)
    soft = np.stack([seen[..., 0], seen[..., 1], weight], axis=-1)
    return SoftTissue(images, np.rint(soft * 255).astype(np.uint8))
