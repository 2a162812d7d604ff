"""The steps that all commands with an output share: decide, skip or plan, lock, make.

The *rerun rule* (``stores.rerun``) decides whether a command creates its output, resumes a partial
one or skips a finished one. A stage describes the output in a :class:`Plan`, and gives a function
that makes it::

    def pack(images, labels, out, config, execution):
        watch = Stopwatch()
        pairs = find_pairs(images, labels)
        plan = Plan(
            out=out,
            contract=patches.CONTRACT,
            fingerprint=config_hash(config, pairs=...),
            planned=lambda: PackResult(output=str(out), patches=...),
            watch=watch,
        )

        def make(work: Work[PackResult]) -> PackResult:
            with PatchStoreWriter(out, ...) as writer:
                ...
            return replace(work.planned, nuclei=...)

        return carry_out(plan, execution, make)

An output is a Zarr store, whose writer takes the lock; a model file, which :func:`carry_out` locks;
or another single file, which is replaced atomically and needs no lock. With several processes
(``torchrun``), all follow the decision of the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from histocli.base.distributed import ALONE, Team
from histocli.config.common import Execution
from histocli.stages.shared.outputs import prepare_file
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores import labels, models, patches
from histocli.stores.rerun import Action, OutputLock, prepare_output

Result = TypeVar("Result", bound=StageResult)


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Result]):
    """An output before it is made."""

    out: Path
    """Path of the output."""
    contract: str
    """Name and version of the output's layout, such as ``histosynth-patches/1``."""
    fingerprint: str
    """Hash of the settings and inputs; equal hashes mean that the output would be the same."""
    planned: Callable[[], Result]
    """Returns the result of a dry run; may check inputs and raise."""
    found: Callable[[], Result] | None = None
    """Returns the result for an output that is finished already; None uses ``planned``."""
    watch: Stopwatch
    """Started when the command began."""


@dataclass(frozen=True)
class Work(Generic[Result]):
    """The argument of the function that makes an output."""

    planned: Result
    """The result of ``Plan.planned``, which the function completes."""
    resume: bool
    """Whether to continue a partial output."""
    members: Team
    """The processes that work together; only the first one writes."""


def decide(out: Path, contract: str, fingerprint: str, execution: Execution) -> Action:
    """Apply the rerun rule to an output.

    Where the answer is ``create``, a partial output is removed, except in a dry run.

    Parameters
    ----------
    out, contract, fingerprint
        See :class:`Plan`.
    execution : Execution

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        An unfinished output, or one of other settings, exists; the message names the option to use.
    """
    if contract not in (labels.CONTRACT, patches.CONTRACT, models.CONTRACT):
        return prepare_file(
            out, contract=contract, config_hash=fingerprint, overwrite=execution.overwrite
        )
    if contract == models.CONTRACT:
        return models.prepare_model_output(
            out,
            config_hash=fingerprint,
            resume=execution.resume,
            overwrite=execution.overwrite,
            dry_run=execution.dry_run,
        )
    return prepare_output(
        out,
        contract=contract,
        config_hash=fingerprint,
        resume=execution.resume,
        overwrite=execution.overwrite,
        dry_run=execution.dry_run,
    )


def carry_out(
    plan: Plan[Result],
    execution: Execution,
    make: Callable[[Work[Result]], Result],
    members: Team = ALONE,
) -> Result:
    """Make the output of a plan, unless it is finished already or this is a dry run.

    Parameters
    ----------
    plan : Plan
    execution : Execution
    make : callable
        Makes the output and returns the completed result, whose status and seconds are set here.
    members : Team
        The processes that work together.

    Raises
    ------
    StoreExists
        :func:`decide` refuses, or another process writes the same output.
    """
    action = members.from_leader(
        decide(plan.out, plan.contract, plan.fingerprint, execution) if members.leads else None
    )
    if action == "skip":
        known = (plan.found or plan.planned)()
        return replace(known, status="skipped", seconds=plan.watch.seconds)
    planned = plan.planned()
    if execution.dry_run:
        return replace(planned, status="planned", seconds=plan.watch.seconds)
    locked = members.leads and plan.contract == models.CONTRACT
    with OutputLock(plan.out) if locked else nullcontext():
        made = make(Work(planned, action == "resume", members))
    return replace(made, status="done", seconds=plan.watch.seconds)
