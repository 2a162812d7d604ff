"""Jobs come back with their results, here or in other processes, and a stop is heard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from histocli.base import interrupts, parallel
from histocli.base.errors import InvalidInput, Stopped
from histocli.base.parallel import map_unordered


def square(job):
    return job * job


def process_of(job):
    return os.getpid()


def fail_at_nine(job):
    if job == 9:
        raise InvalidInput("job 9: is bad")
    return job * job, os.getpid()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_works_here_in_order(workers):
    assert list(map_unordered(square, range(5), workers, "stopped")) == [
        (job, job * job) for job in range(5)
    ]
    assert {pid for _, pid in map_unordered(process_of, range(3), workers, "stopped")} == {
        os.getpid()
    }


def test_one_worker_takes_jobs_as_they_are_asked_for():
    taken = []

    def jobs():
        for job in range(100):
            taken.append(job)
            yield job

    results = map_unordered(square, jobs(), 1, "stopped")
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    assert taken == [0, 1]


def test_a_stop_is_heard_between_jobs(monkeypatch):
    asked = iter([False, False, True])
    monkeypatch.setattr(interrupts, "stop_requested", lambda: next(asked))
    results = map_unordered(square, range(9), 1, "two are kept")
    assert [next(results)[0], next(results)[0]] == [0, 1]
    with pytest.raises(Stopped, match="two are kept"):
        next(results)


def no_libraries():
    """Prepare a worker that needs neither torch nor OpenCV, which take seconds to load."""


def test_processes_work_and_tell_errors(monkeypatch):
    monkeypatch.setattr(parallel, "single_threaded", no_libraries)
    results = map_unordered(fail_at_nine, range(10), 2, "stopped")
    # of ten jobs four are handed out ahead, so five are done before the last
    found = dict(next(results) for _ in range(5))
    assert all(result[0] == job * job for job, result in found.items())
    assert os.getpid() not in {result[1] for result in found.values()}
    with pytest.raises(InvalidInput, match="job 9: is bad"):
        list(results)


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "print('began')\n"
        "from histocli.base import parallel\n"
        "parallel.single_threaded = None\n"  # torch takes seconds to load
        "print(sorted(parallel.map_unordered(abs, range(-4, 0), 2, 'stopped')))\n"
        "print(os.path.basename(__file__))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.stdout.splitlines() == [
        "began",
        "[(-4, 4), (-3, 3), (-2, 2), (-1, 1)]",
        "script.py",
    ], done.stderr
