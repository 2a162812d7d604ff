"""Patches of unlabelled tissue for self-training, and how a network labels them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from histocli.base.errors import HistosynthError, InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.base.types import FloatArray, InstanceLabels
from histocli.inference.predict import Predictor
from histocli.model.adaptation import Adaptation, adapt_stain
from histocli.model.normalisation import Contrast, contrast_of
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.train.plan import Request
from histocli.training.self_training import Findings
from histocli.training.soft_labels import maps_over_scales, mean_maps

logger = logging.getLogger(__name__)

PROBED = 8  # patches on which the time of labelling is measured
SLOWER = 1.2  # labelling all patches may take longer than a few of them show
MOST_PATCHES = 640  # most patches of unlabelled tissue


@dataclass(frozen=True)
class Unlabelled:
    """Patches of unlabelled tissue."""

    patches: npt.NDArray[np.uint8]  # (n, side, side, 3), glass made white
    stains: list[Contrast | None]  # for each patch, the stain of its reference
    given: Findings | None  # the labels of ``--teacher`` in these patches; None if there are none
    failed: list[str]  # paths of references that could not be read


def read_unlabelled(request: Request) -> Unlabelled:
    """Read at most ``MOST_PATCHES`` patches of unlabelled tissue, spread over the references.

    Raises ``InvalidInput`` if no reference could be read or none shows nuclei, or if ``--teacher``
    outlines none. With ``--on-error stop``, an unreadable reference raises its own error.
    """
    sources, teacher = request.sources, request.teacher
    most = max(1, -(-MOST_PATCHES // len(sources)))
    cut = cut_all(
        sources,
        Cutting(request.store.mpp, request.store.patch_px, most, request.config.seed),
        workers=request.execution.workers,
        track=request.track,
        stopped="train: stopped before the first step; run it again",
        labels=teacher,
    )
    failed: list[str] = []
    parts: list[CutPatches] = []
    for source, found in zip(sources, cut, strict=True):
        if isinstance(found, HistosynthError):
            if request.execution.on_error == "stop":
                raise found
            logger.warning("%s", found)
            failed.append(str(source.path))
        elif len(found.images):
            parts.append(found)
    if not parts:
        raise InvalidInput(
            f"{sources[0].path}: none of the {len(sources)} references shows nuclei; give images "
            "of stained tissue"
        )
    patches = np.concatenate([part.images for part in parts])
    # evenly spaced indices; of more than MOST_PATCHES references, some give no patch
    even = np.linspace(0, len(patches) - 1, min(len(patches), MOST_PATCHES)).astype(int)
    given = None
    if teacher is not None:
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])[even]
        given = Findings(list(labels), [(each > 0).astype(np.float32) for each in labels])
        if not given.count():
            raise InvalidInput(
                f"{teacher[0].source}: the teacher has outlined no nucleus in {len(sources)} "
                "references"
            )
    stains = [stain for part in parts for stain in [contrast_of(part.images)] * len(part.images)]
    return Unlabelled(patches[even], [stains[index] for index in even], given, sorted(failed))


@dataclass(frozen=True)
class Teacher:
    """A network that labels tissue."""

    predictor: Predictor
    adaptation: Adaptation | None
    """How the stain of tissue is changed before the network sees it."""


def find_nuclei(
    teachers: Sequence[Teacher], tissue: Unlabelled, track: Track, stopped: str
) -> Findings:
    """Label the patches of tissue with the mean maps of teachers.

    Disagreement is that over the views of all teachers. Objects are found with the thresholds of
    the first one. ``stopped`` is the message of the error after an interruption.
    """
    labels: list[InstanceLabels] = []
    seen: list[FloatArray] = []
    batch = 8
    decode = teachers[0].predictor.instances
    n = len(tissue.patches)
    with track("labelling unlabelled tissue", n) as bar, ThreadPoolExecutor(2) as pool:
        for start in range(0, n, batch):
            raise_if_stopped(stopped)
            part = slice(start, min(start + batch, n))
            maps = mean_maps([_maps_of(teacher, tissue, part) for teacher in teachers])
            decoded = [np.ascontiguousarray(each[..., :2]) for each in maps]
            labels += pool.map(decode, decoded)
            seen += list(maps)
            bar.advance(part.stop - part.start)
    return Findings(labels, [each[..., 0] for each in seen], seen)


def labelling_s(teacher: Teacher, tissue: Unlabelled) -> float:
    """Return the seconds that a teacher needs to label all patches, measured on a few of them.

    A guess would be too high for small networks, whose training would then end early.
    """
    n = len(tissue.patches)
    few = [replace(tissue, patches=tissue.patches[:count]) for count in (1, min(n, PROBED))]
    start = 0.0
    for part in few:  # the first time is slower
        start = time.perf_counter()
        find_nuclei([teacher], part, silent, "train: stopped; run the same command again")
    return SLOWER * (time.perf_counter() - start) / len(few[-1].patches) * n


def _maps_of(teacher: Teacher, tissue: Unlabelled, part: slice) -> FloatArray:
    """Return a teacher's maps of some patches, in the stain that it knows."""
    both = zip(tissue.patches[part], tissue.stains[part], strict=True)
    patches = np.stack([adapt_stain(patch, stain, teacher.adaptation) for patch, stain in both])
    return maps_over_scales(teacher.predictor.maps, patches, teacher.predictor.multiple_px)
