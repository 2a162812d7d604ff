"""Self-training: a *teacher* network labels unlabelled tissue, and a *student* learns these labels.

After a round, the student's weights averaged over its steps are the next teacher (Tarvainen and
Valpola 2017). Only confident labels are learnt (Sohn et al. 2020). With one limit of confidence,
every round would drop more pale nuclei, so objects are accepted within strata of similar contrast
and size. Pixels near the teacher's inexact borders are ignored; synthetic patches teach borders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from histocli.base.types import FloatArray, InstanceLabels, Json
from histocli.instances.targets import border_distance, mean_within, normalised_distance
from histocli.training.loop import Extra
from histocli.training.sampling import PatchSet


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """Settings of the choice of objects and pixels that a student learns."""

    share: float = 0.7  # share of the objects of each stratum, the most confident, that is accepted
    contrast_bins: int = 3  # number of strata of contrast
    area_bins: int = 2  # number of strata of area within each stratum of contrast
    sure_background: float = 0.1  # background is learnt below this probability of nucleus
    sure_nucleus: float = 0.9  # accepted objects are learnt where the probability is above this
    border_um: float = 0.5  # micrometres; pixels this near to a border, on either side, are ignored


def accept_within_strata(
    confidence: npt.NDArray[np.floating],
    contrast: npt.NDArray[np.floating],
    area: npt.NDArray[np.floating],
    acceptance: Acceptance,
) -> npt.NDArray[np.bool_]:
    """Return a mask of the accepted objects: in each stratum those of the highest confidence.

    All arrays have one value for each object of all patches.
    """
    accepted = np.zeros(len(confidence), bool)
    stratum = _bin(contrast, acceptance.contrast_bins)
    for bin_ in range(acceptance.contrast_bins):
        members = np.flatnonzero(stratum == bin_)
        sizes = _bin(area[members], acceptance.area_bins)
        for size in range(acceptance.area_bins):
            alike = members[sizes == size]
            kept = round(acceptance.share * len(alike))
            accepted[alike[np.argsort(-confidence[alike], kind="stable")[:kept]]] = True
    return accepted


def _bin(values: npt.NDArray[np.floating], bins: int) -> npt.NDArray[np.int64]:
    """Return the number of each value's bin, by rank: bins hold equally many values."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(rank * bins // max(len(values), 1), np.int64)


AREA_DRIFT, COUNT_DRIFT = 0.25, 0.25
"""Largest relative change of the median area and of the number of nuclei from the first teacher's
findings; beyond it a student is taken to call other objects nuclei."""


@dataclass(frozen=True)
class Drift:
    """Relative change of findings from those of the first teacher; 0 is no change."""

    area: float  # change of the median area of an object
    count: float  # change of the number of objects

    @property
    def tolerable(self) -> bool:
        """Whether both changes are within ``AREA_DRIFT`` and ``COUNT_DRIFT``."""
        return abs(self.area) <= AREA_DRIFT and abs(self.count) <= COUNT_DRIFT


@dataclass(frozen=True)
class Findings:
    """Objects and probabilities that a network (or a person) finds in unlabelled patches."""

    labels: list[InstanceLabels]  # for each patch, (H, W), objects 1..n
    probability: list[FloatArray]  # for each patch, (H, W), probability of nucleus
    maps: list[FloatArray] | None = None
    """For each patch, (H, W, 3): probability, border distance and disagreement of a network's
    views; None for a person's labels."""

    def count(self) -> int:
        """Return the number of objects in all patches."""
        return sum(int(each.max(initial=0)) for each in self.labels)

    def median_area_px(self) -> float:
        """Return the median area of all objects in pixels; 0 if there is none."""
        areas = np.concatenate(self.areas())
        return float(np.median(areas)) if len(areas) else 0.0

    def areas(self) -> list[npt.NDArray[np.int64]]:
        """Return the areas of the objects of each patch, in pixels."""
        return [np.bincount(each.ravel(), minlength=1)[1:] for each in self.labels]

    def drift_from(self, median_area_px: float, count: int) -> Drift:
        """Return the relative change from findings with that median area and number."""
        area = self.median_area_px() / max(median_area_px, 1e-9) - 1
        return Drift(area, self.count() / max(count, 1) - 1)

    def coverage(self) -> float:
        """Return the share of pixels that lie in objects."""
        return float(np.mean([(each > 0).mean() for each in self.labels]))


def pseudo_labelled(
    patches: npt.NDArray[np.uint8],
    findings: Findings,
    contrast: Sequence[npt.NDArray[np.float64]],
    mpp: float,
    acceptance: Acceptance,
    *,
    borders: bool = False,
) -> tuple[PatchSet, Json]:
    """Turn findings into training patches.

    Parameters
    ----------
    patches : ndarray of uint8, shape (n, H, W, 3)
    contrast : sequence of ndarray of float64
        For each patch, how much darker each object is than its surroundings.
    mpp : float
        Pixel size in micrometres.
    borders : bool
        Learn border distances too: from labels that a user gives, but not from a network, which
        may join two nuclei.

    Returns
    -------
    made : PatchSet
    about : dict
        Counts and shares for the log.
    """
    both = list(zip(findings.labels, findings.probability, strict=True))
    confidence = [mean_within(labels, probability)[1:] for labels, probability in both]
    accepted = accept_within_strata(
        np.concatenate(confidence),
        np.concatenate(contrast),
        np.concatenate(findings.areas()).astype(np.float64),
        acceptance,
    )
    each = np.split(accepted, np.cumsum([len(part) for part in confidence])[:-1])
    targets = [
        pseudo_targets(labels, probability, np.concatenate([[False], kept]), mpp, acceptance)
        for (labels, probability), kept in zip(both, each, strict=True)
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


@dataclass(frozen=True)
class PseudoTargets:
    """The targets of one patch for a student."""

    nucleus: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]  # False for pixels that are ignored
    distance: npt.NDArray[np.uint8]


def pseudo_targets(
    labels: InstanceLabels,
    probability: FloatArray,
    accepted: npt.NDArray[np.bool_],
    mpp: float,
    acceptance: Acceptance,
) -> PseudoTargets:
    """Turn a teacher's findings in one patch, labels and probability (H, W), into targets.

    ``accepted``, indexed by label, says which objects are learnt; others are ignored rather than
    learnt as background. ``mpp`` is the pixel size in micrometres.
    """
    inside = labels > 0
    band = acceptance.border_um / mpp
    near = inside & (border_distance(labels) <= band)
    outside = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    near |= ~inside & (outside <= band)
    sure = np.where(
        inside,
        (probability > acceptance.sure_nucleus) & accepted[labels],
        probability < acceptance.sure_background,
    )
    return PseudoTargets(inside & accepted[labels], sure & ~near, normalised_distance(labels))


class AveragedWeights(Extra):
    """The exponential average of a student's weights over its last steps.

    Each step keeps the share ``keep`` of the average; less in the first steps, so that the first
    weights soon have little influence.
    """

    name = "averaged"

    def __init__(self, student: nn.Module, keep: float = 0.99) -> None:
        self.keep = keep
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in student.state_dict().items()}

    @torch.no_grad()
    def after_step(self, segmenter: nn.Module) -> None:
        """Add the student's present weights to the average."""
        self.steps += 1
        keep = min(self.keep, self.steps / (self.steps + 10))
        for name, value in segmenter.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value.detach(), 1 - keep)
            else:
                self.values[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """Return the average for a checkpoint."""
        return {"steps": self.steps, "values": self.values}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.steps = int(state["steps"])
        self.values = {
            name: value.to(self.values[name].device) for name, value in state["values"].items()
        }
