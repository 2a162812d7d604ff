"""The page about Python: its blocks run in order, and its table names what there is."""

import re
from pathlib import Path

import histocli

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    namespace = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "nuclei.safetensors",
        "nuclei.safetensors.log",
        "synth.zarr",
    ]
    shown = capsys.readouterr().out
    assert "segment: " in shown
    assert "mpp=" in shown


def test_the_table_names_all_functions():
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(\w+)\(", row)}
    functions = {name for name in histocli.__all__ if name[0].islower()}
    assert named == functions | {"Segmenter"}
