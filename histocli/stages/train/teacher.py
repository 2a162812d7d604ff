"""``--refs``: self-training on unlabelled tissue (the references), in rounds that can be undone.

In each round the present weights become the *teacher*, whose maps of the tissue are soft labels.
The segmenter (the *student*) learns on, from crops of tissue with these labels and as many crops of
the patches. With ``--teacher``, outlines that another tool made replace them in round 1; or other
models are the teachers of round 1, which then takes the whole training. A round
ends with the student's weights averaged over its steps. If the number or the median area of the
nuclei that they find differs too much (*drift*) from the labels that round 1 learnt from, the
teacher's weights are restored and self-training ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histocli.base.types import InstanceLabels, Json, RGBImage
from histocli.exports.pictures import write_png
from histocli.inference.predict import Predictor
from histocli.instances.targets import DEFAULT_THRESHOLDS, Thresholds
from histocli.metrics.contrast import nuclear_contrast
from histocli.metrics.selection import agreement
from histocli.model.adaptation import adaptation_of
from histocli.model.segmenter import Segmenter, build_segmenter
from histocli.stages.train.bench import Bench, Joined, join
from histocli.stages.train.plan import StartingModel
from histocli.stages.train.selection import PREVIEW_PATCHES
from histocli.stages.train.unlabelled import (
    Teacher,
    Unlabelled,
    find_nuclei,
    labelling_s,
    read_unlabelled,
)
from histocli.training.augmentation import augmentation_for
from histocli.training.loop import Extra, Moment, Phase
from histocli.training.sampling import Batch, PatchSet
from histocli.training.self_training import Acceptance, AveragedWeights, Findings, pseudo_labelled
from histocli.training.soft_labels import SoftTissue, soft_tissue

logger = logging.getLogger(__name__)

SHARE_OF_TRAINING = 0.4  # share of the whole training that all rounds of self-training take
PSEUDO_SHARE = 0.5  # share of the crops of a step that show unlabelled tissue
LATER_RATE = 1 / 2  # peak learning rate of a round as a share of that of the training on patches
TEACHER_VIEWS = 2  # orientations of each patch over which the teacher's maps are averaged
# Seconds reserved for the last labelling, for each patch of 256 px, until it is measured.
LABELLING_S = 0.4


@dataclass(frozen=True)
class FirstFindings:
    """Figures of the labels that round 1 learns from, with which every round is compared."""

    count: int
    median_area_px: float


class SelfTraining(Extra):
    """Rounds of self-training, which follow the training on patches."""

    name = "self-training"

    def __init__(self, bench: Bench, unlabelled: Unlabelled) -> None:
        self.bench = bench
        self._reserved_s = 0.0  # seconds of a time budget for the last labelling
        self.unlabelled = unlabelled
        self.others = [_other_teacher(bench, model) for model in bench.request.taught_by]
        self.begins = 0.0 if self.others else 1 - SHARE_OF_TRAINING
        self.rounds: list[Json] = []  # report of each finished round
        self._teacher: dict[str, torch.Tensor] | None = None  # weights; None between rounds
        self._averaged: AveragedWeights | None = None
        self._confidence: float | None = None  # least mean probability of kept objects
        self._first: FirstFindings | None = None
        self._soft: SoftTissue | None = None  # labels of the present round, unless they are given

    @property
    def begun(self) -> bool:
        """Whether the training on patches is over."""
        return self._teacher is not None or bool(self.rounds)

    def phases(self, patches: PatchSet) -> Iterator[Phase]:
        """Yield one phase for each round; end after a round that was undone."""
        request = self.bench.request
        edges = np.linspace(self.begins, 1, request.config.rounds + 1).tolist()
        everything = slice(0, len(patches))
        findings: Findings | None = None
        for number in range(1, request.config.rounds + 1):
            patches = patches.part(everything)
            if number <= len(self.rounds):
                continue  # finished by the command that this one resumes
            if self.rounds and not self.rounds[-1]["kept"]:
                return
            findings = self._begin_round(number, findings)
            data, about = self._teach(patches, findings)
            name = f"self-training {number}"
            logger.info("%s: %s", name, about)
            if self.bench.session.clock.budget_s is not None:
                self.reserve(labelling_s(self._own_teacher(), self.unlabelled))
            yield Phase(name, data, edges[number - 1], edges[number], self._rate)
            patches = data.part(everything)  # --fresh may have replaced patches in ``data``
            findings = self._end_round(number, findings, about)

    @property
    def _rate(self) -> float:
        """Peak of the learning rate of a round."""
        share = 1.0 if self.others else LATER_RATE
        return share * self.bench.request.config.peak_rate

    def harden(self, segmenter: Segmenter, batch: Batch, moment: Moment) -> Batch:
        """Replace a part of the crops by crops of tissue with the teacher's maps."""
        if self._soft is None:
            return batch
        tissue = round(PSEUDO_SHARE * len(batch.pixels))
        drawn = self._soft.draw(
            tissue,
            batch.pixels.shape[-1],
            augmentation_for(segmenter),
            moment.rng,
            batch.pixels.device,
        )
        return batch.part(slice(0, len(batch.pixels) - tissue)).joined(drawn)

    def after_step(self, segmenter: Segmenter) -> None:
        """Add the weights after a step of a round to the average."""
        if self._averaged is not None:
            self._averaged.after_step(segmenter)

    def _begin_round(self, number: int, findings: Findings | None) -> Findings:
        """Make the present weights the teacher, or restore that of an interrupted round.

        Returns the teacher's findings or, in the first round, the labels of ``--teacher``.
        """
        training = self.bench.training
        if number == 1:
            findings = self.unlabelled.given
        if self._teacher is not None:
            if number == 1 and self.others:
                return self._find(self.others)
            return findings or self._find_as_teacher(self._teacher)
        self.bench.session.save()  # so that an interruption of the labelling loses no steps
        share_weights(self.bench)
        if self._confidence is None and not self.others:
            self._confidence = choose_confidence(self.bench)
        findings = findings or self._find(self.others if number == 1 else [])
        if self._first is None:
            self._first = FirstFindings(findings.count(), findings.median_area_px())
        self._teacher = training.weights()
        self._averaged = AveragedWeights(training.segmenter)
        training.restart(self._rate)
        return findings

    def _teach(self, patches: PatchSet, findings: Findings) -> tuple[PatchSet, Json]:
        """Return the patches that the round learns from, and figures of the tissue's labels.

        A teacher's maps are learnt beside the patches (``harden``). A person's labels (--teacher)
        are mixed with the patches, with all of their objects and border distances.
        """
        tissue = self.unlabelled.patches
        if findings.maps is not None:
            self._soft = soft_tissue(tissue, findings.maps)
            return patches, about_soft(self._soft, findings)
        contrast = [nuclear_contrast(*each) for each in zip(tissue, findings.labels, strict=True)]
        mpp, accepted = self.bench.examiner.mpp, Acceptance(share=1.0)
        given, about = pseudo_labelled(tissue, findings, contrast, mpp, accepted, borders=True)
        return patches.mixed_with(given, PSEUDO_SHARE), about

    def _end_round(self, number: int, before: Findings, about: Json) -> Findings:
        """End a round with the averaged weights, or after drift with the teacher's.

        Returns the findings of the averaged weights.
        """
        assert self._averaged is not None
        assert self._teacher is not None
        assert self._first is not None
        session, training = self.bench.session, self.bench.training
        session.save()
        if self._averaged.steps:
            training.segmenter.load_state_dict(self._averaged.values)
        share_weights(self.bench)
        after = self._find()
        pairs = zip(before.labels, after.labels, strict=True)
        agreements = np.array([agreement(one, [two]) for one, two in pairs])
        drift = after.drift_from(self._first.median_area_px, self._first.count)
        found: Json = about | {
            "round": number,
            "agreement": round(float(agreements.mean()), 4),
            "area_drift": round(drift.area, 4),
            "count_drift": round(drift.count, 4),
            "kept": drift.tolerable,
        }
        session.log({"step": training.step, "self_training": found})
        if session.members.leads:
            show_worst(self.bench, self.unlabelled, number, before, after, agreements)
        # what was learnt from another model is all there is, so it is never taken back
        found["kept"] = drift.tolerable or bool(self.others)
        if not found["kept"]:
            text = (
                "round %d of self-training moved the median area of nuclei by %+.0f %% and their "
                "number by %+.0f %%; the weights before it are kept"
            )
            logger.warning(text, number, 100 * drift.area, 100 * drift.count)
            training.segmenter.load_state_dict(self._teacher)
        self.rounds.append(found)
        self._averaged = self._teacher = self._soft = None
        return after

    def reserve(self, seconds: float) -> None:
        """Reserve seconds of a time budget for the last labelling, in the place of earlier ones."""
        self.bench.session.clock.reserve(seconds - self._reserved_s)
        self._reserved_s = seconds

    def _own_teacher(self) -> Teacher:
        """Return the present weights, ready to label tissue."""
        own = self.bench.examiner.predictor(views=TEACHER_VIEWS, confidence=self._confidence)
        return Teacher(own, self.bench.patches.stain_range)

    def _find_as_teacher(self, teacher: dict[str, torch.Tensor]) -> Findings:
        """Label the tissue with the teacher's weights, then restore the student's."""
        training = self.bench.training
        student = training.weights()
        training.segmenter.load_state_dict(teacher)
        findings = self._find()
        training.segmenter.load_state_dict(student)
        return findings

    def _find(self, others: Sequence[Teacher] = ()) -> Findings:
        """Label the tissue with the present weights, or with other models."""
        bench = self.bench
        return find_nuclei(
            others or [self._own_teacher()],
            self.unlabelled,
            bench.request.track,
            f"{bench.session.out}: stopped after {bench.training.step} steps; run the "
            "same command again to go on",
        )

    def state(self) -> dict[str, Any]:
        """Return the teacher, the average and the reports for a checkpoint."""
        first = self._first
        return {
            "rounds": self.rounds,
            "teacher": self._teacher,
            "averaged": None if self._averaged is None else self._averaged.state(),
            "confidence": self._confidence,
            "first": None if first is None else [first.count, first.median_area_px],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.rounds = list(state["rounds"])
        self._teacher = state["teacher"]
        if state["averaged"] is not None:
            self._averaged = AveragedWeights(self.bench.training.segmenter)
            self._averaged.restore(state["averaged"])
        self._confidence = state["confidence"]
        self._first = None if state["first"] is None else FirstFindings(*state["first"])


def share_weights(bench: Bench) -> None:
    """Give all processes the weights and the running statistics of the first one."""
    members, segmenter = bench.session.members, bench.training.segmenter
    if members.size > 1:
        state = {name: value.cpu() for name, value in segmenter.state_dict().items()}
        segmenter.load_state_dict(members.from_leader(state))


def choose_confidence(bench: Bench) -> float:
    """Choose the threshold of confidence for a teacher's objects on the held-out patches.

    Returns the default threshold without such patches.
    """
    members, examiner = bench.session.members, bench.examiner
    chosen = DEFAULT_THRESHOLDS.confidence
    if members.leads and len(examiner.held_out):
        chosen = examiner.thresholds(examiner.look()).confidence
    return float(members.from_leader(chosen))


def show_worst(
    bench: Bench,
    unlabelled: Unlabelled,
    number: int,
    before: Findings,
    after: Findings,
    agreements: npt.NDArray[np.float64],
) -> None:
    """Write a picture of the patches whose labels before and after a round agree least."""
    worst = np.argsort(agreements, kind="stable")[:PREVIEW_PATCHES]
    images: list[RGBImage] = [unlabelled.patches[i] for i in worst for _ in range(2)]
    labels: list[InstanceLabels] = [each.labels[i] for i in worst for each in (before, after)]
    sheet = bench.examiner.show(f"disagreement-{number}", images, labels, 2)
    if bench.request.preview is not None:
        write_png(bench.request.preview, sheet)


def about_soft(soft: SoftTissue, findings: Findings) -> Json:
    """Return figures of a teacher's soft labels for the log."""
    return {
        "objects": findings.count(),
        "mean_weight": round(float(soft.maps[..., 2].mean()) / 255, 4),
        "median_area_px": findings.median_area_px(),
        "coverage": round(findings.coverage(), 4),
    }


def _other_teacher(bench: Bench, model: StartingModel) -> Teacher:
    """Return a model that ``--teacher`` names, ready to label."""
    segmenter = build_segmenter(model.header.architecture)
    segmenter.load_state_dict(model.tensors)
    examiner = bench.examiner
    predictor = Predictor(
        segmenter,
        mpp=examiner.mpp,
        device=bench.training.device,
        dtype=examiner.dtype,
        thresholds=Thresholds(**model.header.thresholds),
        views=TEACHER_VIEWS,
    )
    return Teacher(predictor, adaptation_of(model.header.normalisation))


def self_training(bench: Bench) -> Joined | None:
    """Join self-training if the user gives references; None without them."""
    if not bench.request.sources:
        return None
    unlabelled = read_unlabelled(bench.request)
    rounds = SelfTraining(bench, unlabelled)
    n, side = unlabelled.patches.shape[:2]
    rounds.reserve(LABELLING_S * n * (side / 256) ** 2)
    bench.request.failed.extend(unlabelled.failed)
    return join(bench, rounds, lambda: rounds.rounds)
