"""The frame of every command that makes an output: decide, skip or plan, lock, make, mark as done.

A stage says what it would make in a :class:`Plan`, and gives a function that makes it::

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

Outputs of all kinds go through it: Zarr stores, whose writers take the lock themselves; model
files, which the frame locks; and single files, which are replaced atomically and need no lock. With
several processes (``torchrun``) the first one decides and all hear its decision.
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
    """What a command would make, before any of it is made."""

    out: Path
    """Where the output goes."""
    contract: str
    """Name and version of its layout; decides which form of the rerun rule holds."""
    fingerprint: str
    """Hash of the settings and inputs; equal hashes mean that the output would be the same."""
    planned: Callable[[], Result]
    """Returns the result of a dry run. Called unless the output is there already, so that it may
    look at inputs more closely and refuse them."""
    found: Callable[[], Result] | None = None
    """Returns the result for an output that is there already; ``planned`` where it is None."""
    watch: Stopwatch
    """Started when the command began."""


@dataclass(frozen=True)
class Work(Generic[Result]):
    """What the function that makes an output is told."""

    planned: Result
    """The result of the plan, to be completed."""
    resume: bool
    """Go on with the partial output that is there."""
    members: Team
    """The processes that work together; only the first one writes."""


def decide(out: Path, contract: str, fingerprint: str, execution: Execution) -> Action:
    """Apply the rerun rule to an output.

    A partial output that is not to be resumed is removed, except in a dry run.

    Parameters
    ----------
    out, contract, fingerprint
        As in :class:`Plan`.
    execution : Execution

    Returns
    -------
    {"create", "resume", "skip"}

    Raises
    ------
    StoreExists
        Something is in the way; the message says which option helps.
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
    """Make the output of a plan, unless it is there already or this is a dry run.

    Parameters
    ----------
    plan : Plan
    execution : Execution
    make : callable
        Makes the output and returns the completed result; its status and seconds are set here.
    members : Team
        The processes that work together.

    Raises
    ------
    StoreExists
        Something is in the way, or another process writes the same output.
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
