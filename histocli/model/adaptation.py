"""Images whose stain a model does not know are brought towards the stains that it learnt from.

A stain is described by the mean and the spread of the absorbances of red, green and blue light over
tissue (:class:`histocli.model.normalisation.Contrast`). Statistics of the slide itself, with no
label, thus decide how much is changed, and every change maps each value of a colour to one value:
the pixels of a slide change alike, wherever a tile begins.

:class:`StainRange` is what new models carry. It holds, for each statistic, the range of the middle
references; a slide inside the range stays as it is, and one outside is moved to the nearer edge
(means and spreads are matched as by Reinhard et al. 2001). :class:`ContrastFloor` belongs to models
of earlier versions: it raises only the spread of faint slides.
"""

from dataclasses import asdict, dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from histocli.base.types import FloatArray, Json, RGBImage
from histocli.model.normalisation import Colours, Contrast, colours_of, contrasts_of_groups, mapped
from histocli.optics.density import WHITE_LEVEL, rgb_to_optical_density

LARGEST_GAIN = 2.5  # a larger factor on the spread would amplify noise too much
SMALLEST_GAIN = 0.4  # the inverse: a smaller factor would merge nuclei with their surroundings
PALE_DENSITY = 0.15
"""Absorbance of one colour up to which pixels are mostly glass: a third of the limit of tissue.
Below it, changes fade out, so that white glass stays white."""


class Adaptation(Protocol):
    """A change of the absorbances of a slide that depends on the slide's own statistics."""

    def densities(self, contrast: Contrast) -> FloatArray | None:
        """Return the new absorbance of each value, 0..255, of red, green and blue, shape (256, 3);
        None if nothing is changed.
        """

    def originals(self, contrast: Contrast) -> FloatArray | None:
        """Return the absorbance, shape (256, 3), of which each value was made; None if nothing is
        changed.
        """


@dataclass(frozen=True)
class ContrastFloor:
    """Raises the spread of all colours of faint slides by one factor, until that of red light
    reaches the floor.
    """

    spread: float
    """Least spread of the absorbance of red light, in optical density."""

    def gain(self, contrast: Contrast) -> float:
        """Return the factor, 1 to 2.5, that brings the spread of a slide up to the floor."""
        return float(np.clip(self.spread / max(contrast.spread, 1e-6), 1.0, LARGEST_GAIN))

    def densities(self, contrast: Contrast) -> FloatArray | None:
        """Return new absorbances: see :class:`Adaptation`."""
        return self._spread(contrast, self.gain(contrast))

    def originals(self, contrast: Contrast) -> FloatArray | None:
        """Return original absorbances: see :class:`Adaptation`."""
        return self._spread(contrast, 1 / self.gain(contrast))

    @staticmethod
    def _spread(contrast: Contrast, gain: float) -> FloatArray | None:
        if gain == 1:
            return None
        mean = np.asarray(contrast.mean, np.float32)
        table: FloatArray = np.maximum((_plain_densities() - mean) * np.float32(gain) + mean, 0)
        return table


@dataclass(frozen=True)
class StainRange:
    """The range of the stain statistics of a model's references, in optical density."""

    mean_low: Colours
    mean_high: Colours
    spread_low: Colours
    spread_high: Colours

    def densities(self, contrast: Contrast) -> FloatArray | None:
        """Return new absorbances: see :class:`Adaptation`."""
        if contrast.spreads is None:
            return None
        mean, spread = np.asarray(contrast.mean), np.asarray(contrast.spreads)
        wanted_mean, wanted_spread = self._wanted(mean, spread)
        if np.array_equal(mean, wanted_mean) and np.array_equal(spread, wanted_spread):
            return None
        gain = np.clip(wanted_spread / np.maximum(spread, 0.02), SMALLEST_GAIN, LARGEST_GAIN)
        density = _plain_densities()
        moved = (density - mean) * gain + wanted_mean
        scaled = density * (wanted_mean / np.maximum(mean, 0.001))
        share = np.clip(density / PALE_DENSITY, 0, 1)
        # a darker value never becomes the paler one
        table = np.maximum.accumulate((share * moved + (1 - share) * scaled)[::-1], axis=0)[::-1]
        return np.asarray(np.maximum(table, 0), np.float32)

    def originals(self, contrast: Contrast) -> FloatArray | None:
        """Return original absorbances: see :class:`Adaptation`."""
        table = self.densities(contrast)
        if table is None:
            return None
        density = _plain_densities()
        columns = [np.interp(density[:, k], table[::-1, k], density[::-1, k]) for k in range(3)]
        return np.asarray(np.stack(columns, axis=1), np.float32)

    def _wanted(
        self, mean: npt.NDArray[np.floating], spread: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the nearest means and spreads inside the range."""
        return (
            np.clip(np.asarray(mean, np.float64), self.mean_low, self.mean_high),
            np.clip(np.asarray(spread, np.float64), self.spread_low, self.spread_high),
        )

    def to_json(self) -> Json:
        """Return plain values."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Rebuild a range from what ``to_json`` returned."""
        names = ("mean_low", "mean_high", "spread_low", "spread_high")
        return cls(*(colours_of(values[name]) for name in names))


def _plain_densities() -> FloatArray:
    """Return the absorbance of each value, shape (256, 3)."""
    density = rgb_to_optical_density(np.arange(256, dtype=np.uint8))[:, None]
    return np.repeat(density, 3, axis=1)


def adaptation_of(normalisation: Json) -> Adaptation | None:
    """Return the adaptation that the header of a model names in ``normalisation``; None if none."""
    if (edges := normalisation.get("stain_range")) is not None:
        return StainRange.from_json(edges)
    floor = float(normalisation.get("contrast_floor", 0.0))  # of models of earlier versions
    return ContrastFloor(floor) if floor > 0 else None


def measure_stain_range(
    moments: npt.NDArray[np.float64], group: npt.NDArray[np.integer], quantile: float
) -> StainRange | None:
    """Return the range between two quantiles of the stain statistics of groups of images.

    Parameters
    ----------
    moments : ndarray of float64, shape (n, 7)
        ``tissue_moments`` of each image.
    group : ndarray of int, shape (n,)
        Number of the group of each image, 0 and up, such as its reference.
    quantile : float
        The range reaches from this quantile to 1 minus it, 0..0.5; 0.5 is the median alone.

    Returns
    -------
    StainRange or None
        None for quantile 0, or if no group shows tissue.
    """
    if quantile == 0:
        return None
    known = contrasts_of_groups(moments, group)
    if not known:
        return None
    statistics = np.array([[each.mean, each.spreads] for each in known])
    low, high = np.quantile(statistics, [quantile, 1 - quantile], axis=0).round(4).tolist()
    mean_low, spread_low = low
    mean_high, spread_high = high
    return StainRange(*map(colours_of, (mean_low, mean_high, spread_low, spread_high)))


def adapt_stain(
    image: RGBImage, contrast: Contrast | None, adaptation: Adaptation | None
) -> RGBImage:
    """Bring the stain of an image towards that of a model's references.

    Parameters
    ----------
    image : ndarray of uint8, shape (..., 3)
        With white glass, which stays white.
    contrast : Contrast or None
        Statistics of the slide that the image is, or is a part of; None changes nothing.
    adaptation : Adaptation or None
        Of the model; None changes nothing.
    """
    if contrast is None or adaptation is None:
        return image
    density = adaptation.densities(contrast)
    if density is None:
        return image
    return mapped(image, np.rint(WHITE_LEVEL * np.exp(-density.astype(np.float64)) - 1))


def original_densities(contrast: Contrast | None, adaptation: Adaptation | None) -> FloatArray:
    """Return the absorbance before the change of each value that :func:`adapt_stain` returns.

    Shape (256, 3), for red, green and blue.
    """
    found = None
    if contrast is not None and adaptation is not None:
        found = adaptation.originals(contrast)
    return _plain_densities() if found is None else found
