"""The training of the refiner: its steps, judgements on held-out crops, guard and checkpoints.

The realism critic is *proven* once its held-out AUC of real against initial crops reaches
``--proof``; before that, the refiner is not updated. The *guard* keeps the last good weights.
"""

import logging
import math
import time
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

JUDGEMENTS = 6  # number of judgements of held-out crops during a training
PROVING_SHARE = 0.15  # largest share of a time budget that goes into tests of the critic
PROOFS = 40  # number of times during a training at which a critic that is not proven yet is tested


@dataclass(frozen=True)
class Course:
    """Figures of a training, for the store and the result."""

    steps: int
    moves: int  # steps in which the refiner was updated
    critic_auc: float | None  # held out, real against initial crops
    style_auc: float | None  # held out, pairs of one image against pairs of two


@dataclass(frozen=True)
class Learnt:
    """The refiner that repaints, and the networks that the store keeps."""

    refiner: Refiner
    networks: Mapping[str, nn.Module]
    course: Course | None  # None if the refiner of ``--model`` is used


def learn(job: Refinement, styles: Styles, session: Session) -> Learnt:
    """Train a refiner, or return the one of ``--model``."""
    if job.trained is not None:
        refiner = job.trained.to(job.device)
        return Learnt(refiner, {"averaged": refiner}, None)
    schedule = AdversarialSchedule(
        batch=job.config.batch,
        # a patch must hold two crops side by side; critics need sides that are multiples of 8
        crop_px=min(128, job.initial.patch_px // 2 // 8 * 8),
        style_weight=job.config.style,
        identity_weight=job.config.identity,
        edits=job.config.edits,
        objective=job.config.objective,
        seed=job.config.seed,
    )
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
    """Judges critics and refiner on crops of held-out patches, and logs the scores."""

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
        self._spent_s = 0.0  # seconds spent on proofs

    def judgement_is_due(self) -> bool:
        """Return whether a judgement is due since the last call: ``JUDGEMENTS`` in a training."""
        earlier, self.judgements = self.judgements, int(self.session.done * JUDGEMENTS)
        return earlier < self.judgements

    def proof_is_due(self) -> bool:
        """Return whether a test of the critic is due since the last call.

        Under a time budget, tests that would take too large a part of it are left out.
        """
        earlier, self.proofs = self.proofs, int(self.session.done * PROOFS)
        if earlier == self.proofs:
            return False
        clock = self.session.clock
        busy = clock.budget_s is not None and self._spent_s > PROVING_SHARE * clock.trained_s
        return not self.session.members.from_leader(busy)

    def judge(self) -> HeldOut:
        """Score the networks, log the scores and write a sheet of some patches."""
        self.held = self._look()
        step, proven = self.training.step, self.training.proven
        scores = {key: rounded(value) for key, value in asdict(self.held).items()}
        self.session.log({"step": step, "held_out": scores, "critic_proven": proven})
        if self.session.members.leads:
            self._show()
        return self.held

    def prove(self) -> None:
        """Mark the critic as proven if its AUC of real against initial crops is high enough."""
        start = time.perf_counter()
        auc = self._look().auc_initial
        self._spent_s += time.perf_counter() - start
        proven = bool(self.session.members.from_leader(auc >= self.job.config.proof))
        self.training.proven = proven
        step = self.training.step
        self.session.log({"step": step, "critic_auc": rounded(auc), "critic_proven": proven})

    def state(self) -> dict[str, Any]:
        """Return the last scores for a checkpoint."""
        return {"held": None if self.held is None else asdict(self.held)}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what ``state`` returned."""
        self.held = None if state["held"] is None else HeldOut(**state["held"])

    def _look(self) -> HeldOut:
        seed, dtype = self.job.config.seed, self.job.dtype
        return judge_held_out(self.training, self.sampler, seed, 6, 8, dtype)

    def _show(self) -> None:
        """Write a sheet of six patches: initial, refined, and a real patch of the reference."""
        initial, styles = self.job.initial, self.styles
        chosen = np.linspace(0, len(initial) - 1, min(6, len(initial))).astype(int)
        shown, crops = styles.read_white(chosen), styles.crops(chosen.tolist())
        seeds = [rng_for(self.job.config.seed, "noise", int(patch)) for patch in chosen]
        averaged, mpp, dtype = self.training.networks.averaged, initial.mpp, self.job.dtype
        refined, _ = refine_patches(averaged, shown.images, shown.labels, crops, seeds, mpp, dtype)
        rows = [list(row) for row in zip(shown.images, refined, crops.images, strict=True)]
        write_png(preview_path(self.job.out, self.training.step), picture_rows(rows))


def _samplers(
    job: Refinement, styles: Styles, schedule: AdversarialSchedule
) -> tuple[Sampler, Sampler]:
    """Return the sampler that the networks learn from, and the one that they are judged on."""

    def sampler(initial: InitialPatches, real: RealPatches) -> Sampler:
        return Sampler(initial, real, job.initial.mpp, schedule)

    rng = rng_for(job.config.seed, "held out")
    usable = np.sort(rng.permutation(len(job.initial))[:1500])  # held in memory
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
    """Yield reports of good steps; after a bad step restore good weights, and slow down or end."""
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
    """Restore the last good weights; log and warn of the ``trouble``."""
    logger.warning("step %d: %s; the last good weights are kept", step, trouble)
    session.log({"step": step, "trouble": trouble})
    guard.go_back()


def _conclude(training: AdversarialTraining, judge: Judge, session: Session) -> Course:
    """Return the training's figures, and save it as finished for a later command."""
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
    """Return a score rounded to four digits; None if it is not finite."""
    return round(float(value), 4) if math.isfinite(value) else None
