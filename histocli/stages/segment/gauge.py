"""The progress of segmentation, weighted by work.

Each slide has a share of the whole that grows with its file, since compressed slides are about as
large as their tissue; the bar moves with every network tile, and with every block that is written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from histocli.base.progress import Bar, Track
from histocli.stages.segment.job import Job

# Shares of the work on one slide, as measured on two processors; finishing a slide, which joins
# its windows and writes its files, has the rest.
NETWORK, WRITING = 0.7, 0.2


class Gauge:
    """Moves one bar for all jobs; the total is the number of jobs, as an amount of work."""

    def __init__(self, jobs: Sequence[Job], bar: Bar) -> None:
        self._bar = bar
        shares = shares_of([job.input.path for job in jobs])
        self._share = {id(job): share for job, share in zip(jobs, shares, strict=True)}
        self._moved = dict.fromkeys(self._share, 0.0)  # by how much each job has moved the bar
        self._tiles: dict[int, int] = {}  # number of network tiles of each job that was begun
        self._n = len(jobs)
        self._ended = 0
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, jobs: Sequence[Job], track: Track) -> Iterator[Self]:
        """Open the bar."""
        with track("segment", float(len(jobs))) as bar:
            yield cls(jobs, bar)

    def begin(self, job: Job, tiles: int) -> None:
        """Set the number of tiles that a job will take."""
        with self._lock:
            first = not self._tiles
            self._tiles[id(job)] = tiles
        if first:  # later jobs are begun while the network still works on the one before
            self._bar.advance(0, self._note(job))

    def saw_tiles(self, job: Job, n: int) -> None:
        """Report tiles that have gone through the network."""
        self._move(job, NETWORK * n / max(self._tiles.get(id(job), n), 1))

    def wrote(self, job: Job, n: int) -> None:
        """Report tiles whose nuclei were written."""
        self._move(job, WRITING * n / max(self._tiles.get(id(job), n), 1))

    def did(self, job: Job) -> None:
        """Report one of the job's tiles that was seen and written elsewhere."""
        self.saw_tiles(job, 1)
        self.wrote(job, 1)

    def ended(self, job: Job) -> None:
        """Report that a job has its result; whatever it has not moved the bar yet is added."""
        with self._lock:
            self._ended += 1
        self._move(job, 1.0)

    def _move(self, job: Job, share: float) -> None:
        """Move the bar by a share of the job, but not past the job's end."""
        with self._lock:
            share = min(share, 1.0 - self._moved[id(job)])
            self._moved[id(job)] += share
        self._bar.advance(share * self._share[id(job)], self._note(job))

    def _note(self, job: Job) -> str:
        name = job.input.path.name
        return name if self._n == 1 else f"{self._ended} of {self._n} done, {name}"


def shares_of(paths: Sequence[Path]) -> list[float]:
    """Return each file's share of the work; they add up to the number of files.

    Folders and missing files count as files of mean size.
    """
    sizes = [os.path.getsize(path) if path.is_file() else None for path in paths]
    known = [size for size in sizes if size]
    mean = sum(known) / len(known) if known else 1.0
    amounts = [size or mean for size in sizes]
    return [len(paths) * amount / sum(amounts) for amount in amounts]
