"""Critics of the refiner: one judges whether nuclei look real, one whether two crops match.

The obvious critic, one answer per patch under spectral normalisation, never learns here: most of a
synthetic patch is real tissue. This one answers per pixel and is asked about nuclei only (a U-Net
as in Schoenfeld et al. 2020, without its patch answer).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock, DoubleConv
from histocli.model.normalisation import standardise
from histocli.model.refiner import SLOPE

REALISM_CHANNELS = (16, 32, 64)
STYLE_WIDTH = 32


def texture_of(pixels: Tensor) -> Tensor:
    """Take tone away: return what means over 9 and over 3 pixels leave, (N, 2 C, H, W).

    Both are amplified to about unit spread.
    """
    bands = [
        gain
        * (
            pixels
            - functional.avg_pool2d(
                functional.pad(pixels, (side // 2,) * 4, mode="replicate"), side, stride=1
            )
        )
        for side, gain in ((9, 8.0), (3, 20.0))
    ]
    return torch.cat(bands, dim=1)


class RealismCritic(nn.Module):
    """Tells per pixel, at half resolution, whether a nucleus is real.

    It is blind to tone: real nuclei are known from a rough map, which finds the dark ones, and a
    critic that saw how dark a nucleus is would teach the refiner to darken the pale ones. Texture
    alone tells real nuclei from synthetic ones with an AUC above 0.9 within 200 steps; a critic of
    unchanged pixels needed 800 steps for 0.7.

    Three levels see about 70 pixels around each pixel: a nucleus and its neighbourhood, not the
    arrangement of nuclei, which a refiner cannot change and should not be punished for.
    """

    def __init__(self, channels: tuple[int, ...] = REALISM_CHANNELS) -> None:
        super().__init__()
        self.encoder = nn.ModuleList()
        previous = 24
        for width in channels:
            self.encoder.append(DoubleConv(previous, width))
            previous = width
        self.decoder = nn.ModuleList()
        for width in reversed(channels[:-1]):
            self.decoder.append(ConvBlock(previous + width, width))
            previous = width
        self.head = nn.Conv2d(previous, 1, 1)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return what the critic sees in sRGB (N, 3, H, W); sides are multiples of 8.

        There is one map per level, at 1/2, 1/4, 1/8 and again 1/2 of the resolution.
        """
        x = functional.pixel_unshuffle(texture_of(pixels), 2)
        skips: list[Tensor] = []
        for i, level in enumerate(self.encoder):
            x = level(x if i == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        seen = list(skips)
        skips.pop()
        for level in self.decoder:
            x = level(
                torch.cat(
                    [functional.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1
                )
            )
        return [*seen, x]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), to logits of being real, float32 (N, H/2, W/2)."""
        logits: Tensor = self.head(self.features(pixels)[-1])[:, 0].float()
        return logits


class StyleCritic(nn.Module):
    """Tells whether two crops come from the same image."""

    def __init__(self, width: int = STYLE_WIDTH) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(48, 2 * width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.head = nn.Sequential(
            nn.Linear(12 * width, 4 * width), nn.LeakyReLU(SLOPE), nn.Linear(4 * width, 1)
        )

    def embed(self, pixels: Tensor, nuclei: Tensor) -> Tensor:
        """Map sRGB in 0..1, (N, 3, H, W), and nuclei, (N, 1, H, W), to (N, 4 * width).

        Features are pooled inside nuclei and outside.
        """
        features = self.features(functional.pixel_unshuffle(standardise(pixels), 4)).float()
        inside = functional.avg_pool2d(nuclei.float(), 8)
        pooled = [
            (features * mask).sum(dim=(2, 3)) / (mask.sum(dim=(2, 3)) + 1)
            for mask in (inside, 1 - inside)
        ]
        return torch.cat(pooled, dim=1)

    def forward(self, pixels: Tensor, nuclei: Tensor, pairs: Tensor) -> Tensor:
        """Judge pairs of crops.

        Parameters
        ----------
        pixels : Tensor of float, shape (N, 3, H, W)
            sRGB in 0..1.
        nuclei : Tensor of float, shape (N, 1, H, W)
        pairs : Tensor of int64, shape (K, 2)
            Which crops to compare.

        Returns
        -------
        Tensor of float32, shape (K,)
            Logits of coming from one image; the order of a pair does not matter.
        """
        embedded = self.embed(pixels, nuclei)
        first, second = embedded[pairs[:, 0]], embedded[pairs[:, 1]]
        logits: Tensor = self.head(
            torch.cat([first * second, (first - second).abs(), first + second], dim=1)
        )[:, 0].float()
        return logits
