"""The page about Python: its table names what there is."""

import re
from pathlib import Path

import histocli

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_table_names_all_functions():
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(\w+)\(", row)}
    functions = {name for name in histocli.__all__ if name[0].islower()}
    assert named == functions | {"Segmenter"}
