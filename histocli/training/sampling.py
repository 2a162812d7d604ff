"""Patches in memory, and the batches drawn from them."""

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histocli.training.augmentation import Augmentation, cut_crops, vary_appearance

WINDOW = 1.375  # sides of a crop that its window has: room for magnification and most rotations
INSIDE = 0.5  # a resampled mask is nucleus above this


@dataclass(frozen=True)
class PatchSet:
    """Labelled patches with their targets, as the network learns them."""

    images: npt.NDArray[np.uint8]
    """(n, H, W, 3)."""
    nucleus: npt.NDArray[np.bool_]
    """(n, H, W)."""
    valid: npt.NDArray[np.bool_]
    """(n, H, W), False where ignored."""
    distance: npt.NDArray[np.uint8]
    """(n, H, W), normalised border distance, 0..255."""
    weight: npt.NDArray[np.float32]
    """(n,), in the loss."""
    share: npt.NDArray[np.float64]
    """(n,), chance of being drawn; sums to 1."""
    borders: npt.NDArray[np.bool_] | None = None
    """(n,), whether distances to borders are known and learnt; None where they are known in all."""
    contact: npt.NDArray[np.bool_] | None = None
    """(n, H, W), where two nuclei meet; None where that is not learnt."""

    def __len__(self) -> int:
        return len(self.images)

    def part(self, where: slice) -> "PatchSet":
        """Return some of the patches, as views; their shares sum to 1 again."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        chosen = {name: value[where] for name, value in values.items() if value is not None}
        return replace(self, **chosen | {"share": chosen["share"] / chosen["share"].sum()})


@dataclass(frozen=True)
class Batch:
    """What a training step sees."""

    pixels: Tensor
    """(B, 3, H, W) float32, 0..1."""
    nucleus: Tensor
    distance: Tensor
    valid: Tensor
    """(B, H, W) float32."""
    weight: Tensor
    """(B,) float32."""
    borders: Tensor
    """(B,) float32, 1 where distances to borders are learnt."""
    contact: Tensor | None = None
    """(B, H, W) float32, 1 where two nuclei meet."""

    def part(self, where: slice) -> "Batch":
        """Return some of the crops."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(
            self, **{name: value[where] for name, value in values.items() if value is not None}
        )


def draw_batch(
    patches: PatchSet,
    size: int,
    crop_px: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    device: torch.device,
) -> Batch:
    """Draw patches, cut crops and vary their appearance.

    Parameters
    ----------
    patches : PatchSet
    size : int
        Crops in the batch.
    crop_px : int
        Side of a crop.
    augmentation : Augmentation
    rng : numpy.random.Generator
        Of this step.
    device : torch.device
        Where the work is done.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    chosen = rng.choice(len(patches), size=size, p=patches.share)
    height, width = patches.nucleus.shape[1:]
    side_y, side_x = (min(side, round(crop_px * WINDOW)) for side in (height, width))
    planes = torch.empty(
        (size, 6 if patches.contact is None else 7, side_y, side_x), dtype=torch.float32
    )
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
    nucleus = (crops[:, 3] > INSIDE).float()
    return Batch(
        pixels=vary_appearance(crops[:, :3], augmentation, generator) / 255,
        nucleus=nucleus,
        distance=crops[:, 4] / 255 * nucleus,
        valid=(crops[:, 5] > 0.99).float(),
        weight=torch.from_numpy(patches.weight[chosen]).to(device),
        borders=torch.ones(size, device=device)
        if patches.borders is None
        else torch.from_numpy(patches.borders[chosen].astype(np.float32)).to(device),
        contact=None if patches.contact is None else (crops[:, 6] > INSIDE).float(),
    )
