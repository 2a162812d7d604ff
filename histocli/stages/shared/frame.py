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
from functools import partial
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

    out: Path  # path of the output
    contract: str  # name and version of the output's layout, such as ``histosynth-patches/1``
    fingerprint: str  # hash of settings and inputs; equal hashes mean equal outputs
    planned: Callable[[], Result]  # returns the result of a dry run; may check inputs and raise
    found: Callable[[], Result] | None = None  # result of a finished output; None: ``planned``
    watch: Stopwatch  # started when the command began


@dataclass(frozen=True)
class Work(Generic[Result]):
    """The argument of the function that makes an output."""

    planned: Result  # the result of ``Plan.planned``, which the function completes
    resume: bool  # whether to continue a partial output
    members: Team  # the processes that work together; only the first one writes


def decide(out: Path, contract: str, fingerprint: str, execution: Execution) -> Action:
    """Apply the rerun rule to an output; :class:`Plan` explains ``contract`` and ``fingerprint``.

    Where the answer is ``create``, a partial output is removed, except in a dry run. Raises
    ``StoreExists`` if an unfinished output, or one of other settings, exists; its message names the
    option to use.
    """
    if contract not in (labels.CONTRACT, patches.CONTRACT, models.CONTRACT):
        again = execution.overwrite
        return prepare_file(out, contract=contract, config_hash=fingerprint, overwrite=again)
    is_model = contract == models.CONTRACT
    of_store = partial(prepare_output, contract=contract)
    prepare = models.prepare_model_output if is_model else of_store
    return prepare(
        out,
        config_hash=fingerprint,
        resume=execution.goes_on,
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
    make : callable
        Returns the completed result, whose status and seconds are set here.
    members : Team
        Processes that work together.

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
