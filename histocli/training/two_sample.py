"""The classifier two-sample test: can a classifier tell real patches from synthetic ones?

The answer measures realism, and gives weights to synthetic patches. Folds are made of whole images,
so that a classifier never judges patches of an image that it has learnt from.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from histocli.base.device import autocast
from histocli.base.rng import rng_for
from histocli.model.discriminator import Classifier
from histocli.training.crops import random_crop

RIDGE = 0.1
"""Strength of the ridge that keeps linear classifiers from fitting noise; features have the
variance 1."""


def area_under_curve(real: npt.ArrayLike, synthetic: npt.ArrayLike) -> float:
    """Return the probability that a real item scores above a synthetic one; ties count half.

    This is the statistic of Mann and Whitney (1947) as a share.

    Parameters
    ----------
    real, synthetic : array_like, 1-D
        Scores; NaN is left out.

    Returns
    -------
    float
        0..1, or NaN if one side is empty.
    """
    first, second = (np.asarray(values, np.float64) for values in (real, synthetic))
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return float("nan")
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


@dataclass(frozen=True, kw_only=True)
class TwoSampleSchedule:
    """Settings of the training of classifiers."""

    folds: int = 3
    steps: int = 200
    batch: int = 16  # crops of each kind in a step
    crop_px: int = 128
    learning_rate: float = 2e-3
    seed: int = 0
    time_s: float | None = None
    """Seconds for all folds; where they do not suffice for the steps, fewer are taken. None: no
    limit."""


@dataclass(frozen=True)
class TwoSampleScores:
    """Held-out scores: each patch is judged by a classifier that has not learnt from its image."""

    real: npt.NDArray[np.float64]  # (n,), logits of "real" for the real patches; NaN if not judged
    synthetic: npt.NDArray[np.float64]  # (m,), the same for the synthetic patches
    real_images: npt.NDArray[np.int64]  # (n,), number of the image that each real patch shows
    synthetic_images: npt.NDArray[np.int64]  # (m,), image that each synthetic patch was made from

    @property
    def auc(self) -> float:
        """Area under the ROC curve; 0.5 means that real and synthetic look alike."""
        return area_under_curve(self.real, self.synthetic)

    def interval(self, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the AUC, resampling whole images."""
        rng = rng_for(seed, "auc")
        sides = ((self.real, self.real_images), (self.synthetic, self.synthetic_images))
        values = []
        for _ in range(draws):
            drawn = []
            for scores, images in sides:
                names, inverse = np.unique(images, return_inverse=True)
                times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
                drawn.append(np.repeat(scores, times[inverse]))
            values.append(area_under_curve(*drawn))
        low, high = np.nanpercentile(values, [2.5, 97.5])
        return float(low), float(high)


def folds_of(images: npt.NDArray[np.integer], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patch's fold, 0..folds - 1; images are spread evenly and at random over folds."""
    names = np.unique(images)
    fold = rng_for(seed, "folds").permutation(len(names)) % folds
    return np.asarray(fold[np.searchsorted(names, images)], np.int64)


def judge(
    real: npt.NDArray[np.uint8],
    synthetic: npt.NDArray[np.uint8],
    real_images: npt.NDArray[np.integer],
    synthetic_images: npt.NDArray[np.integer],
    schedule: TwoSampleSchedule,
    device: torch.device,
    dtype: torch.dtype,
    on_share: Callable[[float], None] = lambda share: None,
) -> TwoSampleScores:
    """For each fold, train a new classifier on the other folds and judge the fold's patches.

    Parameters
    ----------
    real : ndarray of uint8, shape (n, H, W, 3)
    synthetic : ndarray of uint8, shape (m, H, W, 3)
    real_images, synthetic_images : ndarray of int, shapes (n,) and (m,)
        Numbers of the images that patches show or were made from, with one numbering.
    dtype : torch.dtype
        Number format of the convolutions.
    on_share : callable
        Called after each step with the share of all that is done, 0..1; it may raise to stop.

    Raises
    ------
    ValueError
        Fewer than two images leave none to hold out.
    """
    numbers = np.concatenate([real_images, synthetic_images])
    folds = min(schedule.folds, len(np.unique(numbers)))
    if folds < 2:
        raise ValueError("patches of at least two images are needed to hold one out")
    fold = folds_of(numbers, folds, schedule.seed)
    sides = ((real, fold[: len(real)]), (synthetic, fold[len(real) :]))
    scores = [np.full(len(patches), np.nan) for patches, _ in sides]
    for number in range(folds):
        learn = [np.flatnonzero(fold_of != number) for _, fold_of in sides]
        if not all(map(len, learn)):
            continue
        report = partial(_report, on_share, number / folds, 1 / folds)
        share = replace(schedule, time_s=schedule.time_s and schedule.time_s / folds)
        classifier = _train_classifier(
            (real, synthetic), learn, share, number, device, dtype, report
        )
        for scored, (patches, fold_of) in zip(scores, sides, strict=True):
            own = fold_of == number
            scored[own] = _classify(classifier, patches[own], device, dtype)
    images = (np.asarray(each, np.int64) for each in (real_images, synthetic_images))
    return TwoSampleScores(*scores, *images)


def judge_features(
    real: npt.NDArray[np.floating],
    synthetic: npt.NDArray[np.floating],
    real_images: npt.NDArray[np.integer],
    synthetic_images: npt.NDArray[np.integer],
    *,
    folds: int,
    seed: int,
) -> TwoSampleScores:
    """Judge patches by their features: for each fold, a linear classifier learns from the others.

    The classifier is a ridge regression of the kind on standardised features, which needs no
    training by steps.

    Parameters
    ----------
    real, synthetic : ndarray of float, shapes (n, F) and (m, F)
        Features of patches.
    real_images, synthetic_images, folds, seed
        As for :func:`judge`.
    """
    both = np.concatenate([real, synthetic]).astype(np.float64)
    kind = np.concatenate([np.ones(len(real)), -np.ones(len(synthetic))])
    numbers = np.concatenate([real_images, synthetic_images])
    fold = folds_of(numbers, min(folds, len(np.unique(numbers))), seed)
    scores = np.full(len(both), np.nan)
    for number in np.unique(fold):
        learnt, own = fold != number, fold == number
        # both kinds weigh as much, however many patches each has
        weight = np.where(kind > 0, 1 / max((kind[learnt] > 0).sum(), 1),
                          1 / max((kind[learnt] < 0).sum(), 1))[learnt]  # fmt: skip
        weight /= weight.sum()
        mean = weight @ both[learnt]
        unit = both - mean
        unit /= np.sqrt(weight @ unit[learnt] ** 2) + 1e-6
        known = unit[learnt] * weight[:, None]
        gram = known.T @ unit[learnt] + RIDGE * np.eye(both.shape[1])
        scores[own] = unit[own] @ np.linalg.solve(gram, known.T @ kind[learnt])
    images = (np.asarray(each, np.int64) for each in (real_images, synthetic_images))
    return TwoSampleScores(scores[: len(real)], scores[len(real) :], *images)


def _report(on_share: Callable[[float], None], begin: float, length: float, done: float) -> None:
    """Report the share of all folds that is done, given that of one fold."""
    on_share(begin + length * done)


def _train_classifier(
    kinds: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    learn: Sequence[npt.NDArray[np.integer]],
    schedule: TwoSampleSchedule,
    number: int,
    device: torch.device,
    dtype: torch.dtype,
    on_share: Callable[[float], None],
) -> Classifier:
    """Train a new classifier of real and synthetic patches on those of each with indices ``learn``.

    ``on_share`` is called after each step with the share that is done; it may raise to stop.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed * 1000 + number)
        classifier = Classifier().to(device)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier.train()
    rate = schedule.learning_rate
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=1e-2)
    truth = torch.cat([torch.ones(schedule.batch), torch.zeros(schedule.batch)]).to(device)
    for step, done in _steps(schedule):
        # the learning rate rises for a tenth of the training, and falls during the second half
        factor = min(1, (done * schedule.steps + 1) / (0.1 * schedule.steps), 2 * (1 - done))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        rng = rng_for(schedule.seed, f"two-sample {number}", step)
        crops = [
            random_crop(patches[index], min(schedule.crop_px, *patches.shape[1:3]), rng)
            for patches, learnt in zip(kinds, learn, strict=True)
            for index in rng.choice(learnt, schedule.batch)
        ]
        logits = _logits(classifier, np.stack(crops), device, dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_share(done)
    classifier.eval()
    return classifier


def _steps(schedule: TwoSampleSchedule) -> Iterator[tuple[int, float]]:
    """Yield each step with the share of the training, 0..1, that is done before it."""
    start = time.monotonic()
    for step in range(schedule.steps):
        done = step / schedule.steps
        if schedule.time_s is not None:
            done = max(done, (time.monotonic() - start) / schedule.time_s)
        if done >= 1:
            return
        yield step, done


def _classify(
    classifier: Classifier,
    patches: npt.NDArray[np.uint8],
    device: torch.device,
    dtype: torch.dtype,
    batch: int = 32,
) -> npt.NDArray[np.float64]:
    """Return the logits of "real" for whole patches, shape (n,)."""
    with torch.inference_mode():
        parts = [
            _logits(classifier, patches[start : start + batch], device, dtype).cpu().numpy()
            for start in range(0, len(patches), batch)
        ]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def _logits(
    classifier: Classifier, pixels: npt.NDArray[np.uint8], device: torch.device, dtype: torch.dtype
) -> Tensor:
    light = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    with autocast(device, dtype):
        logits: Tensor = classifier(light)
    return logits.float()


def fit_log_odds(scores: TwoSampleScores) -> tuple[float, float]:
    """Fit slope and offset that turn held-out logits into calibrated log odds (Platt 1999).

    ``slope * logit + offset`` is the log odds of "real" for equally many patches of both kinds.
    """
    logits = np.concatenate([scores.real, scores.synthetic])
    truth = np.concatenate([np.ones(len(scores.real)), np.zeros(len(scores.synthetic))])
    known = np.isfinite(logits)
    logits, truth = logits[known], truth[known]
    balance = np.where(truth == 1, 0.5 / max(truth.sum(), 1), 0.5 / max((1 - truth).sum(), 1))
    spread = max(float(logits.std()), 1e-6)
    unit = logits / spread
    ridge = 1e-4  # without it, logits that separate the kinds perfectly give an infinite slope

    def loss(values: npt.NDArray[np.float64]) -> float:
        odds = values[0] * unit + values[1]
        entropy = np.logaddexp(0, np.where(truth == 1, -odds, odds))
        return float((balance * entropy).sum() + ridge * (values**2).sum())

    found = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    slope, offset = found[0] / spread, found[1]
    return float(slope), float(offset)


def importance_weights(
    scores: TwoSampleScores, limits: tuple[float, float] = (0.1, 10.0), least_effective: float = 0.0
) -> npt.NDArray[np.float64]:
    """Weigh synthetic patches by their odds of being real (Hou et al. 2019).

    Parameters
    ----------
    limits : tuple of float
        Smallest and largest odds. They hold before the mean of the odds is scaled to 1.
    least_effective : float
        Least effective share, 0..1. With a nearly perfect classifier few patches would have all the
        weight, so log odds are shrunk until this share is reached.

    Returns
    -------
    ndarray of float64, shape (m,)
        Weights of mean 1. Patches that were not judged get the mean.
    """
    slope, offset = fit_log_odds(scores)
    odds = np.clip(slope * scores.synthetic + offset, -30, 30)
    shrink = 1.0
    while True:
        ratio = np.clip(np.exp(shrink * odds), *limits)
        mean = np.nanmean(ratio) if np.isfinite(ratio).any() else 1.0
        ratio = np.where(np.isnan(ratio), mean, ratio)
        weights: npt.NDArray[np.float64] = ratio / ratio.mean()
        if effective_share(weights) >= least_effective or shrink < 0.01:
            return weights
        shrink *= 0.8


def weights_of_kept(
    judged: npt.NDArray[np.float64], chosen: npt.NDArray[np.integer], kept: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """Return weights of all patches, shape (n,): judged ones as given, others 1, discarded ones 0.

    ``chosen`` (m,) are the indices of the ``judged`` weights (m,); ``kept`` (n,) is 1 or, for
    discarded patches, 0. The mean weight of the kept patches is scaled to 1.
    """
    full = np.ones(len(kept), np.float64)
    full[chosen] = judged
    full *= kept
    full /= max(full.sum() / max(kept.sum(), 1), 1e-9)
    return full.astype(np.float32)


def effective_share(weights: Sequence[float] | npt.NDArray[np.floating]) -> float:
    """Return the effective sample size of weights divided by their number, 0..1 (Kish 1965)."""
    values = np.asarray(weights, np.float64)
    if not values.any():
        return 0.0
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))
