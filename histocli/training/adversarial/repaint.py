"""Repainting whole patches by a trained refiner."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histocli.base.device import autocast
from histocli.model.refiner import Refiner
from histocli.optics.density import light_to_optical_density, optical_density_to_light
from histocli.training.adversarial.gate import edit_gate
from histocli.training.adversarial.sampling import RealPatches


def refine_patches(
    refiner: Refiner,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    references: RealPatches,
    seeds: list[np.random.Generator],
    mpp: float,
    dtype: torch.dtype,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Repaint patches wherever the gate, ``edit_gate``, allows it, on the refiner's device.

    Parameters
    ----------
    images : ndarray of uint8, shape (B, H, W, 3)
        sRGB with white glass; sides are multiples of 4.
    labels : ndarray of int32, shape (B, H, W)
    references : RealPatches
        For each patch, a real patch of the style that it takes.
    seeds : list of numpy.random.Generator
        For each patch, the generator of the refiner's input noise.
    mpp : float
        Pixel size in micrometres.
    dtype : torch.dtype
        Number format of the convolutions.

    Returns
    -------
    repainted : ndarray of uint8, shape (B, H, W, 3)
    closed : ndarray of bool, shape (B, H, W)
        True where the gate is 0. Images stay as they are there.
    """
    device = next(refiner.parameters()).device

    def plane(values: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values)[:, None].to(device)

    def density_of(pixels: npt.NDArray[np.uint8]) -> Tensor:
        light = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        return light_to_optical_density(light)

    gate = plane(np.stack([edit_gate(each, mpp, refiner.architecture.edits) for each in labels]))
    noise = plane(np.stack([rng.standard_normal(labels.shape[1:], np.float32) for rng in seeds]))
    density = density_of(images)
    with torch.inference_mode(), autocast(device, dtype):
        change = refiner(
            density,
            plane(labels > 0).float(),
            noise,
            gate,
            density_of(references.images),
            plane(references.nuclei).float(),
        )
    light = optical_density_to_light(density + change).round()
    repainted = light.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    closed = (gate == 0)[:, 0].cpu().numpy()
    return np.where(closed[..., None], images, repainted), closed
