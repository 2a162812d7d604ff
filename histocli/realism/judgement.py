"""Are synthetic patches realistic, do they represent their references, are they copies? Each answer
with its interval.

Intervals of distances come from the jackknife over reference images (Tukey 1958): each image is
left out in turn, with the patches that show it and those that follow it, so that many patches of
one image do not look like much evidence. Distances of distributions are biased upwards where images
are few; compare stores by the same references and numbers of patches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from histocli.base.types import Json
from histocli.realism.distances import distance_to_references, patch_spectra, standardise_by
from histocli.realism.features import NAMES, random_convolutions, stain_and_texture
from histocli.training.two_sample import TwoSampleSchedule, area_under_curve, judge

STAIN = tuple(range(8))
"""Columns of :func:`stain_and_texture` that describe colour: absorbances and their correlations."""
TEXTURE = tuple(range(8, len(NAMES)))
"""Those that describe grain, and how much is dark."""
# of the distances of real patches to their nearest: nearer than that is suspicious
COPY_PERCENTILE = 1.0
Z95 = 1.959964

Vector = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], float]
"""Of the kept real and the kept synthetic patches."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number about a set of synthetic patches."""

    key: str
    """Short name, for programs."""
    name: str
    """For people."""
    value: float
    ci95: tuple[float, float] | None
    """None where fewer than three reference images leave nothing to say."""
    meaning: str
    """What the number says, in one line."""

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "value": self.value,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "meaning": self.meaning,
        }


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Everything that was measured."""

    measures: tuple[Measure, ...]
    features: dict[str, float]
    """Earth mover's distance of each named feature, in spreads of the real patches."""
    real: int
    """Patches judged."""
    synthetic: int
    images: int
    """Reference images."""

    def __getitem__(self, key: str) -> Measure:
        """Return a measure by its short name."""
        return next(measure for measure in self.measures if measure.key == key)

    def __contains__(self, key: str) -> bool:
        return any(measure.key == key for measure in self.measures)

    def to_json(self) -> Json:
        """Return plain JSON values."""
        return {
            "measures": {measure.key: measure.to_json() for measure in self.measures},
            "features": self.features,
            "real": self.real,
            "synthetic": self.synthetic,
            "images": self.images,
        }


@dataclass(frozen=True)
class Histograms:
    """Counts of nuclei by a property, of each reference image and of each synthetic patch."""

    real: npt.NDArray[np.floating]
    """(images, bins); row k is of the image with number k in ``real_images``."""
    synthetic: npt.NDArray[np.floating]
    """(patches, bins)."""
    bin_width: float
    """In the unit of the property."""


def judge_patches(
    real: npt.NDArray[np.uint8],
    real_images: npt.NDArray[np.int64],
    synthetic: npt.NDArray[np.uint8],
    followed: npt.NDArray[np.int64],
    *,
    device: torch.device,
    dtype: torch.dtype,
    morphology: dict[str, Histograms] | None = None,
    schedule: TwoSampleSchedule | None = None,
    seed: int = 0,
) -> Judgement:
    """Judge synthetic patches against real ones.

    Parameters
    ----------
    real : ndarray of uint8, shape (n, S, S, 3)
        Real patches, glass made white.
    real_images : ndarray of int, shape (n,)
        Which reference image each shows.
    synthetic : ndarray of uint8, shape (m, S, S, 3)
        Glass made white.
    followed : ndarray of int, shape (m,)
        Which reference image each was made after, in the same numbering.
    device, dtype
        Of the classifiers.
    morphology : dict of Histograms, optional
        By the name of the property, such as ``area``.
    schedule : TwoSampleSchedule, optional
        How the classifiers are trained.
    seed : int

    Raises
    ------
    ValueError
        Patches of fewer than two images: nothing can be held out.
    """
    verdict = judge(
        real,
        synthetic,
        real_images,
        followed,
        schedule or TwoSampleSchedule(seed=seed),
        device,
        dtype,
    )
    named, blind = (
        [make(side) for side in (real, synthetic)]
        for make in (stain_and_texture, random_convolutions)
    )
    leave = _Jackknife(real_images, followed)
    measures = [
        Measure(
            key="auc",
            name="AUC, real against synthetic",
            value=verdict.auc,
            ci95=verdict.interval(seed=seed),
            meaning="0.5: classifiers that never saw an image cannot tell its patches from synthetic ones; 1: they always can",
        )
    ]
    for key, features, pair in (
        ("kid_named", "stain and texture", named),
        ("kid_random", "random convolutions", blind),
    ):
        kernels = _Kernels(*_two(*pair))
        measures.append(
            leave.measure(
                key,
                f"kernel distance, {features}",
                kernels.distance,
                "0: two samples of one kind in these features (KID's statistic; Binkowski et al. 2018); below 0 by chance",
                bounds=(-np.inf, np.inf),
            )
        )
    first, second = _two(*named)

    def moved(columns: tuple[int, ...]) -> Statistic:
        return lambda a, b: float(
            np.mean([_earth_mover(first[a, k], second[b, k]) for k in columns])
        )

    def mean_of(values: Vector, usable: npt.NDArray[np.bool_]) -> Statistic:
        return lambda _, b: float(values[b & usable].mean()) if (b & usable).any() else float("nan")

    for key, name, columns in (
        ("stain", "stain distance", STAIN),
        ("texture", "texture distance", TEXTURE),
    ):
        measures.append(
            leave.measure(
                key,
                name,
                moved(columns),
                "mean earth mover's distance of the named features, in spreads of the real patches; 0: equal distributions",
            )
        )
    spectra = patch_spectra(real), patch_spectra(synthetic)
    measures.append(
        leave.measure(
            "spectrum",
            "spectrum distance",
            lambda a, b: float(
                np.sqrt(np.mean((spectra[0][a].mean(axis=0) - spectra[1][b].mean(axis=0)) ** 2))
            ),
            "root mean square difference of the log power at each spatial frequency; 0.1 is about 10 % of power",
        )
    )
    for key, histograms in (morphology or {}).items():
        measures.append(
            leave.measure_by_image(f"morphology_{key}", f"morphology distance, {key}", histograms)
        )
    own, others = distance_to_references(named[0], real_images, named[1], followed)
    known = np.isin(followed, real_images)
    if known.any():
        for key, name, away, meaning in (
            (
                "own_reference",
                "distance to the own reference",
                own,
                "of a patch to the mean of the image it follows, in spreads",
            ),
            (
                "other_references",
                "distance to the others",
                others,
                "to the means of the other images; should be larger",
            ),
        ):
            measures.append(leave.measure(key, name, mean_of(away, known), meaning))
    measures += _memorisation(*_two(*blind), leave)
    return Judgement(
        measures=tuple(measures),
        features={name: _earth_mover(first[:, k], second[:, k]) for k, name in enumerate(NAMES)},
        real=len(real),
        synthetic=len(synthetic),
        images=len(np.unique(real_images)),
    )


def _two(
    real: npt.NDArray[np.floating], synthetic: npt.NDArray[np.floating]
) -> tuple[Vector, Vector]:
    """Bring features to zero mean and unit spread over the real ones."""
    first, second = standardise_by(real, synthetic)
    return first.astype(np.float64), second.astype(np.float64)


class _Jackknife:
    """Leaves one reference image out at a time."""

    def __init__(self, real_images: npt.NDArray[np.int64], followed: npt.NDArray[np.int64]) -> None:
        self._real, self._followed = real_images, followed
        self._images = np.unique(real_images)

    def measure(
        self,
        key: str,
        name: str,
        statistic: Statistic,
        meaning: str,
        bounds: tuple[float, float] = (0.0, np.inf),
    ) -> Measure:
        """Return a statistic of the kept real and synthetic patches, with its interval cut to what
        is possible.
        """
        kept = [(self._real != image, self._followed != image) for image in self._images]
        value = statistic(np.ones(len(self._real), bool), np.ones(len(self._followed), bool))
        left = [
            each
            for one in kept
            if one[0].any() and one[1].any() and np.isfinite(each := statistic(*one))
        ]
        interval = jackknife_interval(value, left)
        if interval is not None:
            interval = max(interval[0], bounds[0]), min(interval[1], bounds[1])
        return Measure(key=key, name=name, value=value, ci95=interval, meaning=meaning)

    def measure_by_image(self, key: str, name: str, histograms: Histograms) -> Measure:
        """Return the earth mover's distance of two histograms; each reference counts as often as it
        was followed.
        """
        real, synthetic = histograms.real, histograms.synthetic

        def distance(left_out: int | None) -> float:
            used = (
                self._followed[self._followed != left_out]
                if left_out is not None
                else self._followed
            )
            times = np.bincount(used[used < len(real)], minlength=len(real)).astype(np.float64)
            totals = real.sum(axis=1)
            shares = np.divide(
                real, totals[:, None], out=np.zeros(real.shape), where=totals[:, None] > 0
            )
            wanted = (shares * (times * (totals > 0))[:, None]).sum(axis=0)
            chosen = synthetic[self._followed != left_out] if left_out is not None else synthetic
            return _histogram_distance(wanted, chosen.sum(axis=0)) * histograms.bin_width

        value = distance(None)
        left = [each for image in self._images if np.isfinite(each := distance(int(image)))]
        interval = jackknife_interval(value, left)
        return Measure(
            key=key,
            name=name,
            value=value,
            ci95=None if interval is None else (max(interval[0], 0.0), interval[1]),
            meaning="earth mover's distance of nuclei drawn to those measured in references, in doublings or bins",
        )


def jackknife_interval(value: float, left_out: Sequence[float]) -> tuple[float, float] | None:
    """Return a normal 95 % interval from a statistic and its values with one item left out (Tukey
    1958); None below three.
    """
    n = len(left_out)
    if n < 3 or not np.isfinite(value):
        return None
    error = float(np.sqrt((n - 1) / n * np.sum((np.asarray(left_out) - np.mean(left_out)) ** 2)))
    return value - Z95 * error, value + Z95 * error


class _Kernels:
    """The polynomial kernel between all patches, so that leaving some out only sums others."""

    def __init__(self, real: npt.NDArray[np.floating], synthetic: npt.NDArray[np.floating]) -> None:
        first, second = real.astype(np.float64), synthetic.astype(np.float64)
        self._own = [(side @ side.T / side.shape[1] + 1) ** 3 for side in (first, second)]
        for kernel in self._own:
            np.fill_diagonal(kernel, 0)
        self._cross = (first @ second.T / first.shape[1] + 1) ** 3

    def distance(self, real: npt.NDArray[np.bool_], synthetic: npt.NDArray[np.bool_]) -> float:
        """Return the unbiased squared maximum mean discrepancy of the kept patches."""
        within = 0.0
        for kernel, kept in zip(self._own, (real, synthetic), strict=True):
            weight = kept.astype(np.float64)
            n = weight.sum()
            within += float(weight @ kernel @ weight) / max(n * (n - 1), 1.0)
        between = (
            real.astype(np.float64)
            @ self._cross
            @ synthetic.astype(np.float64)
            / (real.sum() * synthetic.sum())
        )
        return float(within - 2 * between)


def _earth_mover(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Return the earth mover's distance of two samples of numbers (Wasserstein 1)."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(first, second))


def _histogram_distance(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Return the earth mover's distance of two histograms in bins; NaN where one is empty."""
    if not first.sum() or not second.sum():
        return float("nan")
    return float(np.abs(np.cumsum(first / first.sum() - second / second.sum())).sum())


def _memorisation(
    real: npt.NDArray[np.floating], synthetic: npt.NDArray[np.floating], leave: "_Jackknife"
) -> list[Measure]:
    """Compare how near synthetic patches lie to a real one with how near real ones lie to each
    other (Meehan et al. 2020).
    """
    tree = cKDTree(real)
    # the first is the patch itself
    nearest_real = np.asarray(tree.query(real, k=2)[0], np.float64)[:, 1]
    nearest = np.asarray(tree.query(synthetic)[0], np.float64)
    limit = np.percentile(nearest_real, COPY_PERCENTILE)
    return [
        leave.measure(
            "memorisation",
            "memorisation",
            lambda a, b: area_under_curve(nearest_real[a], nearest[b]),
            "chance that a synthetic patch lies nearer to some real patch than real ones to each other; near 1: copies",
            bounds=(0.0, 1.0),
        ),
        leave.measure(
            "copies",
            "suspected copies",
            lambda _, b: float((nearest[b] < limit).mean()),
            "share of synthetic patches nearer to a real patch than 99 % of real ones are to each other; 0.01 by chance",
            bounds=(0.0, 1.0),
        ),
    ]
