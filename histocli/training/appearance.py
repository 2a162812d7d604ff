"""A differentiable model of a crop's appearance, with seven numbers for each crop.

The numbers change the amounts of hematoxylin and eosin, the colour of hematoxylin, the contrast of
nuclei, the paleness of their interior, blur and noise. No pixel is displaced, so labels stay true.
"""

from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from histocli.optics.blur import blur_each
from histocli.optics.density import light_to_optical_density, optical_density_to_light
from histocli.optics.stains import TYPICAL_STAINS

NUMBERS = 7  # numbers that describe the appearance of a crop: the fields of ``AppearanceBounds``
SURROUNDINGS_PX = 33  # pixels outside nuclei are averaged over squares of this side


@dataclass(frozen=True, kw_only=True)
class AppearanceBounds:
    """Lower and upper bound of each number; 0 leaves the crop as it is.

    1 + ``contrast`` is the factor on the optical density by which nuclei exceed their surroundings;
    ``interior`` is added to that factor in the interior of nuclei only.
    """

    hematoxylin: tuple[float, float] = (-0.4, 0.4)  # natural logarithm of the stain's factor
    eosin: tuple[float, float] = (-0.4, 0.4)  # natural logarithm of the stain's factor
    tilt: tuple[float, float] = (-0.2, 0.2)  # share of eosin's colour mixed into hematoxylin's
    contrast: tuple[float, float] = (-0.6, 0.4)
    interior: tuple[float, float] = (-0.5, 0.3)  # below 0 the interior gets paler
    blur: tuple[float, float] = (-0.5, 1.0)  # 1 is a blur of 1.2 px; below 0 sharpens
    noise: tuple[float, float] = (0.0, 0.03)  # standard deviation of the noise; white is 1

    def edges(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper bounds, each of shape (7,)."""
        low, high = zip(*astuple(self), strict=True)
        return torch.tensor(low, device=device), torch.tensor(high, device=device)


class AppearanceModel:
    """Renders crops (B, 3, H, W), sRGB 0..1, as a function of seven numbers for each crop.

    ``nucleus`` (B, H, W) is 1 in nuclei; ``distance`` (B, H, W) is the normalised depth, 0 at the
    border of a nucleus and 1 at its deepest pixel; ``noise`` (B, 3, H, W) is standard normal.
    """

    def __init__(
        self,
        pixels: Tensor,
        nucleus: Tensor,
        distance: Tensor,
        noise: Tensor,
        bounds: AppearanceBounds,
    ) -> None:
        size = len(pixels)
        self.density = light_to_optical_density(pixels * 255)
        self.noise = noise
        self.low, self.high = bounds.edges(pixels.device)
        self.stains = torch.as_tensor(TYPICAL_STAINS, dtype=torch.float32, device=pixels.device)
        amounts = torch.einsum("sc,bchw->bshw", torch.linalg.pinv(self.stains).T, self.density)
        self.amounts = amounts.clamp(min=0)
        soft = torch.ones(size, device=pixels.device)
        inside = nucleus[:, None]
        self.soft = blur_each(inside, soft)
        # pixels above half of the normalised depth are the interior, the others the rim
        self.deep = blur_each((distance > 0.5).float()[:, None], soft)
        outside = 1 - inside
        pad = SURROUNDINGS_PX // 2

        def mean(values: Tensor) -> Tensor:
            return functional.avg_pool2d(
                values, SURROUNDINGS_PX, stride=1, padding=pad, count_include_pad=False
            )

        around = mean(outside)
        overall = (self.density * outside).sum((2, 3), keepdim=True)
        overall = overall / outside.sum((2, 3), keepdim=True).clamp(min=1)
        self.around = (mean(self.density * outside) + 0.02 * overall) / (around + 0.02)
        self.blurred_by = torch.full((size,), 1.2, device=pixels.device)

    def numbers(self, unit: Tensor) -> Tensor:
        """Map -1..1, shape (B, 7), to the bounds; 0 leaves a crop as it is."""
        return torch.where(unit < 0, -unit * self.low, unit * self.high)

    def density_of(self, unit: Tensor) -> Tensor:
        """Return the optical density, without noise, for ``unit`` (B, 7) in -1..1."""
        hematoxylin, eosin, tilt, contrast, interior, blur, _ = (
            part[:, None, None, None] for part in self.numbers(unit).unbind(dim=1)
        )
        amount_h, amount_e = self.amounts[:, :1], self.amounts[:, 1:]
        stain_h, stain_e = self.stains[0][None, :, None, None], self.stains[1][None, :, None, None]
        density = self.density + amount_h * stain_h * (hematoxylin.exp() - 1)
        density = density + amount_e * stain_e * (eosin.exp() - 1)
        density = density + tilt * amount_h * (stain_e - stain_h)
        density = density + (density - self.around) * (contrast * self.soft + interior * self.deep)
        return density + blur * (blur_each(density, self.blurred_by) - density)

    def render(self, unit: Tensor) -> Tensor:
        """Return crops, sRGB 0..1, for ``unit`` (B, 7) in -1..1; differentiable."""
        light = optical_density_to_light(self.density_of(unit)) / 255
        noisy: Tensor = light + self.numbers(unit)[:, 6, None, None, None] * self.noise
        return noisy.clamp(0, 1)


def bounds_from_references(appearances: list[dict[str, Any]]) -> AppearanceBounds:
    """Return the bounds of the variation among and within the reference images.

    ``appearances`` are the ``statistics.appearance`` of each reference: quantiles 5, 25, 50, 75 and
    95 % of ``hematoxylin``, ``eosin`` and ``contrast`` of its nuclei. The bounds of the stains are
    the 10 % and 90 % quantiles over references, of which four are needed; those of contrast are the
    5 % and 95 % quantiles of the nuclei of a typical reference; the rest is the default.
    """
    default = AppearanceBounds()

    def known(name: str) -> npt.NDArray[np.float64]:
        found = [each[name] for each in appearances if len(each.get(name) or ()) == 5]
        return np.array(found, np.float64).reshape(-1, 5)

    def spread(name: str) -> tuple[float, float]:
        middles = known(name)[:, 2]
        middles = np.log(middles[middles > 0.01])
        if len(middles) < 4:
            return default.eosin  # equal to that of hematoxylin
        low, high = np.quantile(middles, (0.1, 0.9)) - np.median(middles)
        return float(np.clip(low, -0.6, -0.1)), float(np.clip(high, 0.1, 0.6))

    quantiles = known("contrast")
    quantiles = quantiles[quantiles[:, 2] > 0.02]
    contrast = default.contrast
    if len(quantiles):
        low, high = np.median(quantiles[:, [0, 4]] / quantiles[:, 2:3], axis=0) - 1
        contrast = float(np.clip(low, -0.7, -0.1)), float(np.clip(high, 0.1, 0.6))
    hematoxylin, eosin = spread("hematoxylin"), spread("eosin")
    return replace(default, hematoxylin=hematoxylin, eosin=eosin, contrast=contrast)
