"""The segmenter: a U-Net from H&E pixels to nucleus probability, distance to the nuclear border
and, if wanted, contacts.

It works at half resolution inside (pixel-unshuffle in, pixel-shuffle out; Shi et al. 2016), because
at 0.25 um/px a nucleus is some 25 pixels wide: half the resolution costs a quarter of the time and
hardly any of the outline. The encoder and decoder follow Ronneberger et al. 2015.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.base.errors import InvalidStore
from histocli.model.blocks import ConvBlock, DoubleConv
from histocli.model.normalisation import standardise

SIZES: dict[str, tuple[int, ...]] = {
    "S": (16, 32, 64, 128),
    "M": (32, 64, 128, 256),
    "L": (64, 128, 256, 512),
}
"""Channels of each level, from the finest downwards."""
TARGETS: dict[str, int] = {"distance": 2, "contact": 3}
"""What is predicted, and with how many maps: nucleus and border distance, or also where two nuclei
meet."""
RESOLUTIONS: dict[str, int] = {"half": 2, "full": 1}
"""Pixels of the image along the side of a pixel of the finest level."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What has to be known to build a segmenter before its weights are loaded."""

    family: str = "unet"
    channels: tuple[int, ...] = SIZES["S"]
    resolution: str = "half"
    """Of the finest level: ``half`` or ``full``."""
    targets: str = "distance"
    """``distance``: nucleus and border distance. ``contact``: also where two nuclei meet."""


class Segmenter(nn.Module):
    """U-Net with two or three outputs.

    Parameters
    ----------
    architecture : Architecture
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = architecture.channels
        self.fold = RESOLUTIONS[architecture.resolution]
        self.stem = ConvBlock(3 * self.fold**2, widths[0])
        self.encoder = nn.ModuleList()
        previous = widths[0]
        for width in widths:
            self.encoder.append(DoubleConv(previous, width))
            previous = width
        self.decoder = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.decoder.append(
                nn.ModuleDict(
                    {"reduce": ConvBlock(previous + width, width), "mix": ConvBlock(width, width)}
                )
            )
            previous = width
        self.head = nn.Conv2d(previous, TARGETS[architecture.targets] * self.fold**2, 3, padding=1)

    @property
    def multiple_px(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(self.fold * 2 ** (len(self.architecture.channels) - 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map sRGB in 0..1, shape (N, 3, H, W), to logits (N, 2 or 3, H, W): nucleus, border
        distance, contact.
        """
        x = self.stem(functional.pixel_unshuffle(standardise(pixels), self.fold))
        skips: list[Tensor] = []
        for i, level in enumerate(self.encoder):
            x = level(x if i == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for level in self.decoder:
            skip = skips.pop()
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            assert isinstance(level, nn.ModuleDict)
            x = level["mix"](level["reduce"](torch.cat([x, skip], dim=1)))
        logits: Tensor = functional.pixel_shuffle(self.head(x), self.fold)
        return logits


def combine_maps(values: Tensor) -> Tensor:
    """Turn what the segmenter predicts into nucleus probability and border distance.

    A contact speaks against depth, so that what is read as the core of a nucleus ends where it
    meets another.

    Parameters
    ----------
    values : Tensor, shape (N, 2 or 3, ...)
        Logistic function of the logits: nucleus, border distance, contact.

    Returns
    -------
    Tensor, shape (N, 2, ...)
        In 0..1.
    """
    if values.shape[1] == TARGETS["distance"]:
        return values
    return torch.stack([values[:, 0], values[:, 1] * (1 - values[:, 2])], dim=1)


def architecture_of_size(size: str, targets: str = "distance") -> dict[str, Any]:
    """Return the JSON description of the segmenter of size S, M or L."""
    return asdict(Architecture(channels=SIZES[size], targets=targets))


def channels_last(segmenter: Segmenter, device: torch.device) -> Segmenter:
    """Move a segmenter to a device, with its weights in the memory order that convolutions are
    fastest in.
    """
    return segmenter.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def build_segmenter(architecture: dict[str, Any]) -> Segmenter:
    """Build a segmenter, with fresh weights, from its JSON description.

    Raises
    ------
    InvalidStore
        A family or shape that this version does not know.
    """
    family, channels = architecture.get("family"), architecture.get("channels")
    resolution, targets = (
        architecture.get("resolution", "half"),
        architecture.get("targets", "distance"),
    )
    listed = isinstance(channels, list | tuple) and 2 <= len(channels) <= 6
    widths = tuple(c for c in channels or () if isinstance(c, int) and c > 0) if listed else ()
    known = family == "unet" and resolution in RESOLUTIONS and targets in TARGETS
    if not known or not widths or len(widths) != len(channels or ()):
        raise InvalidStore(
            f"model architecture {architecture} is not known to this version; update histosynth"
        )
    return Segmenter(Architecture(channels=widths, resolution=resolution, targets=targets))
