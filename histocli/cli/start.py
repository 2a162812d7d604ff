"""The start of the program: what a process needs before it imports anything else.

A process of ``segment`` or ``run`` may begin itself anew with another environment. Until then,
only modules of Python are imported, so that the command line is not imported twice.
"""

import os
import sys
from contextlib import suppress

from histocli.base.memory import c_library, tunables_against_gaps


def main() -> None:
    """Run the command line with the process's arguments and exit."""
    # By default, threads of OpenMP wait in busy loops. Where other processes need the same
    # processors, as on shared nodes and under quotas, that makes training ten times slower. OpenMP
    # reads this variable once, when torch loads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_closed_streams()
    if {"segment", "run"} & set(sys.argv[1:]):
        _begin_again_with_tunables()
    from histocli.cli.app import run  # late: a process that begins again has not imported it

    sys.exit(run(sys.argv[1:]))


def _open_closed_streams() -> None:
    """Let standard streams that the caller has closed lead nowhere.

    Otherwise the next file that is opened would get the number of a closed stream, and what is
    printed would end up in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _begin_again_with_tunables() -> None:
    """Restart the program with a setting of the C library that saves memory on large slides.

    The C library reads its settings from ``GLIBC_TUNABLES`` once, when a process starts.
    """
    tunables = tunables_against_gaps(c_library(), os.environ.get("GLIBC_TUNABLES", ""))
    if tunables is None or not sys.executable or getattr(sys, "frozen", False):
        return
    with suppress(OSError):  # where the restart fails, the program goes on without the setting
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, os.environ | {"GLIBC_TUNABLES": tunables})
