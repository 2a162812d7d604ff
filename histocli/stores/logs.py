"""The log folder ``<out>.log/`` beside an output: metrics as JSON lines, and preview pictures."""

import shutil
from contextlib import suppress
from pathlib import Path

import orjson

from histocli.base.files import disk_errors
from histocli.base.text import plain_json, valid_unicode
from histocli.base.types import Json

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
EVENTS_FOLDER = "tensorboard"


def log_path(target: Path) -> Path:
    """Return the folder beside an output that holds its metrics, previews and checkpoints."""
    return target.with_name(f"{target.name}.log")


def start_log(out: Path, *, keep: bool) -> None:
    """Make ``<out>.log/``; unless ``keep``, metrics and previews of an earlier run are removed."""
    folder = log_path(out)
    with disk_errors(out):
        folder.mkdir(parents=True, exist_ok=True)
        if not keep:
            pictures = (*folder.glob("preview-*.png"), folder / CURVES_FILE)
            for old in (folder / METRICS_FILE, *pictures):
                old.unlink(missing_ok=True)
            shutil.rmtree(event_path(out), ignore_errors=True)


def append_metrics(out: Path, values: Json) -> None:
    """Append one line to ``metrics.jsonl``; NaN becomes null."""
    with disk_errors(out), (log_path(out) / METRICS_FILE).open("ab") as stream:
        stream.write(orjson.dumps(valid_unicode(plain_json(values))) + b"\n")


def read_metrics(out: Path) -> list[Json]:
    """Return the objects in ``metrics.jsonl``, without damaged lines; none if there is no log."""
    rows = []
    with suppress(OSError):
        for line in (log_path(out) / METRICS_FILE).read_bytes().splitlines():
            with suppress(orjson.JSONDecodeError):
                rows.append(orjson.loads(line))
    return [values for values in rows if isinstance(values, dict)]


def event_path(out: Path) -> Path:
    """Return the folder of the event files of TensorBoard."""
    return log_path(out) / EVENTS_FOLDER


def preview_path(out: Path, step: int) -> Path:
    """Return the path of the preview picture of a training step."""
    return log_path(out) / f"preview-{step:06d}.png"
