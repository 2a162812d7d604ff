"""The results of all inputs, in their order, and the status file of a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histocli.base.errors import HistosynthError, OutOfResources, Stopped
from histocli.base.files import disk_errors, make_parents
from histocli.stages.segment.job import Job
from histocli.stages.segment.results import Expected, SegmentResult, SlideFacts
from histocli.stages.shared.results import Status
from histocli.stores.provenance import now

STATUS_FILE = "status.jsonl"


class Ledger:
    """Keeps results, and reports each once it and all earlier ones are known.

    Parameters
    ----------
    keep_going : bool
        An error of one input becomes its result and does not end the command.
    report : callable
        Called with each result, in order; in any thread, one at a time.
    status_file : Path or None
        Receives a line for each input that is done or has failed.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        keep_going: bool,
        report: Callable[[SegmentResult], None],
        status_file: Path | None,
    ) -> None:
        self._jobs, self._keep_going = list(jobs), keep_going
        self._report, self._status_file = report, status_file
        self._lock = threading.RLock()
        self._by_job: dict[int, SegmentResult] = {}
        self._reported = 0
        # moves the progress bar, once there is one
        self.on_result: Callable[[Job], None] = lambda job: None

    @property
    def results(self) -> list[SegmentResult]:
        """All results, in order."""
        return [self._by_job[id(job)] for job in self._jobs]

    def has_failed(self, job: Job) -> bool:
        """Tell whether a job has ended with an error."""
        return id(job) in self._by_job and self._by_job[id(job)].status == "failed"

    def done(self, job: Job, status: Status, facts: SlideFacts | None) -> None:
        """Record a job whose outputs are complete."""
        self._record(job, status, **({} if facts is None else facts.to_result()))

    def planned(self, job: Job, expected: Expected, seconds: float) -> None:
        """Record what a dry run would make."""
        plan = expected.plan | {"seconds": round(seconds, 1)}
        self._record(job, "planned", mpp=expected.mpp, mpp_source=expected.mpp_source, plan=plan)

    @contextmanager
    def failures_of(self, job: Job) -> Iterator[None]:
        """Turn an error of an input into a failed result if ``keep_going``; raise other errors."""
        try:
            yield
        except (OutOfResources, Stopped):
            raise
        except HistosynthError as error:
            if not self._keep_going:
                self._note(self._result(job, "failed", error=str(error)))
                raise
            with self._lock:
                if not self.has_failed(job):
                    self._record(job, "failed", error=str(error))

    def _record(self, job: Job, status: Status, **values: Any) -> None:
        result = self._result(job, status, **values)
        with self._lock:
            self._by_job[id(job)] = result
            if status in ("done", "failed"):
                self._note(result)
            self.on_result(job)
            for waiting in self._jobs[self._reported :]:
                if id(waiting) not in self._by_job:
                    break
                self._report(self._by_job[id(waiting)])
                self._reported += 1

    def _result(self, job: Job, status: Status, **values: Any) -> SegmentResult:
        outputs = {name: str(path) for name, path in job.outputs.items()}
        return SegmentResult(
            input=str(job.input.path),
            output=next(iter(outputs.values())),
            outputs=outputs,
            status=status,
            seconds=job.watch.seconds,
            **values,
        )

    def _note(self, result: SegmentResult) -> None:
        """Append a line to the status file in one write, so that several processes may share it."""
        if self._status_file is None:
            return
        line = json.dumps(result.to_json() | {"time": now()}) + "\n"
        with disk_errors(self._status_file):
            make_parents(self._status_file)
            with self._status_file.open("ab", buffering=0) as stream:
                stream.write(line.encode("ascii"))
