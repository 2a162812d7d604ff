"""The sizes of segmenters, and how a segmenter is built.

S, M and L are U-Nets (:mod:`histocli.model.unet`); T stands on frozen public features
(:mod:`histocli.model.trunk_segmenter`).
"""

from dataclasses import asdict
from typing import Any

import torch

from histocli.base.errors import InvalidStore
from histocli.model.trunk_segmenter import TrunkSegmenter
from histocli.model.unet import RESOLUTIONS, TARGETS, Architecture, Segmenter, combine_maps

__all__ = ["Architecture", "Segmenter", "build_segmenter", "channels_last", "combine_maps"]

SIZES: dict[str, tuple[int, ...]] = {
    "S": (16, 32, 64, 128),
    "M": (32, 64, 128, 256),
    "L": (64, 128, 256, 512),
    "T": (32, 48, 64),
}
"""Channels of each level, the finest first; for T, of each level of the decoder on the trunk."""
FAMILIES: dict[str, str] = {"T": "trunk"}
"""Family of each size that is no U-Net."""


def architecture_of_size(size: str, targets: str = "distance") -> dict[str, Any]:
    """Return the JSON description of the segmenter of size S, M, L or T."""
    family = FAMILIES.get(size, "unet")
    return asdict(Architecture(family=family, channels=SIZES[size], targets=targets))


def channels_last(segmenter: Segmenter, device: torch.device) -> Segmenter:
    """Move a segmenter to a device, its weights in the order that makes convolutions fastest."""
    return segmenter.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def build_segmenter(architecture: dict[str, Any]) -> Segmenter:
    """Build a segmenter with fresh weights; those of a trunk are zero until they are loaded.

    Parameters
    ----------
    architecture : dict
        The fields of :class:`Architecture`, as JSON.

    Returns
    -------
    Segmenter

    Raises
    ------
    InvalidStore
        A family or shape that this version does not know.
    """
    family, channels = architecture.get("family"), architecture.get("channels")
    resolution = architecture.get("resolution", "half")
    targets = architecture.get("targets", "distance")
    if (
        family not in ("unet", "trunk")
        or (family == "trunk" and (resolution != "half" or len(channels or ()) != 3))
        or resolution not in RESOLUTIONS
        or targets not in TARGETS
        or not isinstance(channels, list | tuple)
        or not 2 <= len(channels) <= 6
        or not all(isinstance(width, int) and width > 0 for width in channels)
    ):
        raise InvalidStore(
            f"model architecture {architecture} is not known to this version; update histosynth"
        )
    built = Architecture(
        family=str(family), channels=tuple(channels), resolution=resolution, targets=targets
    )
    if family == "trunk":
        return TrunkSegmenter(built)
    return Segmenter(built)
