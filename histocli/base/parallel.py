"""Run jobs in worker processes or threads, and stop soon when the user asks."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from histocli.base.interrupts import raise_if_stopped

Job = TypeVar("Job")
Result = TypeVar("Result")
# Jobs per worker that are submitted at a time; few, so that results do not fill the memory.
AHEAD = 2


def single_threaded() -> None:
    """Make this process a worker: libraries use one thread, and the parent answers signals."""
    import cv2
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def without_main_script() -> Iterator[None]:
    """Let workers that start in the context not import the script that runs.

    A fresh interpreter imports the main script under another name, to find the functions that the
    script defines. Ours never lie there, and a script that calls this package outside of ``if
    __name__ == "__main__"`` would begin anew in each worker.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name, None) for name in ("__file__", "__spec__")}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update({name: value for name, value in hidden.items() if value is not None})


def map_unordered(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, when_stopped: str
) -> Iterator[tuple[Job, Result]]:
    """Apply a function to jobs in worker processes; yield jobs and results as they are done.

    Parameters
    ----------
    function : callable
        A function of the top level of a module, so that it can be sent to a process.
    workers : int
        Number of processes; with 1, this process does one job after the other.
    when_stopped : str
        Message of the error when the user asks to stop: what is saved, and how to go on.

    Raises
    ------
    Stopped
        The user asked to stop; results that were yielded before stay valid.
    """
    if workers <= 1:
        for job in jobs:
            raise_if_stopped(when_stopped)
            yield job, function(job)
        return
    waiting: Iterator[Job] = iter(jobs)
    # Workers are fresh interpreters: a fork would copy the locks that threads of torch and OpenCV
    # hold, but not the threads.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=single_threaded
    ) as pool:
        running: dict[Future[Result], Job] = {}
        try:
            while True:
                with without_main_script():  # the pool starts a worker when it gets a job
                    for job in islice(waiting, AHEAD * workers - len(running)):
                        running[pool.submit(function, job)] = job
                if not running:
                    return
                # the timeout, in seconds, lets a signal be noticed while workers are busy
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                raise_if_stopped(when_stopped)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def map_in_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, when_stopped: str
) -> Iterator[Result]:
    """Apply a function to jobs in threads; yield results in the order of the jobs.

    At most four jobs per thread are submitted at a time, so that ``Stopped``, with the message
    ``when_stopped``, is raised soon.
    """
    waiting: Iterator[Job] = iter(jobs)
    with ThreadPoolExecutor(workers) as pool:
        running: list[Future[Result]] = []
        try:
            while True:
                raise_if_stopped(when_stopped)
                room = 4 * workers - len(running)
                running += [pool.submit(function, job) for job in islice(waiting, room)]
                if not running:
                    return
                yield running.pop(0).result()
        finally:
            for future in running:
                future.cancel()
