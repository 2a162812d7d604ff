"""The refiner: a network that repaints the nuclei of a synthetic patch to match a reference.

The reference is the real image that the patch imitates. The refiner is fully convolutional. Its
input is optical density, in which stains add up; its output is a change of optical density. The
change is zero before training. It is multiplied by the gate, a map in 0..1 that says how far each
pixel may change. The style of the reference is a vector of features, averaged inside nuclei and
outside; it modulates every block (feature-wise affine modulation, Perez et al. 2018).
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from histocli.base.errors import InvalidStore
from histocli.model.blocks import pooled_by_nuclei

SLOPE = 0.1
"""Slope of the leaky rectifiers below 0."""
CHANNELS_IN = 3 + 1 + 1
"""Channels: optical density, nuclei, noise. The noise varies chromatin between equal outlines."""


@dataclass(frozen=True, kw_only=True)
class RefinerArchitecture:
    """The shape of a refiner, from which it is built before its weights are loaded."""

    family: str = "modulated-residual"
    width: int = 24
    blocks: int = 4
    style: int = 64
    edits: str = "nuclei"
    """Part of a patch that may change: ``nuclei`` with a narrow ring, or the whole ``patch``."""


rectified = partial(functional.leaky_relu, negative_slope=SLOPE)


class ModulatedBlock(nn.Module):
    """Two convolutions, added to the input; a style scales and shifts the output of the first."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(style, 2 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, S) to (N, C, H, W)."""
        scale, shift = self.modulation(style)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(rectified(x)) * (1 + scale) + shift
        changed: Tensor = x + self.second(rectified(hidden))
        return changed


def style_features(width: int, stride: int = 1) -> nn.Sequential:
    """Return two convolutions from cells of 4 x 4 pixels, (N, 48, h, w), to 2 * width channels."""
    return nn.Sequential(
        nn.Conv2d(48, 2 * width, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(2 * width, 2 * width, 3, stride=stride, padding=1),
        nn.LeakyReLU(SLOPE),
    )


class StyleEncoder(nn.Module):
    """Describes the look of an image inside its nuclei and outside as one vector."""

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.features = style_features(width)
        self.head = nn.Linear(4 * width, style)

    def forward(self, optical_density: Tensor, nuclei: Tensor) -> Tensor:
        """Map (N, 3, H, W) and nuclei, (N, 1, H, W), to (N, style); sides are multiples of 4."""
        features = self.features(functional.pixel_unshuffle(optical_density, 4))
        encoded: Tensor = self.head(pooled_by_nuclei(features, nuclei, 4))
        return encoded


class Refiner(nn.Module):
    """Changes the optical density of nuclei."""

    def __init__(self, architecture: RefinerArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, style = architecture.width, architecture.style
        self.encoder = StyleEncoder(width, style)
        self.stem = nn.Conv2d(4 * CHANNELS_IN, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            ModulatedBlock(2 * width, style) for _ in range(architecture.blocks)
        )
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.fine = ModulatedBlock(width, style)
        self.mix = nn.Conv2d(width + CHANNELS_IN, width // 2, 3, padding=1)
        self.head = nn.Conv2d(width // 2, 1 + 3, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        optical_density: Tensor,
        nuclei: Tensor,
        noise: Tensor,
        gate: Tensor,
        style_density: Tensor,
        style_nuclei: Tensor,
    ) -> Tensor:
        """Return the change of optical density, float32, shape (N, 3, H, W).

        Parameters
        ----------
        optical_density : Tensor of float, shape (N, 3, H, W)
            Optical density of the synthetic patch; all sides are multiples of 4.
        nuclei, noise, gate : Tensor of float, shape (N, 1, H, W)
            1 in labelled nuclei; standard normal; how far each pixel may change, 0..1.
        style_density, style_nuclei : Tensor of float, shapes (N, 3, h, w) and (N, 1, h, w)
            Optical density of the reference, and 1 in its known nuclei.
        """
        style = self.encoder(style_density, style_nuclei)
        planes = torch.cat([optical_density, nuclei, noise], dim=1)
        fine = self.stem(functional.pixel_unshuffle(planes, 2))
        x = self.down(rectified(fine))
        for block in self.blocks:
            x = block(x, style)
        below = functional.interpolate(rectified(x), scale_factor=2, mode="nearest")
        x = self.fine(self.up(below) + fine, style)
        # the last layers work at full resolution: pixel-shuffle would leave a chequerboard pattern
        # that every critic sees
        wide = functional.interpolate(rectified(x), scale_factor=2, mode="bilinear")
        mixed = self.mix(torch.cat([wide, planes.to(wide.dtype)], dim=1))
        raw = self.head(rectified(mixed)).float()
        more, tint = torch.tanh(raw[:, :1]), torch.tanh(raw[:, 1:])
        # at most 0.7 of the present density is added or removed; besides, each colour changes by at
        # most 0.06, like sensor noise: a refiner that chose colours freely made purple nuclei green
        return gate * (0.7 * more * optical_density.float().clamp(min=0) + 0.06 * tint)


def build_refiner(architecture: dict[str, Any] | None = None) -> Refiner:
    """Build an untrained refiner from its JSON description; None gives the default shape.

    Raises
    ------
    InvalidStore
        A family or shape that this version does not know.
    """
    if architecture is None:
        return Refiner(RefinerArchitecture())
    edits = architecture.get("edits", "nuclei")
    sizes = {name: architecture.get(name) for name in ("width", "blocks", "style")}
    if (
        architecture.get("family") != "modulated-residual"
        or edits not in ("nuclei", "patch")
        or not all(isinstance(n, int) and 0 < n <= 1024 for n in sizes.values())
    ):
        raise InvalidStore(
            f"refiner architecture {architecture} is not known to this version; update histosynth"
        )
    return Refiner(RefinerArchitecture(edits=edits, **sizes))  # type: ignore[arg-type]


def describe_refiner(refiner: Refiner) -> dict[str, Any]:
    """Return the JSON description that ``build_refiner`` takes."""
    return asdict(refiner.architecture)
