"""The training of the refiner as a stage: judged in between, guarded, and kept by checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from histocli.base.distributed import weights_digest
from histocli.base.rng import rng_for
from histocli.exports.pictures import write_png
from histocli.figures.sheets import picture_rows
from histocli.model.refiner import Refiner, RefinerArchitecture
from histocli.stages.refine.plan import Refinement
from histocli.stages.refine.styles import Styles
from histocli.stages.shared.session import Progress, Session
from histocli.stores.logs import preview_path
from histocli.training.adversarial.guard import Guard
from histocli.training.adversarial.judge import HeldOut, judge_held_out
from histocli.training.adversarial.networks import AdversarialTraining, Networks
from histocli.training.adversarial.repaint import refine_patches
from histocli.training.adversarial.sampling import InitialPatches, RealPatches, Sampler, hold_out
from histocli.training.adversarial.schedule import AdversarialSchedule
from histocli.training.adversarial.step import StepReport, train_adversarial

logger = logging.getLogger(__name__)

JUDGEMENTS = 6
"""How many times held-out crops are judged in the course of a training."""
PROOFS = 40
"""How many times a critic that has not proven itself is judged in the course of a training."""


@dataclass(frozen=True)
class Course:
    """How a training went, as the store and the result record it."""

    steps: int
    moves: int
    """Steps in which the refiner moved."""
    critic_auc: float | None
    style_auc: float | None


@dataclass(frozen=True)
class Learnt:
    """The refiner that repaints, and what the store keeps."""

    refiner: Refiner
    networks: Mapping[str, nn.Module]
    course: Course | None
    """None where an earlier refiner is applied."""


def learn(job: Refinement, styles: Styles, session: Session) -> Learnt:
    """Train a refiner, or take the given one."""
    if job.trained is not None:
        refiner = job.trained.to(job.device)
        return Learnt(refiner, {"averaged": refiner}, None)
    schedule = _schedule(job)
    lessons, exam = _samplers(job, styles, schedule)
    torch.manual_seed(job.config.seed)
    refiner = Refiner(RefinerArchitecture(edits=job.config.edits))
    networks = Networks.fresh(refiner, job.config.seed).to(job.device)
    training = AdversarialTraining.start(networks, schedule, session.members.wrap)
    training.proven = job.config.proof == 0
    session.register("training", training)
    judge = Judge(job, styles, training, exam, session)
    session.register("judge", judge)
    guard = Guard(training)
    team = session.members

    def stepping(progress: Progress) -> Iterator[StepReport]:
        reports = train_adversarial(
            training, lessons, schedule, progress, job.dtype, team.rank, team.mean
        )
        return _guarded(reports, guard, session)

    def note(report: StepReport) -> str:
        return f"step {report.step}, critic {report.critic:.2f}, skill {report.skill:.2f}"

    for _ in session.steps(stepping, name="training the refiner", note=note):
        if not training.proven and session.done >= schedule.warm_up and judge.proof_is_due():
            judge.prove()
        if judge.judgement_is_due():
            trouble = Guard.collapsed(judge.judge())
            if trouble:
                _go_back(guard, training.step, trouble, session)
                break
            guard.remember()
    course = _conclude(training, judge, session)
    return Learnt(training.networks.averaged, training.networks.by_name(), course)


class Judge:
    """Judges critics and refiner on crops of held-out patches, and logs what it found."""

    def __init__(
        self,
        job: Refinement,
        styles: Styles,
        training: AdversarialTraining,
        sampler: Sampler,
        session: Session,
    ) -> None:
        self.job = job
        self.styles = styles
        self.training = training
        self.sampler = sampler
        self.session = session
        self.held: HeldOut | None = None
        self.judgements = int(session.clock.progress(training.step) * JUDGEMENTS)
        self.proofs = 0

    def judgement_is_due(self) -> bool:
        """Whether the training has come to the next judgement; each is due once."""
        earlier, self.judgements = self.judgements, int(self.session.done * JUDGEMENTS)
        return earlier < self.judgements

    def proof_is_due(self) -> bool:
        """Whether the training has come to the next proof; each is due once."""
        earlier, self.proofs = self.proofs, int(self.session.done * PROOFS)
        return earlier < self.proofs

    def judge(self) -> HeldOut:
        """Judge the networks, and write a sheet of some patches."""
        self.held = self._look()
        self.session.log(
            {
                "step": self.training.step,
                "held_out": {key: rounded(value) for key, value in asdict(self.held).items()},
                "critic_proven": self.training.proven,
            }
        )
        if self.session.members.leads:
            self._show()
        return self.held

    def prove(self) -> None:
        """Let the refiner move if the critic tells real patches from initial ones well enough."""
        auc = self._look().auc_initial
        proven = bool(self.session.members.from_leader(auc >= self.job.config.proof))
        self.training.proven = proven
        self.session.log(
            {"step": self.training.step, "critic_auc": rounded(auc), "critic_proven": proven}
        )

    def state(self) -> dict[str, Any]:
        """Return the last judgement."""
        return {"held": None if self.held is None else asdict(self.held)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the judgement that a checkpoint kept."""
        self.held = None if state["held"] is None else HeldOut(**state["held"])

    def _look(self) -> HeldOut:
        seed, dtype = self.job.config.seed, self.job.dtype
        return judge_held_out(self.training, self.sampler, seed, 6, 8, dtype)

    def _show(self) -> None:
        """Write a sheet of six patches: initial, as refined now, and their references."""
        initial, styles = self.job.initial, self.styles
        chosen = np.linspace(0, len(initial) - 1, min(6, len(initial))).astype(int)
        shown, crops = styles.read_white(chosen), styles.crops(chosen.tolist())
        refined, _ = refine_patches(
            self.training.networks.averaged,
            shown.images,
            shown.labels,
            crops,
            [rng_for(self.job.config.seed, "noise", int(patch)) for patch in chosen],
            initial.mpp,
            self.job.dtype,
        )
        rows = [list(row) for row in zip(shown.images, refined, crops.images, strict=True)]
        write_png(preview_path(self.job.out, self.training.step), picture_rows(rows))


def _schedule(job: Refinement) -> AdversarialSchedule:
    return AdversarialSchedule(
        batch=job.config.batch,
        # two crops of a patch stand beside each other; critics halve their sides three times
        crop_px=min(128, job.initial.patch_px // 2 // 8 * 8),
        style_weight=job.config.style,
        identity_weight=job.config.identity,
        edits=job.config.edits,
        objective=job.config.objective,
        seed=job.config.seed,
    )


def _samplers(
    job: Refinement, styles: Styles, schedule: AdversarialSchedule
) -> tuple[Sampler, Sampler]:
    """Return what the networks learn from, and what they are judged on."""

    def sampler(initial: InitialPatches, real: RealPatches) -> Sampler:
        return Sampler(initial, real, job.initial.mpp, schedule)

    rng = rng_for(job.config.seed, "held out")
    usable = np.sort(rng.permutation(len(job.initial))[:1500])  # so many are held in memory
    initial, real = styles.read_white(usable), styles.real
    out = hold_out(initial, real, rng)
    if out is None:
        logger.warning(
            "there are too few references to hold some out; the critics are judged on what they "
            "learnt from"
        )
        everything = sampler(initial, real)
        return everything, everything
    lessons = sampler(initial.part(~out.initial), real.part(~out.real))
    return lessons, sampler(initial.part(out.initial), real.part(out.real))


def _guarded(reports: Iterable[StepReport], guard: Guard, session: Session) -> Iterator[StepReport]:
    """Pass on the reports of good steps; after a bad one go back, and slow down or end."""
    for report in reports:
        trouble = guard.look(report)
        if trouble is None:
            yield report
            continue
        _go_back(guard, report.step, trouble, session)
        if guard.hopeless:
            return
        guard.slow_down()


def _go_back(guard: Guard, step: int, trouble: str, session: Session) -> None:
    """Go back to the last good weights, and say why."""
    logger.warning("step %d: %s; the last good weights are kept", step, trouble)
    session.log({"step": step, "trouble": trouble})
    guard.go_back()


def _conclude(training: AdversarialTraining, judge: Judge, session: Session) -> Course:
    """Say what came of the training, and keep it: a later interruption costs no training."""
    held = judge.held or judge.judge()
    if not training.moves:
        logger.warning(
            "the refiner never moved: the critic told real from initial patches with a held-out "
            "AUC of %.2f, and %.2f is asked for (--proof); train longer, or take the initial "
            "patches as they are",
            held.auc_initial,
            judge.job.config.proof,
        )
    digests = session.members.gather(weights_digest(training.networks.averaged))
    session.log({"processes": len(digests), "processes_agree": len(set(digests)) == 1})
    session.finish()
    return Course(
        steps=training.step,
        moves=training.moves,
        critic_auc=rounded(held.auc_initial),
        style_auc=rounded(held.style_matched),
    )


def rounded(value: float) -> float | None:
    """Return a score as it is recorded: four digits, None where it is not a number."""
    return round(float(value), 4) if math.isfinite(value) else None
