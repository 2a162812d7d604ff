"""The patches of all stores in memory, with their targets; some are held out from training."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InvalidStore
from histocli.base.interrupts import raise_if_stopped
from histocli.base.rng import rng_for
from histocli.base.system import resolve_workers
from histocli.instances.targets import contacts, normalised_distance
from histocli.model.adaptation import StainRange, measure_stain_range
from histocli.model.known_stains import KnownStains, measure_known_stains
from histocli.model.normalisation import glass_to_white, tissue_moments
from histocli.stages.shared.references import patch_glass_levels
from histocli.stages.train.plan import Request, WeightedStore
from histocli.training.sampling import PatchSet
from histocli.training.two_sample import effective_share

logger = logging.getLogger(__name__)

MOST_HELD_OUT = 64  # most held-out patches; more would cost time and change the scores little
FEW_REFERENCES = 8  # from so many references on, all patches of some references are held out
LEAST_EFFECTIVE = 0.3  # effective share of the weights, below which they all become 1


@dataclass(frozen=True)
class HeldOut:
    """Synthetic patches that are scored and not learnt from."""

    images: npt.NDArray[np.uint8]  # (n, H, W, 3), sRGB; glass, the empty background, is made white
    labels: npt.NDArray[np.int32]  # (n, H, W)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class TrainingPatches:
    """The patches of a training, learnt and held out."""

    learnt: PatchSet
    held_out: HeldOut
    store_of: npt.NDArray[np.int64]  # number of each learnt patch's store
    stain_range: StainRange | None  # stains of the middle references
    known_stains: KnownStains | None  # stains of all references
    effective_share: float  # effective sample size of the weights above 0, over their number


class _Arrays:
    """Patches of all stores with their targets, one array for each property."""

    def __init__(self, request: Request) -> None:
        side = request.store.patch_px
        total = sum(len(item.store) for item in request.inputs)
        shape = (total, side, side)
        self.images = np.empty((*shape, 3), np.uint8)
        self.labels = np.empty(shape, np.int32)
        self.distance = np.empty(shape, np.uint8)
        self.contact = np.empty(shape, bool) if request.learns_contacts else None
        self.moments = np.zeros((total, 7))
        sizes = [len(item.store) for item in request.inputs]
        stores = [item.store for item in request.inputs]
        self.store_of = np.repeat(np.arange(len(sizes)), sizes)
        self.reference = np.concatenate([store.reference for store in stores]).astype(np.int64)
        self.weight = np.concatenate([store.weight for store in stores]).astype(np.float32)
        # the user's weight holds for the whole store, whatever its number of patches
        self.share = np.repeat([item.weight / len(item.store) for item in request.inputs], sizes)
        self.synthetic = np.repeat([store.origin != "labelled" for store in stores], sizes)

    def read(self, item: WeightedStore, batch: range, first: int) -> int:
        """Read a batch of a store whose patches begin at index ``first``; return its size."""
        where = slice(first + batch.start, first + batch.stop)
        self.images[where], self.labels[where] = item.store.read(batch)
        levels = patch_glass_levels(item.store, batch, self.images[where])
        for index, level in zip(range(where.start, where.stop), levels, strict=True):
            self.images[index] = glass_to_white(self.images[index], level)
            # every second row and column are enough to measure the stain
            self.moments[index] = tissue_moments(self.images[index][::2, ::2])
            self.distance[index] = normalised_distance(self.labels[index])
            if self.contact is not None:
                self.contact[index] = contacts(self.labels[index], item.store.mpp)
        return len(batch)

    def part(self, kept: npt.NDArray[np.int64]) -> PatchSet:
        """Return the patches with the indices ``kept`` as a training set."""
        # for all patches, views save the memory of copies
        where = slice(None) if len(kept) == len(self.images) else kept
        labels = self.labels[where]
        return PatchSet(
            self.images[where],
            labels > 0,
            labels >= 0,
            self.distance[where],
            self.weight[kept],
            self.share[kept] / self.share[kept].sum(),
            contact=None if self.contact is None else self.contact[where],
        )


def load_patches(request: Request) -> TrainingPatches:
    """Read all patches, compute their targets and hold some out.

    Raises ``InvalidStore`` if no patch holds nuclei, or all weights are 0.
    """
    arrays = _Arrays(request)
    starts = np.cumsum([0, *(len(item.store) for item in request.inputs)])
    spans = [
        (item, batch, int(first))
        for item, first in zip(request.inputs, starts[:-1], strict=True)
        for batch in item.store.batches()
    ]
    with (
        request.track("reading patches", len(arrays.images)) as bar,
        ThreadPoolExecutor(resolve_workers(request.execution.workers)) as pool,
    ):
        for count in pool.map(lambda span: arrays.read(*span), spans):
            raise_if_stopped("train: stopped before the first step; run it again")
            bar.advance(count)
    pairs = np.stack([arrays.store_of, arrays.reference])
    group = np.unique(pairs, axis=1, return_inverse=True)[1].ravel()
    unseen = _choose_unseen(arrays.synthetic, group, request.config.validation, request.config.seed)
    kept = np.setdiff1d(np.arange(len(arrays.images)), unseen)
    held = unseen[np.linspace(0, len(unseen) - 1, min(len(unseen), MOST_HELD_OUT)).astype(int)]
    if not (arrays.weight[kept] > 0).any() or not (arrays.labels[kept] > 0).any():
        raise InvalidStore(
            f"{request.store.path}: there is nothing to learn from: the patches hold no nuclei, or "
            "all their weights are 0; make them from references that show tissue"
        )
    learnt = arrays.part(kept)
    share = effective_share(learnt.weight[learnt.weight > 0])
    return TrainingPatches(
        learnt=_usable_weights(learnt, share),
        held_out=HeldOut(arrays.images[held], arrays.labels[held]),
        store_of=arrays.store_of[kept],
        stain_range=measure_stain_range(arrays.moments, group, request.config.contrast_quantile),
        known_stains=measure_known_stains(arrays.moments, group),
        effective_share=round(share, 4),
    )


def _choose_unseen(
    synthetic: npt.NDArray[np.bool_], reference: npt.NDArray[np.integer], share: float, seed: int
) -> npt.NDArray[np.int64]:
    """Return the indices of patches that are not learnt: synthetic ones, never a person's.

    They are all patches of some references (numbers ``reference``), since patches of one reference
    show the same textures. Of fewer than ``FEW_REFERENCES``, single patches are held out instead.
    """
    candidates = np.flatnonzero(synthetic)
    count = min(MOST_HELD_OUT, round(share * len(candidates)), len(candidates) - 1)
    if count <= 0:
        return np.zeros(0, np.int64)
    rng = rng_for(seed, "validation")
    numbers = np.unique(reference[candidates])
    if len(numbers) < FEW_REFERENCES:
        return np.sort(rng.choice(candidates, count, replace=False))
    order = rng.permutation(numbers)
    sizes = np.cumsum([(reference[candidates] == number).sum() for number in order])
    chosen = order[: int(np.searchsorted(sizes, count)) + 1]
    return candidates[np.isin(reference[candidates], chosen)]


def _usable_weights(patches: PatchSet, share: float) -> PatchSet:
    """Return the patches; if ``share``, the effective share, is too small, with equal weights."""
    if share >= LEAST_EFFECTIVE:
        return patches
    text = (
        "the weights leave %.0f %% of the patches effective, less than %.0f %%: they are not used"
    )
    logger.warning(text, 100 * share, 100 * LEAST_EFFECTIVE)
    return replace(patches, weight=(patches.weight > 0).astype(np.float32))
