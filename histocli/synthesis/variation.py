"""Parameters of the synthesis that vary from patch to patch, and their adaptation to real images.

Each parameter is a factor on a measurement of the reference (the real image that a patch imitates)
or on a value drawn around it. Factors are first drawn broadly. A classifier that separates
synthetic from real patches then ranks the patches, and the next factors are drawn around the
factors of the most realistic patches: the cross-entropy method (Rubinstein 1999). Where the
classifier is nearly perfect, weights of patches degenerate, but its ranking still shows in which
direction the synthesis errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from histocli.base.types import Json

BROAD_SD = 0.25  # first standard deviation of the logarithms, about a quarter of the factor
STAYS_BROAD = 0.2  # share of patches always drawn broadly, to try distant values too
SMALLEST_SD = 0.05  # lower limit of the standard deviation of a logarithm


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Factors of one patch; 1 keeps the measurement."""

    strength: float = 1.0  # contrast of nuclei
    texture: float = 1.0  # strength of textures
    grain: float = 1.0  # strength of the chromatin noise
    edge: float = 1.0  # width of borders
    fine_core: float = 1.0  # finest detail within nuclei
    fine_edge: float = 1.0  # finest detail along borders of nuclei
    area: float = 1.0  # median area
    coverage: float = 1.0  # share of tissue that nuclei cover


AS_MEASURED = Variation()
NAMES = tuple(field.name for field in fields(Variation))


@dataclass(frozen=True)
class Spread:
    """Independent normal distributions of the logarithms of the factors over patches."""

    mean: tuple[float, ...] = (0.0,) * len(NAMES)
    sd: tuple[float, ...] = (BROAD_SD,) * len(NAMES)

    def draw(self, rng: np.random.Generator) -> Variation:
        """Draw the factors of one patch; a share of patches is drawn broadly."""
        broad = rng.random() < STAYS_BROAD
        unit = np.clip(rng.standard_normal(len(NAMES)), -2.5, 2.5)
        logs = BROAD_SD * unit if broad else np.asarray(self.mean) + np.asarray(self.sd) * unit
        return Variation(**dict(zip(NAMES, np.exp(logs).tolist(), strict=True)))

    def refit(
        self,
        variations: Sequence[Variation],
        scores: npt.NDArray[np.floating],
        groups: npt.NDArray[np.integer],
    ) -> Spread:
        """Return the distribution of the patches that looked most real, or itself without scores.

        ``scores`` (n,) are higher for more realistic patches, NaN for patches without a score.
        ``groups`` (n,) give the reference of each patch. The best patches are chosen within each
        reference, because the content of some references looks more real than that of others,
        whatever the parameters are.
        """
        rank = np.full(len(scores), np.nan)
        for group in np.unique(groups):
            members = np.flatnonzero((groups == group) & np.isfinite(scores))
            order = np.argsort(np.argsort(scores[members], kind="stable"), kind="stable")
            rank[members] = (order + 0.5) / max(len(members), 1)
        best = np.flatnonzero(rank > 1 - 0.3)  # false for NaN
        if len(best) < 2:
            return self
        logs = np.log(np.array([astuple(variations[int(i)]) for i in best]))
        stays = 0.3  # weight of the earlier distribution
        mean = stays * np.asarray(self.mean) + (1 - stays) * logs.mean(axis=0)
        sd = stays * np.asarray(self.sd) + (1 - stays) * logs.std(axis=0)
        sd = np.maximum(sd, SMALLEST_SD)
        return Spread(tuple(mean.tolist()), tuple(sd.tolist()))

    def to_json(self) -> Json:
        """Return the median factor of each parameter and the deviation of its logarithm."""
        return {
            name: {"factor": round(float(np.exp(mean)), 4), "log_sd": round(sd, 4)}
            for name, mean, sd in zip(NAMES, self.mean, self.sd, strict=True)
        }

    @classmethod
    def from_json(cls, values: Json) -> Spread:
        """Return the distribution that ``to_json`` described, up to its rounding."""
        return cls(
            tuple(float(np.log(values[name]["factor"])) for name in NAMES),
            tuple(float(values[name]["log_sd"]) for name in NAMES),
        )
