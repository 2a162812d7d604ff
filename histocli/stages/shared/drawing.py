"""Patches drawn after references in worker processes, for ``generate`` and ``train --fresh``.

What synthesis needs of a reference lies in a scratch folder as plain arrays, which workers map into
memory, so that memory does not grow with the number of patches. Patch i depends on the seed, the
references and i only.
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
    """Patches to draw at a time."""

    batch: range
    """Their numbers."""
    reference: npt.NDArray[np.int32]
    """Number of the region that each patch follows."""
    folders: tuple[Path, ...]  # of the arrays of these regions
    patch_px: int
    seed: int
    paint: bool
    """Paint in the worker too; False where a GPU in the parent does it."""
    purpose: str
    """Of the random numbers: patches of different purposes differ."""
    spread: Spread | None
    """How parameters vary from patch to patch; None leaves them as measured."""


@dataclass(frozen=True)
class DrawnPatches:
    """Patches as drawn, painted or to be painted."""

    instance_labels: npt.NDArray[np.int32]
    image: npt.NDArray[np.uint8] | None
    drawings: list[Drawing]
    """Empty where the image is painted."""


def draw_job(
    batch: range,
    regions: Sequence[Region],
    config: GenerateConfig,
    *,
    paint: bool = True,
    purpose: str = "patch",
    spread: Spread | None = None,
) -> DrawJob:
    """Return what a worker needs to draw the patches of some numbers."""
    reference = reference_order(config.seed, len(regions), batch)
    folders = tuple(regions[number].folder for number in reference)
    return DrawJob(batch, reference, folders, config.patch_px, config.seed, paint, purpose, spread)


def reference_order(seed: int, n_references: int, patches: range) -> npt.NDArray[np.int32]:
    """Return which reference each patch follows: all once in a random order, then again in another.

    The entry of patch i depends on the seed, the number of references and i only.
    """
    first, last = patches.start // n_references, (patches.stop - 1) // n_references
    orders = [
        rng_for(seed, "reference", turn).permutation(n_references)
        for turn in range(first, last + 1)
    ]
    start = patches.start - first * n_references
    return np.concatenate(orders)[start : start + len(patches)].astype(np.int32)


def variation_of(spread: Spread | None, seed: int, purpose: str, patch: int) -> Variation:
    """Return the factors on what was measured that a patch has."""
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
