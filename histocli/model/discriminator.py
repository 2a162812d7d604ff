"""Critics: one judges whether nuclei look real, one whether two crops match, one whole patches.

The refiner repaints the nuclei of synthetic patches and is trained against the first two. A usual
critic, with one answer per patch and spectral normalisation, does not learn here, because most of
a synthetic patch is real tissue. :class:`RealismCritic` answers per pixel and is asked about nuclei
only (a U-Net as in Schoenfeld et al. 2020, without the answer per patch).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.model.blocks import ConvBlock, Encoder, pooled_by_nuclei
from histocli.model.normalisation import standardise
from histocli.model.refiner import SLOPE, style_features


def texture_of(pixels: Tensor) -> Tensor:
    """Return pixels minus their means over 9 x 9 and over 3 x 3 pixels, (N, 2 C, H, W).

    The two differences lack the tone of the image; both are amplified to about unit spread.
    """

    def band(side: int, gain: float) -> Tensor:
        wider = functional.pad(pixels, (side // 2,) * 4, mode="replicate")
        return gain * (pixels - functional.avg_pool2d(wider, side, stride=1))

    return torch.cat([band(9, 8.0), band(3, 20.0)], dim=1)


class RealismCritic(nn.Module):
    """Tells per pixel, at half resolution, whether a nucleus is real.

    The critic does not see tone. Its real nuclei come from the rough map, an automatic map that
    finds mostly dark nuclei; a critic that saw darkness would teach the refiner to darken pale
    nuclei. Texture alone separates real from synthetic nuclei with an AUC above 0.9 within 200
    steps; a critic of unchanged pixels needed 800 steps for 0.7.

    Three levels see about 70 pixels around each pixel: a nucleus and its neighbourhood, but not the
    arrangement of nuclei, which a refiner cannot change.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.encoder = Encoder(24, channels)
        self.decoder = nn.ModuleList(
            ConvBlock(deep + width, width) for deep, width in pairwise(reversed(channels))
        )
        self.head = nn.Conv2d(channels[0], 1, 1)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Map sRGB in 0..1, (N, 3, H, W), sides multiples of 8, to features.

        They are the encoder's at 1/2, 1/4 and 1/8 of the resolution, and the decoder's at 1/2.
        """
        seen: list[Tensor] = self.encoder(functional.pixel_unshuffle(texture_of(pixels), 2))
        x = seen[-1]
        for level, kept in zip(self.decoder, reversed(seen[:-1]), strict=True):
            below = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([below, kept], dim=1))
        return [*seen, x]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, (N, 3, H, W), to logits of being real, float32, (N, H/2, W/2)."""
        logits: Tensor = self.head(self.features(pixels)[-1])[:, 0].float()
        return logits


class StyleCritic(nn.Module):
    """Tells whether two crops come from the same image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = style_features(width, stride=2)
        self.head = nn.Sequential(
            nn.Linear(12 * width, 4 * width), nn.LeakyReLU(SLOPE), nn.Linear(4 * width, 1)
        )

    def embed(self, pixels: Tensor, nuclei: Tensor) -> Tensor:
        """Map sRGB in 0..1, (N, 3, H, W), and nuclei, (N, 1, H, W), to (N, 4 * width).

        Features are pooled inside nuclei and outside.
        """
        features = self.features(functional.pixel_unshuffle(standardise(pixels), 4))
        return pooled_by_nuclei(features, nuclei, 8)

    def forward(self, pixels: Tensor, nuclei: Tensor, pairs: Tensor) -> Tensor:
        """Judge pairs of crops, given sRGB in 0..1, (N, 3, H, W), nuclei, (N, 1, H, W), and which
        crops to compare, (K, 2).

        Returns
        -------
        Tensor of float32, shape (K,)
            Logits of coming from one image; the order of a pair does not matter.
        """
        embedded = self.embed(pixels, nuclei)
        first, second = embedded[pairs[:, 0]], embedded[pairs[:, 1]]
        pair = torch.cat([first * second, (first - second).abs(), first + second], dim=1)
        logits: Tensor = self.head(pair)[:, 0].float()
        return logits


class Classifier(nn.Module):
    """Tells real from synthetic patches of any size.

    Convolutions, then mean and maximum over the patch, then one logit. With the maximum, a single
    unrealistic nucleus can mark a patch as synthetic.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.levels = Encoder(12, channels)
        self.last = ConvBlock(channels[-1], channels[-1])
        self.head = nn.Linear(2 * channels[-1], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), sides even, to logits of being real, shape (N,)."""
        x = self.last(self.levels(functional.pixel_unshuffle(standardise(pixels), 2))[-1]).float()
        logits: Tensor = self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))[:, 0]
        return logits
