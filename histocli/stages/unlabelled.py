"""Unlabelled tissue as a teacher sees it: what self-training learns from, and how it is watched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.annotations.sources import LabelSource
from histocli.base.errors import HistosynthError, InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track
from histocli.base.types import Json, RGBImage
from histocli.config.common import Execution
from histocli.inference.predict import Predictor
from histocli.instances.targets import mean_within
from histocli.metrics.contrast import nuclear_contrast
from histocli.metrics.selection import agreement
from histocli.stages.shared.real_patches import CutPatches, Cutting, cut_all
from histocli.stages.shared.references import Source
from histocli.training.sampling import PatchSet
from histocli.training.self_training import Acceptance, accept_within_strata, pseudo_targets

logger = logging.getLogger(__name__)

MOST_PATCHES = 640  # of unlabelled tissue in a round


def read_unlabelled(
    sources: Sequence[Source],
    mpp: float,
    side: int,
    seed: int,
    execution: Execution,
    track: Track,
    teacher: Sequence[LabelSource] | None = None,
) -> tuple[npt.NDArray[np.uint8], Findings | None, list[str]]:
    """Read patches of unlabelled tissue, evenly from all references.

    Parameters
    ----------
    sources : sequence of Source
    mpp : float
        Pixel size of the patches, micrometres.
    side : int
        Of a patch.
    seed : int
    execution : Execution
    track : Track
    teacher : sequence of LabelSource, optional
        What somebody or something found in each reference.

    Returns
    -------
    patches : ndarray of uint8, shape (n, side, side, 3)
        Glass made white; not in the order of any network.
    findings : Findings or None
        Of the teacher in these patches.
    failed : list of str
        References that could not be read.

    Raises
    ------
    InvalidInput
        A reference cannot be read, or none shows tissue.
    """
    most = max(1, -(-MOST_PATCHES // len(sources)))
    stopped = "train: stopped before the first step; run it again"
    cut = cut_all(
        sources,
        Cutting(mpp, side, most, seed),
        workers=execution.workers,
        track=track,
        stopped=stopped,
        labels=teacher,
    )
    failed: list[str] = []
    parts: list[CutPatches] = []
    for source, found in zip(sources, cut, strict=True):
        if isinstance(found, HistosynthError):
            if execution.on_error == "stop":
                raise found
            logger.warning("%s", found)
            failed.append(str(source.path))
        elif len(found.images):
            parts.append(found)
    if not parts:
        raise InvalidInput(
            f"{sources[0].path}: none of the {len(sources)} references shows nuclei; give images of stained tissue"
        )
    patches = np.concatenate([part.images for part in parts])
    # of all references, not of the first
    even = np.linspace(0, len(patches) - 1, min(len(patches), MOST_PATCHES)).astype(int)
    findings = None
    if teacher is not None:
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])[even]
        findings = Findings(list(labels), [(each > 0).astype(np.float32) for each in labels])
        if not findings.count():
            raise InvalidInput(
                f"{teacher[0].source}: the teacher has outlined no nucleus in {len(sources)} references"
            )
    return patches[even], findings, sorted(failed)


@dataclass(frozen=True)
class Findings:
    """What a model finds in unlabelled patches."""

    labels: list[npt.NDArray[np.int32]]
    probability: list[npt.NDArray[np.float32]]

    def count(self) -> int:
        """Objects in all patches."""
        return sum(int(each.max(initial=0)) for each in self.labels)

    def median_area_px(self) -> float:
        """Of all objects; 0 where there is none."""
        areas = np.concatenate([np.bincount(each.ravel(), minlength=1)[1:] for each in self.labels])
        return float(np.median(areas)) if len(areas) else 0.0

    def coverage(self) -> float:
        """Share of the pixels that are nucleus."""
        return float(np.mean([(each > 0).mean() for each in self.labels]))


def find_nuclei(
    predictor: Predictor, patches: npt.NDArray[np.uint8], track: Track, stopped: str
) -> Findings:
    """Let a model look at every patch, in as many orientations as its predictor has, and decode
    what it sees.

    Parameters
    ----------
    predictor : Predictor
    patches : ndarray of uint8, shape (n, H, W, 3)
    track : Track
    stopped : str
        Message of an interruption.
    """
    labels: list[npt.NDArray[np.int32]] = []
    probability: list[npt.NDArray[np.float32]] = []
    batch = 8
    with track("labelling unlabelled tissue", len(patches)) as bar, ThreadPoolExecutor(2) as pool:
        for start in range(0, len(patches), batch):
            raise_if_stopped(stopped)
            part = patches[start : start + batch]
            maps = predictor.maps(np.ascontiguousarray(part))
            labels += pool.map(predictor.instances, [np.ascontiguousarray(each) for each in maps])
            probability += [each[..., 0].copy() for each in maps]
            bar.advance(len(part))
    return Findings(labels, probability)


def pseudo_labelled(
    patches: npt.NDArray[np.uint8],
    findings: Findings,
    mpp: float,
    acceptance: Acceptance,
    *,
    borders: bool = False,
) -> tuple[PatchSet, Json]:
    """Turn findings into patches to learn from.

    Parameters
    ----------
    patches : ndarray of uint8, shape (n, H, W, 3)
    findings : Findings
    mpp : float
        Micrometres per pixel.
    acceptance : Acceptance
    borders : bool
        Whether the findings also teach where nuclei end against each other: a network that joins
        two nuclei must not teach that there is no border, what a person uses as labels may.

    Returns
    -------
    patches : PatchSet
        Each as likely as the next.
    about : dict
        How much of the findings is learnt.
    """
    confidence = [
        mean_within(labels, probability)[1:]
        for labels, probability in zip(findings.labels, findings.probability, strict=True)
    ]
    contrast = [
        nuclear_contrast(patch, labels)
        for patch, labels in zip(patches, findings.labels, strict=True)
    ]
    area = [
        np.bincount(labels.ravel(), minlength=1)[1:].astype(np.float64)
        for labels in findings.labels
    ]
    accepted = accept_within_strata(
        np.concatenate(confidence), np.concatenate(contrast), np.concatenate(area), acceptance
    )
    each = np.split(accepted, np.cumsum([len(part) for part in confidence])[:-1])
    targets = [
        pseudo_targets(labels, probability, np.concatenate([[False], kept]), mpp, acceptance)
        for labels, probability, kept in zip(
            findings.labels, findings.probability, each, strict=True
        )
    ]
    size = len(patches)
    made = PatchSet(
        patches,
        np.stack([target.nucleus for target in targets]),
        np.stack([target.valid for target in targets]),
        np.stack([target.distance for target in targets]),
        np.ones(size, np.float32),
        np.full(size, 1 / size),
        borders=np.full(size, borders),
    )
    about: Json = {
        "objects": len(accepted),
        "accepted": int(accepted.sum()),
        "learnt_share": round(float(made.valid.mean()), 4),
        "median_area_px": findings.median_area_px(),
        "coverage": round(findings.coverage(), 4),
    }
    return made, about


def mixed(first: PatchSet, second: PatchSet, share: float) -> PatchSet:
    """Put two sets together; ``share`` of the patches that are drawn are of the second."""
    return PatchSet(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.nucleus, second.nucleus]),
        np.concatenate([first.valid, second.valid]),
        np.concatenate([first.distance, second.distance]),
        np.concatenate([first.weight, second.weight]),
        np.concatenate([(1 - share) * first.share, share * second.share]),
        np.concatenate(
            [
                np.ones(len(each), bool) if each.borders is None else each.borders
                for each in (first, second)
            ]
        ),
        None
        if first.contact is None
        else np.concatenate(
            [
                np.zeros(each.nucleus.shape, bool) if each.contact is None else each.contact
                for each in (first, second)
            ]
        ),
    )


def compare(before: Findings, after: Findings) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the mean agreement of two models on unlabelled patches, and that of each patch."""
    each = np.array(
        [agreement(one, [other]) for one, other in zip(before.labels, after.labels, strict=True)]
    )
    return float(each.mean()), each


def disagreements(
    patches: npt.NDArray[np.uint8],
    before: Findings,
    after: Findings,
    each: npt.NDArray[np.float64],
    most: int,
) -> tuple[list[RGBImage], list[npt.NDArray[np.int32]]]:
    """Return the patches on which two models agree least, each twice: with the findings of
    either.
    """
    worst = np.argsort(each, kind="stable")[:most]
    images = [patches[i] for i in worst for _ in range(2)]
    labels = [findings.labels[i] for i in worst for findings in (before, after)]
    return images, labels
