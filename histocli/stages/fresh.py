"""New patches for a training that goes on: workers draw them ahead, and a step that is due waits
for them at most.

The patches of a store are numbered; those that are drawn while training goes on have the numbers
that follow, so that they are what ``generate`` with a larger ``--n`` would have drawn. Which step
sees which patches is settled by numbers, not by who is faster.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from histocli.base.errors import InputNotFound, InvalidInput
from histocli.base.interrupts import raise_if_stopped
from histocli.base.parallel import AHEAD, single_threaded
from histocli.base.progress import Track
from histocli.base.system import resolve_workers
from histocli.base.types import Json
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.instances.targets import contacts, normalised_distance
from histocli.model.normalisation import glass_to_white
from histocli.reference.calibration import UNCALIBRATED
from histocli.stages.drawing import (
    BatchJob,
    Region,
    calibrate,
    draw_batch,
    reference_order,
    take_apart,
)
from histocli.stages.shared.references import identify_references, reference_images
from histocli.stores.patches import PatchStore
from histocli.synthesis.variation import Spread
from histocli.training.sampling import PatchSet

BATCH = 16  # patches that are drawn at a time


@dataclass(frozen=True)
class _Job:
    drawing: BatchJob
    glass: tuple[float, ...]
    """Level of empty glass of each patch."""
    mpp: float
    learns_contacts: bool


@dataclass(frozen=True)
class _Drawn:
    """Patches with their targets, as ``PatchSet`` holds them."""

    images: npt.NDArray[np.uint8]
    nucleus: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.uint8]
    contact: npt.NDArray[np.bool_] | None


def _draw(job: _Job) -> _Drawn:
    """Draw patches and compute their targets; runs in a worker."""
    drawn = draw_batch(job.drawing)
    assert drawn.image is not None
    labels = drawn.instance_labels
    return _Drawn(
        np.stack(
            [
                glass_to_white(image, level)
                for image, level in zip(drawn.image, job.glass, strict=True)
            ]
        ),
        labels > 0,
        labels >= 0,
        np.stack([normalised_distance(each) for each in labels]),
        np.stack([contacts(each, job.mpp) for each in labels]) if job.learns_contacts else None,
    )


class FreshPatches:
    """Draws patches ahead of a training, and puts them in the place of the oldest.

    Use it as a context manager: workers and a scratch folder are given back at its end.

    Parameters
    ----------
    store : PatchStore
        Made by ``generate``; its references are read again.
    places : ndarray of int, shape (k,)
        Where in the training's patches those of the store lie that may be replaced.
    per_step : float
        Patches that a step of training brings.
    learns_contacts : bool
    execution : Execution
    track : Track
    rank, size : int
        Of several processes that train together, each of which draws patches of its own.

    Raises
    ------
    InvalidInput
        The store holds no patches that ``generate`` drew.
    InputNotFound
        A reference, or the model of ``--priors``, is gone or has changed.
    """

    def __init__(
        self,
        store: PatchStore,
        places: npt.NDArray[np.integer],
        per_step: float,
        *,
        learns_contacts: bool,
        execution: Execution,
        track: Track,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        if store.origin != "initial" or store.provenance.command != "generate":
            raise InvalidInput(
                f"{store.path}: --fresh draws on where generate stopped, but these patches are {store.origin}; "
                "give the store of initial patches"
            )
        known = {field.name for field in fields(GenerateConfig)}
        self.config = GenerateConfig(
            **{name: value for name, value in store.provenance.config.items() if name in known}
        )
        self.store = store
        self.places = places
        self.per_step = per_step
        self.learns_contacts = learns_contacts
        self.rank, self.size = rank, size
        self.spread = None if store.variation is None else Spread.from_json(store.variation)
        self.batches = 0
        """Put in place so far."""
        self.waited_s = 0.0
        self._scratch = tempfile.TemporaryDirectory(prefix="histosynth-")
        try:
            self.regions = self._take_apart(execution, track)
        except BaseException:
            self._scratch.cleanup()
            raise
        workers = max(1, resolve_workers(execution.workers) - 1)  # one is the training's own
        self._ahead = AHEAD * workers
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=single_threaded
        )
        self._running: deque[tuple[int, Future[_Drawn]]] = deque()

    def __enter__(self) -> FreshPatches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._scratch.cleanup()

    def _take_apart(self, execution: Execution, track: Track) -> Sequence[Region]:
        images = reference_images(self.store, [], keep_missing=False)
        sources, _ = identify_references(
            images, mpp=self.store.mpp, reference_mpp=None, tolerant=False, command="train"
        )
        folder = Path(self._scratch.name)
        priors, calibration = None, UNCALIBRATED
        if self.config.priors is not None:
            priors = Path(self.config.priors)
            if not priors.exists():
                raise InputNotFound(
                    f"{priors}: the model that {self.store.path.name} took its priors from is gone"
                )
            calibration = calibrate(
                sources, priors, self.config, execution, folder / "rough", track
            )
        return take_apart(sources, self.config, execution, folder, track, priors, calibration)[0]

    def _job(self, number: int) -> _Job:
        """Return the job of the fresh batch of a number; the store's own patches come before all of
        them.
        """
        first = self.config.n + (number * self.size + self.rank) * BATCH
        batch = range(first, first + BATCH)
        order = reference_order(self.config.seed, len(self.regions), batch.stop)[batch.start :]
        regions = [self.regions[k] for k in order]
        return _Job(
            BatchJob(
                batch,
                tuple(region.folder for region in regions),
                self.config.patch_px,
                self.config.seed,
                paint=True,
                spread=self.spread,
            ),
            tuple(float(region.statistics["appearance"]["white_level"]) for region in regions),
            self.store.mpp,
            self.learns_contacts,
        )

    def due(self, step: int) -> int:
        """Return how many batches the set has taken up before a step."""
        return int(self.per_step * step / BATCH)

    def refresh(self, data: PatchSet, step: int) -> None:
        """Put the patches that are due at a step in the place of the oldest.

        A training that is resumed begins with those that would be left of the ones before, so that
        it goes on as if it had not been stopped.

        Parameters
        ----------
        data : PatchSet
            Changed in place.
        step : int
            Steps done.
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
                    "train: stopped while patches were drawn; run the same command with --resume"
                )
                time.sleep(0.002)
            self.waited_s += time.monotonic() - start
            self._put(data, number, future.result())
            self.batches += 1
        self._hand_out()

    def _hand_out(self) -> None:
        following = self._running[-1][0] + 1 if self._running else self.batches
        while len(self._running) < self._ahead:
            self._running.append((following, self._pool.submit(_draw, self._job(following))))
            following += 1

    def _put(self, data: PatchSet, number: int, drawn: _Drawn) -> None:
        for index in range(BATCH):
            place = self.places[(number * BATCH + index) % len(self.places)]
            data.images[place], data.nucleus[place] = drawn.images[index], drawn.nucleus[index]
            data.valid[place], data.distance[place] = drawn.valid[index], drawn.distance[index]
            data.weight[place] = 1.0
            if data.contact is not None and drawn.contact is not None:
                data.contact[place] = drawn.contact[index]

    def about(self, trained_s: float) -> Json:
        """Return what a result reports."""
        return {
            "patches": self.batches * BATCH,
            "waited_s": round(self.waited_s, 2),
            "waited_share": round(self.waited_s / max(trained_s, 1e-9), 4),
        }
