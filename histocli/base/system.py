"""How many processors the machine, its containers and its scheduler grant to this process."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cpus() -> int:
    """Count the processors this process may use.

    This is the smallest of affinity mask, cgroup quota and ``SLURM_CPUS_PER_TASK``; at least 1.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    counts = [len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1]
    with suppress(OSError, ValueError):  # no cgroup v2 here, or the quota is "max"
        quota, period = CGROUP_CPU_MAX.read_text().split()
        counts.append(int(quota) // int(period))
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit():
        counts.append(int(slurm))
    return max(1, min(counts))


def resolve_workers(workers: int) -> int:
    """Return ``workers``, or one worker per available processor when it is 0 ("auto")."""
    return workers if workers > 0 else available_cpus()
