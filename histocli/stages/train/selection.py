"""Held-out patches in a training: they are scored and shown, and choose weights and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch

from histocli.base.types import FloatArray, InstanceLabels, Json, RGBImage
from histocli.exports.pictures import write_png
from histocli.figures.sheets import patch_sheet
from histocli.inference.predict import Predictor
from histocli.instances.targets import DEFAULT_THRESHOLDS, Thresholds
from histocli.metrics.counts import count
from histocli.metrics.selection import ObjectThresholds, choose_thresholds
from histocli.metrics.summary import summarise
from histocli.metrics.table import shown_in
from histocli.stages.shared.session import Session
from histocli.stages.train.patches import HeldOut
from histocli.stores.logs import log_path
from histocli.training.loop import Training

PREVIEW_PATCHES = 8  # patches that a preview picture shows
SURE_ENOUGH = {"unet": 0.8, "trunk": 0.85}
"""Largest threshold of confidence of each family of networks. Synthetic patches alone would choose
larger ones, at which models lose nuclei of real tissue: over five laboratories that models had not
seen, the sum of AJI and PQ is largest here (``docs/research/trunk.md``)."""


@dataclass(frozen=True)
class Look:
    """The nuclei that a segmenter finds in the held-out patches."""

    found: list[InstanceLabels]
    probability: list[FloatArray]  # of nucleus, for each pixel


@dataclass(frozen=True)
class Selection:
    """The choice of weights and thresholds, made without a person's labels."""

    thresholds: Thresholds = DEFAULT_THRESHOLDS
    about: Json | None = None  # name of the chosen weights, and the scores that led to the choice
    held_out: Json | None = None  # scores of the chosen weights, without the chosen thresholds


@dataclass(frozen=True)
class Examiner:
    """Segments the held-out patches with the present weights."""

    held_out: HeldOut
    training: Training
    session: Session
    mpp: float
    dtype: torch.dtype

    def predictor(self, *, views: int = 1, confidence: float | None = None) -> Predictor:
        """Return a predictor with the present weights."""
        segmenter = self.training.segmenter
        thresholds = DEFAULT_THRESHOLDS
        if confidence is not None:
            thresholds = replace(thresholds, confidence=confidence)
        device, dtype = next(segmenter.parameters()).device, self.dtype
        return Predictor(
            segmenter, mpp=self.mpp, device=device, dtype=dtype, thresholds=thresholds, views=views
        )

    def look(self) -> Look:
        """Segment the held-out patches with the present weights."""
        predictor = self.predictor()
        maps = predict_maps(predictor, self.held_out.images)
        found = [predictor.instances(each) for each in maps]
        self.training.segmenter.train()
        return Look(found, [each[..., 0] for each in maps])

    def thresholds(self, look: Look) -> ObjectThresholds:
        """Choose the smallest confidence and area of an object, on the held-out patches."""
        return choose_thresholds(list(self.held_out.labels), look.found, look.probability, self.mpp)

    def score(self, look: Look | None = None) -> Json | None:
        """Score the held-out patches, and write a picture; None if no patch is held out."""
        if not len(self.held_out) or not self.session.members.leads:
            return None
        found = (look or self.look()).found
        counts = [count(*pair) for pair in zip(self.held_out.labels, found, strict=True)]
        mean = summarise(counts, bootstrap=0).mean
        scores: Json = {name: round(mean[name], 4) for name in shown_in("training")}
        step = self.training.step
        seconds = self.session.clock.trained_s
        self.session.log({"step": step, "held_out": scores, "seconds": seconds})
        shown = slice(0, PREVIEW_PATCHES)
        self.show(f"preview-{step:06d}", list(self.held_out.images[shown]), found[shown], 4)
        return scores

    def show(
        self, name: str, images: list[RGBImage], labels: Sequence[InstanceLabels], columns: int
    ) -> RGBImage:
        """Write a picture of labelled patches into the log folder, and return it."""
        sheet = patch_sheet(images, list(labels), columns=columns)
        write_png(log_path(self.session.out) / f"{name}.png", sheet)
        return sheet

    def select(self, candidates: Mapping[str, dict[str, torch.Tensor]]) -> Selection:
        """Choose thresholds for each of the candidates, and load the one with the best score.

        ``candidates`` are weights by name; among equal scores the first is taken.
        """
        if not len(self.held_out) or not self.session.members.leads:
            return Selection()
        looks, chosen = {}, {}
        for name, weights in candidates.items():
            self.training.segmenter.load_state_dict(weights)
            looks[name] = self.look()
            chosen[name] = self.thresholds(looks[name])
        best = max(chosen, key=lambda name: chosen[name].score)
        self.training.segmenter.load_state_dict(candidates[best])
        picked = chosen[best]
        about: Json = {
            "by": "AJI + PQ, mean of patches and pooled, held-out synthetic",
            "weights": best,
            "score": round(picked.score, 4),
            "scores": {name: round(each.score, 4) for name, each in chosen.items()},
        }
        area = picked.smallest_um2
        family = self.training.segmenter.architecture.family
        confidence = min(picked.confidence, SURE_ENOUGH[family])
        thresholds = replace(DEFAULT_THRESHOLDS, confidence=confidence, smallest_um2=area)
        return Selection(thresholds, about, self.score(looks[best]))


def predict_maps(predictor: Predictor, images: npt.NDArray[np.uint8]) -> list[FloatArray]:
    """Return the maps of patches (n, H, W, 3), mirrored to sides that the network takes and cut."""
    height, width = images.shape[1:3]
    multiple = predictor.multiple_px
    more_y, more_x = -height % multiple, -width % multiple
    found = []
    for image in images:
        padded = cv2.copyMakeBorder(image, 0, more_y, 0, more_x, cv2.BORDER_REFLECT)
        found.append(np.ascontiguousarray(predictor.maps(padded[None])[0, :height, :width]))
    return found
