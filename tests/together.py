"""A command in several processes that train together, started without the seconds that
``torchrun`` needs.

The processes get the variables that ``torchrun`` sets. They are forked from a process that has
loaded the libraries already.
"""

import os
import socket
import sys
from multiprocessing import get_context
from pathlib import Path

LIBRARIES = ["torch", "torch.distributed", "histocli.cli.app", "histocli.stages.shared.session"]


def together(words: list[str], folder: Path, processes: int = 2) -> tuple[list[int], list[str]]:
    """Run the command line in a team of processes; return their exit codes and what each printed.

    ``folder`` is for files of what they print on stdout.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    team = [
        context.Process(
            target=_member, args=(words, folder / f"said-{rank}", rank, processes, port)
        )
        for rank in range(processes)
    ]
    for process in team:
        process.start()
    for process in team:
        process.join(600)
    said = [(folder / f"said-{rank}").read_text() for rank in range(processes)]
    return [process.exitcode for process in team], said


def _member(words: list[str], said: Path, rank: int, processes: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    from histocli.cli.app import run

    torch.set_num_threads(1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    code = run(words)
    sys.stdout.flush()
    sys.exit(code)
