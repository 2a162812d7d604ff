"""Other microscopes, scanners and stainings: changes of patches on the tensor, on any device.

Every function takes a torch generator on the CPU, so that a seed means the same on every device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from histocli.optics.blur import blur_each
from histocli.optics.density import light_to_optical_density, optical_density_to_light


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far training patches are changed."""

    scale: tuple[float, float] = (0.75, 1.35)
    """Magnification, drawn evenly in its logarithm."""
    stain_gain: float = 0.15
    """Standard deviation of the log amount of stain, overall and per colour."""
    stain_mixing: float = 0.04
    """Standard deviation of the change of stain colours."""
    underexposure: float = 0.6
    """Largest neutral absorbance added to a fifth of the patches, as a dim lamp does."""
    blur_px: float = 1.3
    """Largest blur, standard deviation in pixels, of a third of the patches."""
    noise: float = 0.035
    """Largest noise, standard deviation relative to white, of a third of the patches."""


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw (batch,) numbers evenly from low..high."""
    return low + (high - low) * torch.rand(batch, generator=generator)


def sometimes(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw (batch,) of 1 with probability ``share``, else 0."""
    return (torch.rand(batch, generator=generator) < share).float()


def cut_crops(planes: Tensor, crop_px: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Cut one crop from each patch at a random place, angle, magnification and handedness.

    Parameters
    ----------
    planes : Tensor of float32, shape (B, C, H, W)
    crop_px : int
        Side of the crops.
    scale : tuple of float
        Smallest and largest magnification.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of float32, shape (B, C, crop_px, crop_px)
        Bilinear; mirrored where the crop reaches over the border of the patch.
    """
    batch, _, height, width = planes.shape
    low, high = (torch.tensor(edge).log().item() for edge in scale)
    zoom = uniform(batch, low, high, generator).exp()
    angle = uniform(batch, 0, 2 * torch.pi, generator)
    mirror = 1 - 2 * sometimes(batch, 0.5, generator)
    half = crop_px / 2 / zoom
    free_y, free_x = ((side / 2 - half).clamp(min=0) for side in (height, width))
    centre_y = uniform(batch, -1, 1, generator) * free_y
    centre_x = uniform(batch, -1, 1, generator) * free_x
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # grid_sample counts the whole width as 2
    x_row = torch.stack([cos * mirror * crop_px / width, -sin * crop_px / width, 2 * centre_x / width], dim=1)
    y_row = torch.stack([sin * mirror * crop_px / height, cos * crop_px / height, 2 * centre_y / height], dim=1)
    affine = torch.stack([x_row, y_row], dim=1).to(planes.device)
    grid = functional.affine_grid(affine, [batch, planes.shape[1], crop_px, crop_px], align_corners=False)
    return functional.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def vary_appearance(light: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change stain, exposure, focus and noise.

    Parameters
    ----------
    light : Tensor of float32, shape (B, 3, H, W)
        sRGB, 0..255.
    settings : Augmentation
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of float32, shape (B, 3, H, W)
        0..255.
    """
    batch, device = len(light), light.device
    gain = (settings.stain_gain * torch.randn(batch, 1, generator=generator)).exp()
    gain = gain * (settings.stain_gain / 2 * torch.randn(batch, 3, generator=generator)).exp()
    mixing = torch.diag_embed(gain) + settings.stain_mixing * torch.randn(batch, 3, 3, generator=generator)
    offset = 0.03 * torch.randn(batch, 3, generator=generator)
    offset = offset + (sometimes(batch, 0.2, generator) * uniform(batch, 0, settings.underexposure, generator))[:, None]
    density = light_to_optical_density(light)
    density = torch.einsum("bij,bjhw->bihw", mixing.to(device), density) + offset.to(device)[:, :, None, None]
    sigma = sometimes(batch, 0.35, generator) * uniform(batch, 0.3, settings.blur_px, generator)
    varied = blur_each(optical_density_to_light(density), sigma.to(device))
    strength = sometimes(batch, 0.35, generator) * uniform(batch, 0, 255 * settings.noise, generator)
    noise = torch.randn(light.shape, generator=generator).to(device)
    soft = sometimes(batch, 0.5, generator) * 0.8  # half the noise is coarse, as demosaicking and JPEG leave it
    noise = blur_each(noise, soft.to(device)) * (1 + 1.5 * soft).to(device)[:, None, None, None]
    return (varied + strength.to(device)[:, None, None, None] * noise).clamp(0, 255)
