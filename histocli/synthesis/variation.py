"""Parameters of the synthesis that vary from patch to patch, drawn ever closer to what looks real.

Each is a factor on what was measured in the reference or drawn around it. Factors are drawn broadly
first; a classifier that tells synthetic patches from real ones says which patches looked real, and
the next factors are drawn around theirs: the cross-entropy method (Rubinstein 1999). Where such a
classifier is nearly perfect, weights of patches degenerate, but its ranking still shows in which
direction the synthesis errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from histocli.base.types import Json

BROAD_SD = 0.25
"""Standard deviation of the logarithms at first: about a third more or less."""
STAYS_BROAD = 0.2
"""Share of patches that are drawn broadly whatever the classifier said."""
SMALLEST_SD = 0.05
"""Below this the standard deviation of a logarithm never falls."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Factors of one patch; 1 is as measured."""

    strength: float = 1.0
    """Of the contrast of nuclei."""
    texture: float = 1.0
    """Of the texture that fragments of the reference lend."""
    grain: float = 1.0
    """Of the chromatin's noise."""
    edge: float = 1.0
    """Of the width of borders."""
    fine_core: float = 1.0
    """Of the finest detail within nuclei."""
    fine_edge: float = 1.0
    """Of the finest detail along their borders."""
    area: float = 1.0
    """Of the median area."""
    coverage: float = 1.0
    """Of the share of tissue that nuclei cover."""


AS_MEASURED = Variation()
NAMES = tuple(field.name for field in fields(Variation))


@dataclass(frozen=True)
class Spread:
    """How logarithms of factors are distributed over patches: independent normal distributions."""

    mean: tuple[float, ...] = (0.0,) * len(NAMES)
    sd: tuple[float, ...] = (BROAD_SD,) * len(NAMES)

    def draw(self, rng: np.random.Generator) -> Variation:
        """Draw the factors of one patch; some stay broad, so that nothing is lost from sight."""
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
        """Return the distribution of the patches that looked most real.

        Parameters
        ----------
        variations : sequence of Variation
            Of the patches that were judged.
        scores : ndarray of float, shape (n,)
            The higher, the more real; NaN where a patch was not judged.
        groups : ndarray of int, shape (n,)
            Which reference each follows: the best are chosen among those of one reference, since
            the content of some references looks more real than that of others whatever the
            parameters are.

        Returns
        -------
        Spread
            Itself where nothing was judged.
        """
        rank = np.full(len(scores), np.nan)
        for group in np.unique(groups):
            members = np.flatnonzero((groups == group) & np.isfinite(scores))
            order = np.argsort(np.argsort(scores[members], kind="stable"), kind="stable")
            rank[members] = (order + 0.5) / max(len(members), 1)
        best = np.flatnonzero(rank > 1 - 0.3)  # NaN is not
        if len(best) < 2:
            return self
        logs = np.log(np.array([astuple(variations[int(i)]) for i in best]))
        stays = 0.3  # how much of the earlier distribution is kept
        mean = stays * np.asarray(self.mean) + (1 - stays) * logs.mean(axis=0)
        sd = stays * np.asarray(self.sd) + (1 - stays) * logs.std(axis=0)
        sd = np.maximum(sd, SMALLEST_SD)
        return Spread(tuple(mean.tolist()), tuple(sd.tolist()))

    def to_json(self) -> Json:
        """Return each parameter's middle factor and the standard deviation of its logarithm."""
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
