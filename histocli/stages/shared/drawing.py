"""Synthetic patches drawn in worker processes, for ``generate`` and ``train --fresh``.

Each patch imitates a region of a reference image. The measurements of the regions lie in a scratch
folder as plain arrays (``shared.measuring``), which workers map into memory, so that memory does
not grow with the number of patches. Patch i depends only on the settings, the references and i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.rng import rng_for
from histocli.config.generate import GenerateConfig
from histocli.reference.statistics import Reference
from histocli.stages.shared.measuring import Region
from histocli.stores.scratch import load_arrays
from histocli.synthesis.patch import Drawing, draw_patch, paint_patches
from histocli.synthesis.variation import AS_MEASURED, Spread, Variation


@dataclass(frozen=True)
class DrawJob:
    """A batch of patches to draw."""

    batch: range  # numbers of the patches
    reference: npt.NDArray[np.int32]  # number of the region that each patch imitates
    folders: tuple[Path, ...]  # for each patch, the folder with the arrays of its region
    patch_px: int
    seed: int
    paint: bool  # whether the worker also computes the pixels; False if the parent does it on a GPU
    purpose: str  # name of the stream of random numbers: patches of different purposes differ
    spread: Spread | None  # distribution of the factors on parameters; None: all factors are 1


@dataclass(frozen=True)
class DrawnPatches:
    """Drawn patches, with pixels (``image``) or with the drawings from which they are computed."""

    instance_labels: npt.NDArray[np.int32]  # (n, H, W)
    image: npt.NDArray[np.uint8] | None  # (n, H, W, 3)
    drawings: list[Drawing]  # empty if ``image`` is given


def draw_job(
    batch: range,
    regions: Sequence[Region],
    config: GenerateConfig,
    *,
    paint: bool = True,
    purpose: str = "patch",
    spread: Spread | None = None,
) -> DrawJob:
    """Return the job that draws the patches with the numbers ``batch``."""
    reference = reference_order(config.seed, len(regions), batch)
    folders = tuple(regions[number].folder for number in reference)
    return DrawJob(batch, reference, folders, config.patch_px, config.seed, paint, purpose, spread)


def reference_order(seed: int, n_references: int, patches: range) -> npt.NDArray[np.int32]:
    """Return the number of the reference that each patch imitates.

    Each run of ``n_references`` patches takes every reference once, in a new random order. The
    entry of patch i depends only on the seed, the number of references and i.
    """
    first, last = patches.start // n_references, (patches.stop - 1) // n_references
    turns = range(first, last + 1)
    orders = [rng_for(seed, "reference", turn).permutation(n_references) for turn in turns]
    start = patches.start - first * n_references
    return np.concatenate(orders)[start : start + len(patches)].astype(np.int32)


def variation_of(spread: Spread | None, seed: int, purpose: str, patch: int) -> Variation:
    """Return the factors on measured parameters for one patch."""
    if spread is None:
        return AS_MEASURED
    return spread.draw(rng_for(seed, f"variation of {purpose}", patch))


def draw_patches(job: DrawJob) -> DrawnPatches:
    """Draw patches; runs in a worker."""
    loaded = {folder: Reference.from_arrays(*load_arrays(folder)) for folder in set(job.folders)}
    drawings = [
        draw_patch(
            loaded[folder],
            job.patch_px,
            rng_for(job.seed, job.purpose, patch),
            variation=variation_of(job.spread, job.seed, job.purpose, patch),
        )
        for patch, folder in zip(job.batch, job.folders, strict=True)
    ]
    labels = np.stack([drawing.instance_labels for drawing in drawings])
    if job.paint:
        return DrawnPatches(labels, paint_patches(drawings, torch.device("cpu")), [])
    return DrawnPatches(labels, None, drawings)
