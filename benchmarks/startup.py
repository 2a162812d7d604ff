"""How long commands take that have little to do, as whole processes.

    python benchmarks/startup.py --image IMAGE [--runs 5] [--against CHECKOUT]

Commands: ``help`` prints the help, ``done`` segments an image whose labels are there already,
``image`` segments it; a small image is meant. Absolute seconds depend on the machine and on what
else it does, so the package of another ``CHECKOUT`` can be run in turn with this one; ``ratio`` is
this one's time over the other's, the median of pairs. A row is appended to ``--results``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rows import RESULTS, ROOT, Row, append_rows, commit

COMMANDS = ("help", "done", "image")


class Seconds(NamedTuple):
    """What a process took."""

    wall: float
    processor: float


def words_of(command: str, image: Path, folder: Path, run: str) -> list[str]:
    """Return the words of a command line; ``run`` names the output of a run."""
    if command == "help":
        return ["--help"]
    out = folder / (command if command == "done" else run)
    return ["segment", str(image.absolute()), "--mpp", "0.25", "-o", str(out), "--quiet"]


def timed(checkout: Path, words: list[str]) -> Seconds:
    """Run the command line of a checkout once."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    # the child of a child: what it took is what all children of the middle process took
    code = (
        "import json, os, subprocess, sys, time; start = time.perf_counter();"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "wall = time.perf_counter() - start; took = os.times();"
        "print(json.dumps([wall, took.children_user + took.children_system]))"
    )
    call = [sys.executable, "-c", code, sys.executable, "-m", "histocli", *words]
    done = subprocess.run(
        call, env=environment, cwd=checkout, check=True, capture_output=True, text=True
    )
    return Seconds(*json.loads(done.stdout))


def measure(command: str, options: argparse.Namespace, folder: Path) -> Row:
    """Return the row of a command."""
    checkouts = [ROOT, *([options.against] if options.against else [])]
    runs: list[list[Seconds]] = []
    for run in range(options.runs + 1):
        runs.append([])
        for number, checkout in enumerate(checkouts):
            words = words_of(command, options.image, folder / str(number), str(run))
            runs[-1].append(timed(checkout, words))
    runs = runs[1:]  # the first one compiles modules, and makes what ``done`` finds
    row: Row = {"command": command}
    for index, kind in enumerate(Seconds._fields):
        row[f"{kind}_s"] = round(statistics.median(run[0][index] for run in runs), 3)
        if options.against:
            ratios = [run[0][index] / run[1][index] for run in runs]
            row[f"{kind}_ratio"] = round(statistics.median(ratios), 3)
    return row


def main() -> None:
    """Measure and append rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, required=True, help="a small stained image")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", type=Path, help="folder of another state of the package")
    parser.add_argument("--results", type=Path, default=RESULTS / "startup.jsonl")
    options = parser.parse_args()
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as scratch:
            row = {"commit": commit()} | measure(command, options, Path(scratch))
        print(json.dumps(row))
        append_rows(options.results, row)


if __name__ == "__main__":
    main()
