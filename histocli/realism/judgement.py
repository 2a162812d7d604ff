"""Are synthetic patches realistic, do they represent their references, are they copies?

Real patches show *reference images*; a synthetic patch *follows* the one that it was made after.
Distances of distributions are biased upwards where images are few: compare patch stores with the
same references and numbers of patches.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from scipy.stats import wasserstein_distance

from histocli.base.types import FloatArray, IntArray, Json
from histocli.model.trunk import Trunk
from histocli.realism.distances import (
    Chosen,
    Kernels,
    Vector,
    distance_to_references,
    histogram_distance,
    patch_spectra,
    standardise_by,
)
from histocli.realism.features import NAMES, random_convolutions, stain_and_texture, trunk_features
from histocli.realism.jackknife import Jackknife, Measure
from histocli.realism.morphology import Histograms
from histocli.training.two_sample import TwoSampleSchedule, area_under_curve, judge, judge_features

STAIN = tuple(range(8))
"""Columns of :func:`stain_and_texture` that describe colour: means, spreads, correlations."""
TEXTURE = tuple(range(8, len(NAMES)))
"""Columns of :func:`stain_and_texture` that describe fine detail, dark share and skewness."""


@dataclass(frozen=True)
class Patches:
    """Real or synthetic patches, whose bare glass is white."""

    images: npt.NDArray[np.uint8]
    """(n, S, S, 3) pixels, sRGB."""
    references: IntArray
    """(n,) the number of the reference image that each patch shows or follows."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Measures, with the numbers of patches and of the reference images of real patches."""

    measures: tuple[Measure, ...]
    features: dict[str, float]
    """Earth mover's distance of each named feature, in standard deviations of real patches."""
    real: int
    synthetic: int
    images: int

    def __getitem__(self, key: str) -> Measure:
        """Return a measure by its short name."""
        return next(measure for measure in self.measures if measure.key == key)

    def to_json(self) -> Json:
        """Return plain JSON values."""
        values = asdict(self)
        return values | {"measures": {each.pop("key"): each for each in values["measures"]}}


def judge_patches(
    real: Patches,
    synthetic: Patches,
    *,
    schedule: TwoSampleSchedule,
    device: torch.device,
    dtype: torch.dtype,
    morphology: Mapping[str, Histograms] | None = None,
    trunk: Trunk | None = None,
) -> Judgement:
    """Judge synthetic patches against real ones of the same size.

    Parameters
    ----------
    real, synthetic : Patches
        The ``references`` of both number the same images.
    schedule, device, dtype
        Of the training of classifiers.
    morphology : mapping of str to Histograms, optional
        By property, such as ``area``.
    trunk : Trunk, optional
        Features learnt from photographs, by which patches are compared, too.

    Raises
    ------
    ValueError
        All patches together have fewer than two references.
    """
    leave = Jackknife(real.references, synthetic.references)
    named = [stain_and_texture(side.images) for side in (real, synthetic)]
    random = [random_convolutions(side.images) for side in (real, synthetic)]
    in_spreads, random_in_spreads = standardise_by(*named), standardise_by(*random)
    measures = [
        _told_apart(real, synthetic, schedule, device, dtype),
        _kernel_distance("kid_named", "stain and texture", in_spreads, leave),
        _kernel_distance("kid_random", "random convolutions", random_in_spreads, leave),
        *(() if trunk is None else _by_trunk(trunk, real, synthetic, leave, schedule, device)),
        _feature_distance("stain", STAIN, in_spreads, leave),
        _feature_distance("texture", TEXTURE, in_spreads, leave),
        _spectrum_distance(real, synthetic, leave),
        *(
            _morphology_distance(name, histograms, synthetic.references, leave)
            for name, histograms in (morphology or {}).items()
        ),
        *_reference_distances(named, real.references, synthetic.references, leave),
        *_memorisation(random_in_spreads, leave),
    ]
    columns = zip(NAMES, *(side.T for side in in_spreads), strict=True)
    return Judgement(
        measures=tuple(measures),
        features={name: float(wasserstein_distance(*sides)) for name, *sides in columns},
        real=len(real.images),
        synthetic=len(synthetic.images),
        images=len(np.unique(real.references)),
    )


Features = tuple[FloatArray, FloatArray]
"""Features of real and synthetic patches, in standard deviations of the real ones."""


def _told_apart(
    real: Patches,
    synthetic: Patches,
    schedule: TwoSampleSchedule,
    device: torch.device,
    dtype: torch.dtype,
) -> Measure:
    sides = real.images, synthetic.images, real.references, synthetic.references
    scores = judge(*sides, schedule, device, dtype)
    return Measure(
        key="auc",
        name="AUC, real against synthetic",
        value=scores.auc,
        ci95=scores.interval(seed=schedule.seed),
        meaning="0.5: classifiers that never saw an image cannot tell its patches from "
        "synthetic ones; 1: they always can",
    )


def _kernel_distance(key: str, features: str, sides: Features, leave: Jackknife) -> Measure:
    return leave.measure(
        key,
        f"kernel distance, {features}",
        Kernels(*sides).distance,
        "0: two samples of one kind in these features (KID's statistic; Binkowski et al. 2018); "
        "below 0 by chance",
        bounds=(-np.inf, np.inf),
    )


def _by_trunk(
    trunk: Trunk,
    real: Patches,
    synthetic: Patches,
    leave: Jackknife,
    schedule: TwoSampleSchedule,
    device: torch.device,
) -> Iterator[Measure]:
    """Yield measures on features of photographs, which tell more apart than a small classifier."""
    trunk = trunk.to(device)
    first, second = (trunk_features(side.images, trunk, device) for side in (real, synthetic))
    told_apart = judge_features(
        first, second, real.references, synthetic.references,
        folds=schedule.folds, seed=schedule.seed,
    )  # fmt: skip
    yield Measure(
        key="auc_trunk",
        name="AUC, features of photographs",
        value=told_apart.auc,
        ci95=told_apart.interval(seed=schedule.seed),
        meaning="the same for a linear classifier on features of photographs; a stronger judge",
    )
    sides = standardise_by(first, second)
    yield _kernel_distance("kid_trunk", "features of photographs", sides, leave)


def _feature_distance(
    name: str, columns: tuple[int, ...], sides: Features, leave: Jackknife
) -> Measure:
    real, synthetic = sides

    def moved(a: Chosen, b: Chosen) -> float:
        return float(np.mean([wasserstein_distance(real[a, k], synthetic[b, k]) for k in columns]))

    return leave.measure(
        name,
        f"{name} distance",
        moved,
        "mean earth mover's distance of the named features, in spreads of the real patches; "
        "0: equal distributions",
    )


def _spectrum_distance(real: Patches, synthetic: Patches, leave: Jackknife) -> Measure:
    first, second = patch_spectra(real.images), patch_spectra(synthetic.images)
    return leave.measure(
        "spectrum",
        "spectrum distance",
        lambda a, b: float(np.sqrt(np.mean((first[a].mean(axis=0) - second[b].mean(axis=0)) ** 2))),
        "root mean square difference of the log power at each spatial frequency; "
        "0.1 is about 10 % of power",
    )


def _morphology_distance(
    name: str, histograms: Histograms, followed: IntArray, leave: Jackknife
) -> Measure:
    """Compare drawn with measured nuclei; references weigh by the patches that follow them."""
    real = histograms.real
    totals = real.sum(axis=1)
    shares = np.divide(real, totals[:, None], out=np.zeros(real.shape), where=totals[:, None] > 0)

    def moved(_: Chosen, b: Chosen) -> float:
        times = np.bincount(followed[b & (followed < len(real))], minlength=len(real))
        wanted = (shares * (times * (totals > 0))[:, None]).sum(axis=0)
        drawn = histograms.synthetic[b].sum(axis=0)
        return histogram_distance(wanted, drawn) * histograms.bin_width

    return leave.measure(
        f"morphology_{name}",
        f"morphology distance, {name}",
        moved,
        "earth mover's distance of nuclei drawn to those measured in references, "
        "in doublings or bins",
    )


def _reference_distances(
    features: list[FloatArray], real_images: IntArray, followed: IntArray, leave: Jackknife
) -> Iterator[Measure]:
    """Yield distances to references; none unless a patch follows one that real patches show."""
    usable = np.isin(followed, real_images)
    if not usable.any():
        return
    own, others = distance_to_references(features[0], real_images, features[1], followed)
    for key, name, values, meaning in (
        ("own_reference", "distance to the own reference", own,
         "of a patch to the mean of the image it follows, in spreads"),
        ("other_references", "distance to the others", others,
         "to the means of the other images; should be larger"),
    ):  # fmt: skip

        def mean(_: Chosen, b: Chosen, values: Vector = values) -> float:
            return float(values[b & usable].mean()) if (b & usable).any() else float("nan")

        yield leave.measure(key, name, mean, meaning)


def _memorisation(sides: Features, leave: Jackknife) -> Iterator[Measure]:
    """Compare the distances of patches to the nearest real patch (Meehan et al. 2020)."""
    tree = cKDTree(sides[0])
    # the real patch nearest to a real patch is itself
    nearest_real, nearest = tree.query(sides[0], k=2)[0][:, 1], tree.query(sides[1])[0]
    limit = np.percentile(nearest_real, 1)  # a synthetic patch nearer than this is suspicious
    yield leave.measure(
        "memorisation",
        "memorisation",
        lambda a, b: area_under_curve(nearest_real[a], nearest[b]),
        "chance that a synthetic patch lies nearer to some real patch than real ones to each "
        "other; near 1: copies",
        bounds=(0.0, 1.0),
    )
    yield leave.measure(
        "copies",
        "suspected copies",
        lambda _, b: float((nearest[b] < limit).mean()),
        "share of synthetic patches nearer to a real patch than 99 % of real ones are to each "
        "other; 0.01 by chance",
        bounds=(0.0, 1.0),
    )
