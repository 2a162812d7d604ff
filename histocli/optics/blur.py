"""Gaussian blur of torch images, with a strength of its own for every image of a batch."""

import torch
from torch import Tensor
from torch.nn import functional

RADIUS_PX = 5
"""Half width of the kernel: three standard deviations of the widest blur in use."""


def blur_each(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Blur every image of a batch with a Gaussian of its own.

    Parameters
    ----------
    images : Tensor of float32, shape (B, C, H, W)
    sigma_px : Tensor of float32, shape (B,)
        Standard deviations, pixels, up to about 1.7; 0 leaves an image as it is.
    """
    batch, channels, height, width = images.shape
    offset = torch.arange(-RADIUS_PX, RADIUS_PX + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma_px[:, None].clamp(min=0.05)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    groups = batch * channels
    flat = images.reshape(1, groups, height, width)
    along_x, along_y = (RADIUS_PX, RADIUS_PX, 0, 0), (0, 0, RADIUS_PX, RADIUS_PX)
    flat = functional.conv2d(
        functional.pad(flat, along_x, mode="replicate"), kernel[:, None, None, :], groups=groups
    )
    flat = functional.conv2d(
        functional.pad(flat, along_y, mode="replicate"), kernel[:, None, :, None], groups=groups
    )
    return flat.view(batch, channels, height, width)
