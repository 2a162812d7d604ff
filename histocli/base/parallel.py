"""Work shared out to processes: bounded, in any order, stopped at once."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from histocli.base.interrupts import raise_if_stopped

Job = TypeVar("Job")
Result = TypeVar("Result")
POLL_S = 0.2  # how soon a signal is noticed while workers are busy
AHEAD = 2  # jobs per worker that are handed out at a time, so that results do not pile up in memory


def single_threaded() -> None:
    """Make this process a worker: one thread for the libraries, and signals are the parent's to
    answer.
    """
    import cv2
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def map_unordered(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, when_stopped: str
) -> Iterator[tuple[Job, Result]]:
    """Apply a function to jobs, in this process or in others, and yield each job with its result as
    it is done.

    Parameters
    ----------
    function : callable
        Of the top level of a module, so that it can be sent to a process.
    jobs : iterable
    workers : int
        1 works here, one job after the other.
    when_stopped : str
        Message of the error when the user asks to stop: what is saved, and how to go on.

    Raises
    ------
    Stopped
        A stop was asked for; results yielded so far are the caller's.
    """
    if workers <= 1:
        for job in jobs:
            raise_if_stopped(when_stopped)
            yield job, function(job)
        return
    waiting: Iterator[Job] = iter(jobs)
    # a fresh interpreter: a fork would copy the threads' locks of torch and OpenCV without their
    # threads
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=single_threaded
    ) as pool:
        running: dict[Future[Result], Job] = {}
        try:
            while True:
                for job in islice(waiting, AHEAD * workers - len(running)):
                    running[pool.submit(function, job)] = job
                if not running:
                    return
                done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
                raise_if_stopped(when_stopped)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
