"""``--fresh``: worker processes draw new synthetic patches during a training.

New patches continue the numbers of the store's patches: they are the patches that ``generate`` with
a larger ``--n`` would have drawn. The number of a step decides which patches are put in place
before it, and the step waits until they are drawn, so that the result does not depend on speed.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histocli.base.distributed import ALONE, Team
from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.parallel import AHEAD, single_threaded, without_main_script
from histocli.base.progress import Track
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.model.normalisation import glass_to_white
from histocli.stages.shared.drawing import DrawJob, draw_job, draw_patches
from histocli.stages.shared.measuring import Region, measure_references
from histocli.stages.shared.references import identify_references, recorded_references
from histocli.stages.train.bench import Bench, Joined, join
from histocli.stores.patches import PatchStore
from histocli.synthesis.variation import Spread
from histocli.training.loop import Extra
from histocli.training.sampling import PatchSet

BATCH = 16  # patches in a job of a worker


@dataclass(frozen=True)
class _Job:
    drawing: DrawJob
    glass: tuple[float, ...]  # brightness of empty glass in each patch
    contacts_mpp: float | None  # micrometres per pixel; None if contacts of nuclei are not learnt


def _draw(job: _Job) -> PatchSet:
    """Draw patches and compute their targets, in a worker."""
    drawn = draw_patches(job.drawing)
    assert drawn.image is not None
    white = [glass_to_white(*each) for each in zip(drawn.image, job.glass, strict=True)]
    return PatchSet.labelled(np.stack(white), drawn.instance_labels, contacts_mpp=job.contacts_mpp)


class FreshPatches(Extra):
    """Draws patches ahead of a training, and replaces the oldest patches by them.

    The references of ``store``, which ``generate`` made, are read again. ``places`` are the indices
    of the training's patches from the store, which may be replaced. ``per_step`` new patches come
    with each step. Each of the processes that train together (``members``) draws its own.
    ``trained_s`` returns the seconds of training so far. Worker processes and a scratch folder
    exist until ``close``.

    Raises ``InvalidInput`` if ``generate`` did not draw the store's patches, and ``InputNotFound``
    if a reference, or the model of ``--priors``, is gone or has changed.
    """

    name = "fresh"

    def __init__(
        self,
        store: PatchStore,
        places: npt.NDArray[np.integer],
        per_step: float,
        *,
        learns_contacts: bool,
        execution: Execution,
        track: Track,
        members: Team = ALONE,
        trained_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        if store.origin != "initial" or store.provenance.command != "generate":
            raise InvalidInput(
                f"{store.path}: --fresh draws on where generate stopped, but these patches are "
                f"{store.origin}; give the store of initial patches"
            )
        known = {field.name for field in fields(GenerateConfig)}
        recorded = store.provenance.config.items()
        self.config = GenerateConfig(**{key: value for key, value in recorded if key in known})
        self.store = store
        self.places = places
        self.per_step = per_step
        self.learns_contacts = learns_contacts
        self.members = members
        self.spread = None if store.variation is None else Spread.from_json(store.variation)
        self.batches = 0  # number of the next batch to put in place
        self.waited_s = 0.0
        self._trained_s = trained_s
        self._taken_s = 0.0
        self._scratch = tempfile.TemporaryDirectory(prefix="histosynth-")
        try:
            self.regions = self._measure(execution, track)
        except BaseException:
            self._scratch.cleanup()
            raise
        workers = max(1, resolve_workers(execution.workers) - 1)  # the training needs one processor
        self._ahead = AHEAD * workers
        spawn = get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=single_threaded)
        self._running: deque[tuple[int, Future[PatchSet]]] = deque()

    def close(self) -> None:
        """Stop the workers and remove the scratch folder."""
        self._taken_s = self._trained_s()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._scratch.cleanup()

    def _measure(self, execution: Execution, track: Track) -> list[Region]:
        images = recorded_references(self.store)
        sources, _ = identify_references(
            images, mpp=self.store.mpp, reference_mpp=None, tolerant=False, command="train"
        )
        if self.config.priors is not None and not (model := Path(self.config.priors)).exists():
            raise InputNotFound(
                f"{model}: the model that {self.store.path.name} took its priors from is gone"
            )
        scratch = Path(self._scratch.name)
        return measure_references(sources, self.config, execution, scratch, track)[0]

    def _job(self, number: int) -> _Job:
        """Return the job of a batch; patch numbers begin after those of the store."""
        first = self.config.n + (number * self.members.size + self.members.rank) * BATCH
        job = draw_job(range(first, first + BATCH), self.regions, self.config, spread=self.spread)
        statistics = [self.regions[number].statistics for number in job.reference]
        glass = tuple(float(each["appearance"]["white_level"]) for each in statistics)
        return _Job(job, glass, self.store.mpp if self.learns_contacts else None)

    def due(self, step: int) -> int:
        """Return how many batches have to be in place when ``step`` steps are done."""
        return int(self.per_step * step / BATCH)

    def before_step(self, patches: PatchSet, step: int) -> None:
        """Replace the oldest patches by those that are due.

        A resumed training begins with the batches that an uninterrupted one would still have.
        """
        due = self.due(step)
        if not self.batches and due > 1:
            self.batches = max(0, due - -(-len(self.places) // BATCH))
        while self.batches < due:
            self._hand_out()
            number, future = self._running.popleft()
            assert number == self.batches
            start = time.monotonic()
            while not future.done():
                raise_if_stopped(
                    "train: stopped while patches were drawn; run the same command again to go on"
                )
                time.sleep(0.002)
            self.waited_s += time.monotonic() - start
            places = np.arange(number * BATCH, (number + 1) * BATCH) % len(self.places)
            patches.put(self.places[places], future.result())
            self.batches += 1
        self._hand_out()

    def _hand_out(self) -> None:
        following = self._running[-1][0] + 1 if self._running else self.batches
        while len(self._running) < self._ahead:
            job = self._job(following)
            with without_main_script():  # the pool starts a worker when it gets a job
                self._running.append((following, self._pool.submit(_draw, job)))
            following += 1

    def report(self) -> Json:
        """Return the number of patches put in place, and the seconds that the training waited."""
        return {
            "patches": self.batches * BATCH,
            "waited_s": round(self.waited_s, 2),
            "waited_share": round(self.waited_s / max(self._taken_s, 1e-9), 4),
        }


def fresh_patches(bench: Bench) -> Joined | None:
    """Join fresh patches if the user asks; they replace those of the first initial store."""
    request = bench.request
    if not request.config.fresh:
        return None
    number = next((i for i, item in enumerate(request.inputs) if item.store.origin == "initial"), 0)
    fresh = FreshPatches(
        request.inputs[number].store,
        np.flatnonzero(bench.patches.store_of == number),
        request.config.fresh_per_step,
        learns_contacts=request.learns_contacts,
        execution=request.execution,
        track=request.track,
        members=bench.session.members,
        trained_s=lambda: bench.session.clock.trained_s,
    )
    bench.stack.callback(fresh.close)
    return join(bench, fresh, fresh.report)
