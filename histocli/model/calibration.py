"""The ranges of a segmenter's features, by which they become 8-bit numbers. No label is used.

Behind a batch normalisation, the ranges follow from the mean and the spread that it learnt in
training (Nagel et al. 2019). The trunk's statistics are part of its weights, so some of its ranges
are measured, on tissue that is drawn in the stains of the model's references.
"""

import cv2
import numpy as np
import torch

from histocli.base.types import FloatArray, RGBImage
from histocli.model.adaptation import Adaptation, StainRange
from histocli.model.blocks import ConvBlock
from histocli.model.trunk import INPUT_MEAN, INPUT_SPREAD, Trunk
from histocli.optics.density import optical_density_to_rgb

SPREADS = 8.0
"""Standard deviations above the mean up to which features are kept: at 6, stained nuclei are cut
off; at 12, the steps become too coarse."""
RESERVE = 1.2  # factor on the largest value that drawn tissue causes in the trunk
LEAST_SCALE = 1e-3  # of a channel that is always 0
IMAGES, SIDE_PX = 2, 256
TYPICAL_MEAN, TYPICAL_SPREAD = (0.35, 0.6, 0.35), (0.25, 0.3, 0.18)
"""Absorbance of red, green and blue light in typical H&E."""
GRAINS = ((1, 0.5), (2, 0.5), (4, 0.6), (8, 0.7), (20, 0.8), (60, 0.8))
"""Width in pixels and amount of the blurred noises that make up drawn tissue."""
NUCLEUS_PX = 900  # pixels of tissue for each drawn nucleus


def scale_of(block: ConvBlock) -> FloatArray:
    """Return the largest value of each channel of a block's result that is to be kept."""
    norm = block.normalisation
    largest = (norm.bias + SPREADS * norm.weight.abs()).detach().float().numpy()
    scale: FloatArray = np.maximum(largest, LEAST_SCALE)
    return scale


def trunk_scales(trunk: Trunk, images: RGBImage) -> list[list[FloatArray]]:
    """Return the largest absolute value of each channel of each block's result, level by level.

    Blocks that are added to each other share their scales. ``images`` have shape (N, H, W, 3).
    """
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x = trunk.stem((pixels - INPUT_MEAN) / INPUT_SPREAD)
        scales = []
        for level in trunk.levels:
            assert isinstance(level, torch.nn.Sequential)
            largest: list[FloatArray] = []
            for block in level:
                x = block(x)
                seen = np.maximum(RESERVE * x.abs().amax(dim=(0, 2, 3)).numpy(), LEAST_SCALE)
                largest.append(seen)
                if block.adds:
                    largest[-2:] = [np.maximum(*largest[-2:])] * 2
            for index in reversed(range(len(largest) - 1)):
                if level[index + 1].adds:
                    largest[index] = largest[index + 1]
            scales.append(largest)
    return scales


def drawn_tissue(adaptation: Adaptation | None) -> RGBImage:
    """Draw tissue in the middle of the stains that a model knows, shape (N, H, W, 3).

    Nothing is realistic but the range of colours and the sizes of what is dark.
    """
    mean, spread = np.array(TYPICAL_MEAN), np.array(TYPICAL_SPREAD)
    if isinstance(adaptation, StainRange):
        mean = (np.array(adaptation.mean_low) + adaptation.mean_high) / 2
        spread = (np.array(adaptation.spread_low) + adaptation.spread_high) / 2
    images = [_drawn(mean, spread, np.random.default_rng(seed)) for seed in range(IMAGES)]
    return np.stack(images)


def _drawn(mean: FloatArray, spread: FloatArray, rng: np.random.Generator) -> RGBImage:
    texture = np.sum([amount * _noise(rng, width) for width, amount in GRAINS], axis=0)
    texture /= texture.std()
    own = np.stack([_noise(rng, 1.5) for _ in range(3)], axis=-1)
    density = mean + spread * (0.95 * texture[..., None] + 0.3 * own)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    for _ in range(SIDE_PX**2 // NUCLEUS_PX):
        centre, radius = rng.uniform(0, SIDE_PX, 2), rng.uniform(6, 13)
        width = radius * rng.uniform(0.6, 1)
        inside = ((y - centre[0]) / radius) ** 2 + ((x - centre[1]) / width) ** 2 < 1
        rough = 0.35 * texture[inside][:, None] + 0.2 * own[inside]
        density[inside] = mean + spread * (rng.uniform(0.8, 2.5) + rough)
    density[_noise(rng, 25) > 1.3] = 0.02  # glass
    return optical_density_to_rgb(np.maximum(density, 0))


def _noise(rng: np.random.Generator, width_px: float) -> FloatArray:
    """Return blurred noise of unit spread."""
    noise = rng.standard_normal((SIDE_PX, SIDE_PX)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), width_px)
    return np.asarray(blurred / blurred.std(), np.float32)
