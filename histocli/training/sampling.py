"""Patches in memory with their targets (``instances.targets``), and batches of crops of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histocli.instances.targets import contacts, normalised_distance
from histocli.training.augmentation import Augmentation, cut_crops, vary_appearance

WINDOW = 1.375  # side read / side of the crop: room for magnification and most rotations

Values = TypeVar("Values", "PatchSet", "Batch")


@dataclass(frozen=True)
class PatchSet:
    """Labelled patches with their targets."""

    images: npt.NDArray[np.uint8]  # (n, H, W, 3), sRGB
    nucleus: npt.NDArray[np.bool_]  # (n, H, W)
    valid: npt.NDArray[np.bool_]  # (n, H, W), False for pixels that are ignored
    distance: npt.NDArray[np.uint8]  # (n, H, W), depth: 255 deepest in a nucleus, 0 outside
    weight: npt.NDArray[np.float32]  # (n,), how much each patch counts in the loss
    share: npt.NDArray[np.float64]  # (n,), chance of being drawn; sums to 1
    borders: npt.NDArray[np.bool_] | None = None  # (n,), depth and contact are learnt; None: all
    contact: npt.NDArray[np.bool_] | None = None  # (n, H, W), two nuclei meet; None: not learnt

    @classmethod
    def labelled(
        cls,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int32],
        *,
        contacts_mpp: float | None = None,
    ) -> PatchSet:
        """Return patches with the targets of their labels, all equally likely to be drawn.

        ``contacts_mpp``, in micrometres per pixel, adds contacts as a target.
        """
        n = len(images)
        contact = None
        if contacts_mpp is not None:
            contact = np.stack([contacts(each, contacts_mpp) for each in labels])
        return cls(
            images,
            labels > 0,
            labels >= 0,
            np.stack([normalised_distance(each) for each in labels]),
            np.ones(n, np.float32),
            np.full(n, 1 / n),
            contact=contact,
        )

    def __len__(self) -> int:
        return len(self.images)

    def put(self, places: npt.NDArray[np.integer], other: PatchSet) -> None:
        """Replace the patches at ``places``; ``share`` and ``borders`` of these places stay."""
        for name in ("images", "nucleus", "valid", "distance", "weight", "contact"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None:
                mine[places] = theirs

    def part(self, where: slice) -> PatchSet:
        """Return views of some of the patches; their ``share`` is scaled to sum to 1."""
        chosen = _changed(self, lambda values: values[where])
        return replace(chosen, share=chosen.share / chosen.share.sum())

    def mixed_with(self, other: PatchSet, share: float) -> PatchSet:
        """Return the patches of both sets; ``share`` is the chance that ``other`` is drawn from.

        A set whose ``borders`` is None counts as True; an ``other`` without contacts gets False.
        """
        borders = [
            np.ones(len(each), bool) if each.borders is None else each.borders
            for each in (self, other)
        ]
        contact = None
        if self.contact is not None:
            unknown = np.zeros(other.nucleus.shape, bool)
            contact = np.concatenate(
                [self.contact, unknown if other.contact is None else other.contact]
            )
        return PatchSet(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.nucleus, other.nucleus]),
            np.concatenate([self.valid, other.valid]),
            np.concatenate([self.distance, other.distance]),
            np.concatenate([self.weight, other.weight]),
            np.concatenate([(1 - share) * self.share, share * other.share]),
            np.concatenate(borders),
            contact,
        )


@dataclass(frozen=True)
class Batch:
    """The crops that a training step sees, with their targets; all are float32."""

    pixels: Tensor  # (B, 3, H, W), 0..1
    nucleus: Tensor  # (B, H, W), 0 or 1
    distance: Tensor  # (B, H, W), 0..1, depth inside a nucleus
    valid: Tensor  # (B, H, W), 0 where pixels are ignored, else 1
    weight: Tensor  # (B,)
    borders: Tensor  # (B,) float32, 1 for crops whose depths and contacts are learnt, else 0
    contact: Tensor | None = None  # (B, H, W) float32, 1 where two nuclei meet

    def part(self, where: slice) -> Batch:
        """Return some of the crops, as views."""
        return _changed(self, lambda values: values[where])

    def joined(self, other: Batch) -> Batch:
        """Return the crops of both; where ``other`` knows no contacts, none are learnt."""
        joined = {
            each.name: torch.cat([getattr(self, each.name), getattr(other, each.name)])
            for each in fields(self)
            if each.name != "contact"
        }
        contact = None
        if self.contact is not None:
            unknown = torch.zeros_like(other.nucleus)
            contact = torch.cat([self.contact, unknown if other.contact is None else other.contact])
            if other.contact is None:
                joined["borders"] = torch.cat([self.borders, torch.zeros_like(other.borders)])
        return Batch(**joined, contact=contact)


def _changed(values: Values, change: Callable[[Any], Any]) -> Values:
    """Return patches or crops with ``change`` applied to each array that is not None."""
    named = {each.name: getattr(values, each.name) for each in fields(values)}
    return replace(
        values, **{name: change(each) for name, each in named.items() if each is not None}
    )


def whole_patches(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], device: torch.device
) -> Batch:
    """Return whole patches as a batch, neither cropped nor varied, with targets of their labels."""
    patches = PatchSet.labelled(images, labels)

    def tensor(values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device).float()

    ones = torch.ones(len(images), device=device)
    return Batch(
        pixels=tensor(images).permute(0, 3, 1, 2) / 255,
        nucleus=tensor(patches.nucleus),
        distance=tensor(patches.distance) / 255,
        valid=tensor(patches.valid),
        weight=ones,
        borders=ones,
    )


def window_px(crop_px: int, side: int) -> int:
    """Return the side of the window that is read for a crop from a patch of a side, in pixels."""
    return min(side, round(crop_px * WINDOW))


def draw_crops(
    patches: PatchSet,
    size: int,
    crop_px: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    device: torch.device,
) -> Batch:
    """Draw patches, cut a crop of each and vary its appearance.

    Parameters
    ----------
    size : int
        Number of patches to draw; a patch may be drawn twice.
    crop_px : int
        Side of the crops, in pixels.
    device : torch.device
        Device on which crops are cut and varied.

    Returns
    -------
    Batch
        Crops and their targets, float32, on the device.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    chosen = rng.choice(len(patches), size=size, p=patches.share)
    height, width = patches.nucleus.shape[1:]
    side_y, side_x = (window_px(crop_px, side) for side in (height, width))
    channels = 6 if patches.contact is None else 7
    planes = torch.empty((size, channels, side_y, side_x), dtype=torch.float32)
    corners = rng.integers(0, [height - side_y + 1, width - side_x + 1], size=(size, 2))
    for plane, patch, (top, left) in zip(planes, chosen, corners, strict=True):
        window = (patch, slice(top, top + side_y), slice(left, left + side_x))
        plane[:3] = torch.from_numpy(patches.images[window]).permute(2, 0, 1)
        plane[3] = torch.from_numpy(patches.nucleus[window])
        plane[4] = torch.from_numpy(patches.distance[window])
        plane[5] = torch.from_numpy(patches.valid[window])
        if patches.contact is not None:
            plane[6] = torch.from_numpy(patches.contact[window])
    crops = cut_crops(planes.to(device), crop_px, augmentation.scale, generator)
    nucleus = (crops[:, 3] > 0.5).float()
    borders = np.ones(size, bool) if patches.borders is None else patches.borders[chosen]
    return Batch(
        pixels=vary_appearance(crops[:, :3], augmentation, generator) / 255,
        nucleus=nucleus,
        distance=crops[:, 4] / 255 * nucleus,
        valid=(crops[:, 5] > 0.99).float(),
        weight=torch.from_numpy(patches.weight[chosen]).to(device),
        borders=torch.from_numpy(borders.astype(np.float32)).to(device),
        contact=None if patches.contact is None else (crops[:, 6] > 0.5).float(),
    )
