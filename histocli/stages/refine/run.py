"""``histosynth refine`` from its inputs to the refined store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from histocli.base.device import prepare_process
from histocli.base.distributed import local_device, team
from histocli.base.progress import Track, silent
from histocli.base.types import Json
from histocli.config.common import Execution, as_dict
from histocli.config.refine import RefineConfig
from histocli.model.refiner import describe_refiner
from histocli.stages.refine.learn import Learnt, learn
from histocli.stages.refine.plan import Refinement, open_inputs
from histocli.stages.refine.repaint import Repainted, repaint, seconds_per_patch
from histocli.stages.refine.styles import Styles, read_styles
from histocli.stages.refine.traces import Traces, find_traces
from histocli.stages.refine.weigh import Weighed, weigh
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.journal import check_tracking
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stages.shared.session import Clock, Session, refuse_short_budget
from histocli.stores.patches import CONTRACT, PatchStoreWriter
from histocli.stores.provenance import Provenance

AFTER_S = 4.0  # seconds of a time budget for the last judgement and for writing networks
WEIGHING_SHARE = 0.2  # share of a time budget for weighing, but at most a minute
MOST_RESERVED = 0.9  # largest share of a time budget for the work after the training
WITH_WRITING = 1.15  # time to repaint and write a patch over that to repaint it


@dataclass(frozen=True, kw_only=True)
class RefineResult(StageResult):
    """The result of ``refine``."""

    schema: ClassVar[str] = "histosynth.refine/1"

    patches: int
    references: int  # number of reference files that show nuclei
    steps: int | None  # steps of the training; None where an earlier refiner was applied
    moves: int | None = None  # steps that updated the refiner; None where none was trained
    critic_auc: float | None = None  # of the realism critic, held out: real against initial
    style_auc: float | None = None  # of the style critic, held out: pairs of one image or two
    agreement: Json | None = None  # mean AJI with roughly found nuclei, ``initial`` and ``refined``
    rejected: int | None = None  # number of patches whose labels no longer fit; their weight is 0
    auc: float | None = None  # of classifiers, real against refined patches; 0.5: both look alike
    effective_share: float | None = None  # effective sample size over number of patches
    residual_auc: float | None = (
        None  # of the edits alone, nuclei against background; 0.5: no trace
    )
    auc_trunk: float | None = None  # real against refined, by features of photographs
    too_short: bool = False  # whether the time budget ended the training after a few steps
    mpp: float
    device: str
    precision: str
    failed: tuple[str, ...] = ()  # references that could not be read, under ``--on-error continue``


def refine(
    store: str,
    references: Sequence[str],
    out: Path,
    config: RefineConfig,
    execution: Execution,
    *,
    stop_after: int | None = None,
    track: Track = silent,
) -> RefineResult:
    """Refine an initial patch store.

    Parameters
    ----------
    store : str
        Path of the initial patch store; ``-`` reads it from stdin.
    references : sequence of str
        Files, folders, globs, ``@list`` or manifests; none takes those that the store records.
    out : Path
        Patch store to make.
    stop_after : int, optional
        Save a checkpoint and stop after this many steps in all.

    Raises
    ------
    InvalidStore, InputNotFound, InvalidInput
        The store, the references or the model cannot be used.
    StoreExists
        An output of other settings, finished or not, exists at ``out``.
    Stopped
        A signal came, or ``stop_after`` steps are done. The work is kept for a later command.
    """
    watch = Stopwatch.of_command()
    check_tracking(execution)
    job = open_inputs(store, references, out, config, execution, track)
    result = RefineResult(
        output=str(out),
        patches=len(job.initial),
        references=len(job.sources),
        steps=None if job.trained else config.steps,
        mpp=job.initial.mpp,
        device=str(job.device),
        precision="bf16" if job.dtype == torch.bfloat16 else "fp32",
        failed=tuple(job.failed),
    )
    plan = Plan(
        out=out, contract=CONTRACT, fingerprint=job.fingerprint, planned=lambda: result, watch=watch
    )
    job = replace(job, device=local_device(job.device))
    with team(job.device) as members:
        return carry_out(plan, execution, lambda work: _make(job, plan, work, stop_after), members)


def _make(
    job: Refinement, plan: Plan[RefineResult], work: Work[RefineResult], stop_after: int | None
) -> RefineResult:
    """Train the refiner, repaint and weigh the patches, and write the store."""
    prepare_process()
    styles = read_styles(job)
    clock = _clock(job, styles, plan.watch, work)
    with _writer(job, styles, work) as writer:
        session = Session(
            plan,
            work,
            clock,
            stop_after=stop_after,
            track=job.track,
            noun="refinement",
            tensorboard=job.execution.tensorboard,
        )
        learnt = learn(job, styles, session)
        too_short = learnt.course is not None and session.was_too_short(learnt.course.steps)
        if writer is None:
            return work.planned
        repainted = repaint(job, styles, learnt.refiner, writer, session)
        weighed = weigh(job, styles, writer, session)
        traces = find_traces(job, styles, writer, session)
        _describe(writer, job, learnt, repainted, weighed, traces)
        writer.finish()
    session.journal.draw()
    session.checkpoint.remove()
    result = replace(
        work.planned,
        references=styles.n_references,
        agreement=asdict(repainted.agreement) if repainted.agreement else None,
        rejected=repainted.rejected,
        auc=weighed.auc,
        effective_share=weighed.effective_share,
        residual_auc=traces.residual_auc,
        auc_trunk=traces.auc_trunk,
        too_short=too_short,
    )
    course = learnt.course
    if course is None:
        return result
    return replace(
        result,
        steps=course.steps,
        moves=course.moves,
        critic_auc=course.critic_auc,
        style_auc=course.style_auc,
    )


def _clock(job: Refinement, styles: Styles, watch: Stopwatch, work: Work[RefineResult]) -> Clock:
    """Return the clock of the training, which leaves the time that the work after it takes here.

    Raises ``InvalidOption`` if the time budget is too short for that work.
    """
    budget_s, members = job.config.time_budget_s, work.members
    if budget_s is None:
        return Clock(job.config.steps, None, 0.0, watch)
    patch_s = members.from_leader(seconds_per_patch(job, styles) if members.leads else None)
    repainting_s = WITH_WRITING * patch_s * len(job.initial)
    weighing_s = min(60.0, WEIGHING_SHARE * budget_s) if job.config.weights else 0.0
    reserve_s = repainting_s + weighing_s + AFTER_S
    clock = Clock(job.config.steps, budget_s, reserve_s, watch, MOST_RESERVED)
    if job.trained is None and not work.resume:  # a resumed command may have less left to do
        text = f"repainting {len(job.initial)} patches takes about {repainting_s:.0f} s here"
        refuse_short_budget(clock, members, repainting_s + AFTER_S, text)
    return clock


@contextmanager
def _writer(
    job: Refinement, styles: Styles, work: Work[RefineResult]
) -> Iterator[PatchStoreWriter | None]:
    """Yield a writer in the first process; None in the others, which only help to train."""
    if not work.members.leads:
        yield None
        return
    provenance = Provenance(
        contract=CONTRACT,
        command="refine",
        config=as_dict(job.config),
        config_hash=job.fingerprint,
        seed=job.config.seed,
    )
    with PatchStoreWriter(
        job.out,
        n=len(job.initial),
        patch_px=job.initial.patch_px,
        mpp=job.initial.mpp,
        origin="refined",
        references=styles.records,
        provenance=provenance,
        shippable=job.initial.shippable,
    ) as writer:
        yield writer


def _describe(
    writer: PatchStoreWriter,
    job: Refinement,
    learnt: Learnt,
    repainted: Repainted,
    weighed: Weighed,
    traces: Traces,
) -> None:
    """Write the networks into the store, and the results of refinement into its attributes."""
    weights = {name: network.state_dict() for name, network in learnt.networks.items()}
    writer.write_networks(
        {
            name: {key: value.detach().float().cpu().numpy() for key, value in state.items()}
            for name, state in weights.items()
        }
    )
    about: Json = asdict(learnt.course) if learnt.course else {}
    about["rejected"] = repainted.rejected
    if repainted.agreement:
        about["agreement"] = asdict(repainted.agreement)
    about |= asdict(weighed) | asdict(traces)
    about["architecture"] = describe_refiner(learnt.refiner)
    initial = {"name": job.initial.path.name, "sha256": job.initial.content_hash()}
    writer.add_attributes({"initial": initial, "refinement": about})
