"""Self-training: what a teacher finds in unlabelled tissue teaches the next student, and nuclei do
not shrink.

Averaging a network over its steps makes the teacher (Tarvainen and Valpola 2017); only what it is
sure of is learnt (Sohn et al. 2020). One threshold of certainty would keep the dark nuclei and drop
the pale ones, round after round, so objects are accepted within strata of contrast and size.
Borders are left to the synthetic patches, where they are known: the teacher's own are blurred and
would wander.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from histocli.base.types import FloatArray, InstanceLabels
from histocli.instances.targets import border_distance, normalised_distance


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What of a teacher's findings is learnt."""

    share: float = 0.7
    """Of the objects of each stratum, the surest."""
    contrast_bins: int = 3
    area_bins: int = 2
    sure_background: float = 0.1
    """Pixels with a smaller probability are background."""
    sure_nucleus: float = 0.9
    """Pixels of accepted objects with a larger probability are nucleus; those between are
    ignored."""
    border_um: float = 0.5
    """Width of the band along borders, on both sides, that is ignored."""


def accept_within_strata(
    confidence: npt.NDArray[np.floating],
    contrast: npt.NDArray[np.floating],
    area: npt.NDArray[np.floating],
    acceptance: Acceptance,
) -> npt.NDArray[np.bool_]:
    """Accept the surest objects among those of similar contrast and size.

    Parameters
    ----------
    confidence, contrast, area : ndarray, shape (n,)
        Of all objects of all images.
    acceptance : Acceptance

    Returns
    -------
    ndarray of bool, shape (n,)
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
    """Give each value the number of its bin; bins are equally full, ties in the order given."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(rank * bins // max(len(values), 1), np.int64)


@dataclass(frozen=True)
class PseudoTargets:
    """What a student learns of one patch."""

    nucleus: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    """False where it learns nothing."""
    distance: npt.NDArray[np.uint8]


def pseudo_targets(
    labels: InstanceLabels,
    probability: FloatArray,
    accepted: npt.NDArray[np.bool_],
    mpp: float,
    acceptance: Acceptance,
) -> PseudoTargets:
    """Turn a teacher's findings into targets.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        0 = background, 1..n.
    probability : ndarray of float, shape (H, W)
        Of being nucleus.
    accepted : ndarray of bool, shape (n + 1,)
        By label; what is not accepted is ignored, not background.
    mpp : float
        Micrometres per pixel.
    acceptance : Acceptance

    Returns
    -------
    PseudoTargets
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


class AveragedWeights:
    """A teacher: the mean of a student's weights over its last steps.

    Parameters
    ----------
    student : nn.Module
    keep : float
        Share of the average that each step leaves; early on less, so that the beginning is soon
        forgotten.
    """

    def __init__(self, student: nn.Module, keep: float = 0.999) -> None:
        self.keep = keep
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in student.state_dict().items()}

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take a step of the student into the average."""
        self.steps += 1
        keep = min(self.keep, self.steps / (self.steps + 10))
        for name, value in student.state_dict().items():
            if value.dtype.is_floating_point:
                self.values[name].lerp_(value.detach(), 1 - keep)
            else:
                self.values[name].copy_(value)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {"steps": self.steps, "values": self.values}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.steps = int(state["steps"])
        self.values = {
            name: value.to(self.values[name].device) for name, value in state["values"].items()
        }
