"""Rows of results: one JSON object for each line of a file under ``benchmarks/results``."""

import json
import subprocess
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def commit() -> str:
    """Name the state of the code; ``+`` marks changes that are not committed."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "histocli")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_rows(path: Path, *rows: Row) -> None:
    """Append rows to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
