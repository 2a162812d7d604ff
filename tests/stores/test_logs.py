"""The log beside an output grows line by line, and begins anew when the work does."""

import json

import numpy as np

from histocli.stores.logs import append_metrics, log_path, preview_path, start_log


def lines(out):
    return [json.loads(line) for line in (log_path(out) / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_appended_as_plain_json(tmp_path):
    out = tmp_path / "m.safetensors"
    start_log(out, keep=False)
    append_metrics(out, {"step": np.int64(3), "loss": np.float32(0.5)})
    append_metrics(out, {"step": 4, "loss": float("nan")})
    assert lines(out) == [{"step": 3, "loss": 0.5}, {"step": 4, "loss": None}]


def test_a_resumed_log_goes_on_and_a_new_one_begins_anew(tmp_path):
    out = tmp_path / "m.safetensors"
    start_log(out, keep=False)
    append_metrics(out, {"step": 1})
    preview_path(out, 1).write_bytes(b"picture")
    (log_path(out) / "notes.txt").write_text("mine")
    start_log(out, keep=True)
    append_metrics(out, {"step": 2})
    assert lines(out) == [{"step": 1}, {"step": 2}]
    assert preview_path(out, 1).exists()
    start_log(out, keep=False)
    assert sorted(path.name for path in log_path(out).iterdir()) == ["notes.txt"]


def test_previews_sort_by_their_step(tmp_path):
    names = [preview_path(tmp_path / "m.safetensors", step).name for step in (5, 40, 12000)]
    assert names == sorted(names)
