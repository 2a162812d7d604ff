"""Random changes of crops that imitate other microscopes, scanners and stainings, on any device.

Random functions take a torch generator on the CPU, so that a seed draws equal numbers everywhere.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.optics.blur import blur_each
from histocli.optics.density import light_to_optical_density, optical_density_to_light

RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Matrix from sRGB to JPEG's colours; rows: brightness, blue difference and red difference."""
JPEG_BLOCK = [
    [math.sqrt((1 + (k > 0)) / 8) * math.cos((2 * x + 1) * k * math.pi / 16) for x in range(8)]
    for k in range(8)
]
"""Matrix of the orthonormal cosine transform of 8 samples."""
LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation steps of JPEG's brightness coefficients at quality 50."""
CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
"""Quantisation steps of JPEG's coefficients of both colour differences at quality 50."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength and frequency of the changes of crops; SD is a standard deviation."""

    scale: tuple[float, float] = (0.75, 1.35)  # magnification, drawn evenly in its logarithm
    stain_gain: float = 0.15  # SD of the log factor on all colours; half of it for single colours
    stain_mixing: float = 0.04  # SD of the entries added to the 3 x 3 matrix on optical densities
    underexposure: float = 0.6  # largest optical density added to a fifth of the crops: a dim lamp
    blur_px: float = 1.3  # largest blur of 35 % of the crops, standard deviation in pixels
    noise: float = 0.035  # largest noise of 35 % of the crops, standard deviation where white is 1
    transfer: float = 0.25  # share of crops with colours moved towards those of another crop
    jpeg: float = 0.25  # share of crops with JPEG compression
    jpeg_quality: tuple[float, float] = (25.0, 90.0)  # lowest and highest, on libjpeg's 1..100
    stains: float = 0.0  # strength of the changes of ``vary_stains``; 0 leaves them out


STRONG_STAINS = 1.6
"""``Augmentation.stains`` of networks on a frozen trunk (``docs/research/trunk.md``)."""


def augmentation_for(segmenter: nn.Module) -> Augmentation:
    """Return the changes of crops that suit a network."""
    return Augmentation(stains=STRONG_STAINS if isinstance(segmenter, TrunkSegmenter) else 0.0)


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw numbers, shape (batch,), evenly from low..high."""
    return low + (high - low) * torch.rand(batch, generator=generator)


def sometimes(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw numbers, shape (batch,), that are 1 with probability ``share``, else 0."""
    return (torch.rand(batch, generator=generator) < share).float()


def cut_crops(
    planes: Tensor, crop_px: int, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Cut one crop from each patch at a random place, angle and magnification, mirrored or not.

    Parameters
    ----------
    planes : Tensor of float32, shape (B, C, H, W)
        Patches.
    crop_px : int
        Side of the crops, in pixels.
    scale : tuple of float
        Smallest and largest magnification.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of float32, shape (B, C, crop_px, crop_px)
        Bilinearly resampled. Beyond the border of a patch its mirror image is read.
    """
    batch, channels, height, width = planes.shape
    low, high = (torch.tensor(edge).log().item() for edge in scale)
    zoom = uniform(batch, low, high, generator).exp()
    angle = uniform(batch, 0, 2 * torch.pi, generator)
    mirror = 1 - 2 * sometimes(batch, 0.5, generator)
    half = crop_px / 2 / zoom
    free_y, free_x = ((side / 2 - half).clamp(min=0) for side in (height, width))
    centre_y = uniform(batch, -1, 1, generator) * free_y
    centre_x = uniform(batch, -1, 1, generator) * free_x
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # in grid_sample's coordinates, the whole width or height is 2
    x_row = torch.stack(
        [cos * mirror * crop_px / width, -sin * crop_px / width, 2 * centre_x / width], dim=1
    )
    y_row = torch.stack(
        [sin * mirror * crop_px / height, cos * crop_px / height, 2 * centre_y / height], dim=1
    )
    affine = torch.stack([x_row, y_row], dim=1).to(planes.device)
    grid = functional.affine_grid(affine, [batch, channels, crop_px, crop_px], align_corners=False)
    return functional.grid_sample(
        planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def vary_appearance(light: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Change stain, exposure, focus, noise and compression of crops.

    Parameters
    ----------
    light : Tensor of float32, shape (B, 3, H, W)
        sRGB, 0..255.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of float32, shape (B, 3, H, W)
        sRGB, 0..255.
    """
    batch, device = len(light), light.device
    gain = (settings.stain_gain * torch.randn(batch, 1, generator=generator)).exp()
    gain = gain * (settings.stain_gain / 2 * torch.randn(batch, 3, generator=generator)).exp()
    mixing = settings.stain_mixing * torch.randn(batch, 3, 3, generator=generator)
    mixing = torch.diag_embed(gain) + mixing
    offset = 0.03 * torch.randn(batch, 3, generator=generator)
    dim = sometimes(batch, 0.2, generator) * uniform(batch, 0, settings.underexposure, generator)
    offset = offset + dim[:, None]
    density = light_to_optical_density(light)
    if settings.transfer > 0:
        density = transfer_colours(density, settings.transfer, generator)
    density = torch.einsum("bij,bjhw->bihw", mixing.to(device), density)
    if settings.stains > 0:
        density = vary_stains(density, settings.stains, generator)
    varied = optical_density_to_light(density + offset.to(device)[:, :, None, None])
    # blur, noise and compression are computed only for the crops that get them
    blurred = _chosen(batch, 0.35, generator)
    if len(blurred):
        sigma = uniform(len(blurred), 0.3, settings.blur_px, generator).to(device)
        varied[blurred.to(device)] = blur_each(varied[blurred.to(device)], sigma)
    noisy = _chosen(batch, 0.35, generator)
    if len(noisy):
        strength = uniform(len(noisy), 0, 255 * settings.noise, generator)
        noise = torch.randn((len(noisy), *light.shape[1:]), generator=generator).to(device)
        # the noise of half of these crops is coarse, as after demosaicking
        soft = sometimes(len(noisy), 0.5, generator) * 0.8
        strength = (strength * (1 + 1.5 * soft)).to(device)[:, None, None, None]
        varied[noisy.to(device)] += blur_each(noise, soft.to(device)) * strength
    varied = varied.clamp(0, 255)
    compressed = _chosen(batch, settings.jpeg, generator)
    if len(compressed):
        quality = uniform(len(compressed), *settings.jpeg_quality, generator).to(device)
        varied[compressed.to(device)] = compress_jpeg(varied[compressed.to(device)], quality)
    return varied


def vary_stains(density: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change the stains of crops much more than laboratories that use hematoxylin and eosin differ.

    Some crops come near to one hue, as of a single stain; all change the strength of each colour
    and mix colours; some lose or gain contrast; some get a coloured haze over everything. A network
    that learns its own filters needs several times the steps then; one on a frozen trunk does not.

    Parameters
    ----------
    density : Tensor of float32, shape (B, 3, H, W)
        Optical density.
    strength : float
        About 1.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor of float32, shape (B, 3, H, W)
    """
    batch, device = len(density), density.device

    def plane(values: Tensor) -> Tensor:
        return values.to(device)[..., None, None]

    share = sometimes(batch, 0.2 * strength, generator) * uniform(batch, 0.3, 1.0, generator)
    hue = (0.35 * strength * torch.randn(batch, 3, generator=generator)).exp()
    hue = plane(hue / hue.mean(dim=1, keepdim=True))
    share = plane(share[:, None])
    density = density * (1 - share) + share * hue * density.mean(dim=1, keepdim=True)
    gain = (0.2 * strength * torch.randn(batch, 1, generator=generator)).exp()
    gain = gain * (0.15 * strength * torch.randn(batch, 3, generator=generator)).exp()
    mixing = 0.06 * strength * torch.randn(batch, 3, 3, generator=generator)
    mixing = torch.diag_embed(gain) + mixing
    density = torch.einsum("bij,bjhw->bihw", mixing.to(device), density)
    contrast = uniform(batch, math.log(0.35), math.log(1.3), generator).exp()
    contrast = 1 + sometimes(batch, 0.3, generator) * (contrast - 1)
    mean = density.mean(dim=(2, 3), keepdim=True)
    density = mean + (density - mean) * plane(contrast[:, None])
    haze = sometimes(batch, 0.25, generator) * uniform(batch, 0, 0.5 * strength, generator)
    return density + plane(haze[:, None] * torch.rand(batch, 3, generator=generator))


def _chosen(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw indices of a batch, each with probability ``share``."""
    return sometimes(batch, share, generator).nonzero()[:, 0]


def transfer_colours(density: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Move the mean and spread of optical density of some crops towards those of other crops.

    The method is that of Reinhard et al. (2001). Crops (B, 3, H, W) lend colours to each other in a
    random permutation; a ``share`` of them is changed.
    """
    batch = len(density)
    donor = torch.randperm(batch, generator=generator)
    amount = sometimes(batch, share, generator) * uniform(batch, 0.2, 1.0, generator)
    amount = amount.to(density.device)[:, None, None, None]
    spread, mean = torch.std_mean(density, dim=(2, 3), keepdim=True)
    # the spread also depends on the tissue that a crop shows, so its change is limited
    gain = (spread[donor] / spread.clamp(min=0.02)).clamp(0.6, 1.6)
    return density + amount * ((density - mean) * (gain - 1) + mean[donor] - mean)


def compress_jpeg(light: Tensor, quality: Tensor) -> Tensor:
    """Imitate JPEG on crops (B, 3, H, W), sRGB 0..255, at qualities (B,) of 1..100.

    The resolution of colour differences is halved, and cosine coefficients are rounded by the
    tables of ITU-T T.81, annex K.
    """
    batch, _, height, width = light.shape
    block = light.new_tensor(JPEG_BLOCK)
    transform = torch.kron(block, block)
    colour = light.new_tensor(RGB_TO_YCC)
    padded = functional.pad(light, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", colour, padded)
    scale = torch.where(quality < 50, 50 / quality.clamp(min=1), 2 - quality / 50).clamp(min=0.01)

    def lose(plane: Tensor, table: Tensor) -> Tensor:
        rows, columns = plane.shape[-2] // 8, plane.shape[-1] // 8
        blocks = plane.reshape(batch, -1, rows, 8, columns, 8).transpose(3, 4)
        steps = (table.reshape(64) * scale[:, None]).clamp(min=1)[:, None]
        coefficients = blocks.reshape(batch, -1, 64) @ transform.T
        blocks = (((coefficients / steps).round() * steps) @ transform).view(blocks.shape)
        return blocks.transpose(3, 4).reshape(plane.shape)

    luma = lose(ycc[:, :1] - 128, light.new_tensor(LUMA_STEPS))
    chroma = lose(functional.avg_pool2d(ycc[:, 1:], 2), light.new_tensor(CHROMA_STEPS))
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    ycc = torch.cat([luma + 128, chroma], dim=1)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(colour), ycc)
    return rgb[..., :height, :width].clamp(0, 255)
