"""Features of patches: named numbers of stain and texture, and statistics of convolutions.

The convolutions are random ones, or those of the trunk, which were learnt from photographs. No
weights are downloaded, and none are fitted to the patches that are compared.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from histocli.base.types import FloatArray
from histocli.model.trunk import LEVELS, TRUNK_CHANNELS, Trunk
from histocli.optics.density import rgb_to_optical_density

CELL_PX = 2 ** len(LEVELS)  # side of a position of the trunk's deepest level
SCALES_PX = (1.0, 2.0, 4.0)
NAMES = (
    *(f"{what} of {colour}" for what in ("mean", "spread") for colour in ("red", "green", "blue")),
    "red and green",
    "green and blue",
    *(f"detail below {scale:g} px" for scale in SCALES_PX),
    "dark share",
    "skewness of red",
)
"""Names of the columns of :func:`stain_and_texture`: mean and standard deviation of absorbance, two
correlations of channels, standard deviation of detail below each scale, share of pixels darker than
the mean by over one standard deviation, and skewness."""


def stain_and_texture(images: npt.NDArray[np.uint8]) -> FloatArray:
    """Return the features of ``NAMES`` of patches, (n, H, W, 3), whose bare glass is white."""
    rows = []
    for image in images:
        density = rgb_to_optical_density(image)
        flat = density.reshape(-1, 3)
        mean, spread = flat.mean(axis=0), flat.std(axis=0) + 1e-4
        unit = (flat - mean) / spread
        red = np.ascontiguousarray(density[..., 0])
        fine = [float((red - cv2.GaussianBlur(red, (0, 0), scale)).std()) for scale in SCALES_PX]
        dark = float((flat[:, 0] > mean[0] + spread[0]).mean())
        pairs = [float((unit[:, 0] * unit[:, 1]).mean()), float((unit[:, 1] * unit[:, 2]).mean())]
        rows.append([*mean, *spread, *pairs, *fine, dark, float((unit[:, 0] ** 3).mean())])
    return np.asarray(rows, np.float32).reshape(-1, len(NAMES))


def random_convolutions(
    images: npt.NDArray[np.uint8], seed: int = 0, batch: int = 32
) -> FloatArray:
    """Return means and standard deviations of the channels of three random convolutions.

    ``images`` has shape (n, H, W, 3), the features (n, 96). ``seed`` fixes the weights, and
    ``batch`` images are computed at a time.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(16, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        for into in (3, 16, 16)
    ]
    rows = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))
            x = pixels.permute(0, 3, 1, 2).float() / 255 - 0.65  # brings brightness near 0
            found = []
            for weight, stride in zip(weights, (1, 2, 2), strict=True):
                x = functional.conv2d(x, weight, stride=stride, padding=1)
                x = functional.leaky_relu(x, 0.2)
                found += [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
            rows.append(torch.cat(found, dim=1))
    return torch.cat(rows).numpy().astype(np.float32)


def trunk_features(
    images: npt.NDArray[np.uint8], trunk: Trunk, device: torch.device, batch: int = 16
) -> FloatArray:
    """Return means and standard deviations of the channels of each level of the trunk.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, H, W, 3)
        sRGB; H and W are at least 16, and cut to multiples of 16.
    trunk : Trunk
        With its weights, on ``device``.
    batch : int
        Images that are computed at a time.

    Returns
    -------
    ndarray of float32, shape (n, 384)
    """
    height, width = (side // CELL_PX * CELL_PX for side in images.shape[1:3])
    rows = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            part = np.ascontiguousarray(images[start : start + batch, :height, :width])
            pixels = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float() / 255
            levels = trunk(pixels)
            found = [x.mean(dim=(2, 3)) for x in levels] + [x.std(dim=(2, 3)) for x in levels]
            rows.append(torch.cat(found, dim=1).cpu())
    features = torch.cat(rows) if rows else torch.zeros(0, 2 * sum(TRUNK_CHANNELS))
    return features.numpy().astype(np.float32)
