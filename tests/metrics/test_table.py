"""The table of metrics is the only place that lists them, and the documentation knows them all."""

import ast
import re
from pathlib import Path

import pytest

from histocli.metrics.counts import Counts
from histocli.metrics.table import ERRORS, METRICS, NAMES, QUALITIES, scores_of, shown_in

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "histocli"
TABLE = PACKAGE / "metrics" / "table.py"


def lists_of_metrics(source: str) -> list[int]:
    """Return the lines of lists, tuples, sets, dicts and calls that name three metrics or more."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                pass
            case ast.Dict(keys=parts):
                pass
            case ast.Call(keywords=keywords) if not isinstance(node.func, ast.Name):
                parts = [ast.Constant(each.arg) for each in keywords]
            case _:
                continue
        named = {part.value for part in parts if isinstance(part, ast.Constant)} & set(NAMES)
        if len(named) >= 3:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_no_other_file_lists_metrics(path):
    assert path == TABLE or lists_of_metrics(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source", ['A = ("dice", "aji", "pq")', 'A = {"dice": 1, "f1_55": 2, "hd95_um": 3}']
)
def test_a_list_of_metrics_is_found(source):
    assert lists_of_metrics(source) == [1]


def test_every_metric_is_in_the_documentation():
    """In the first column of the table; of the family of F1 the first and the last."""
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    family = {name for name in NAMES if re.fullmatch(r"f1_\d\d", name)}
    assert set(NAMES) - family <= named
    assert {"f1_50", "f1_55", "f1_95"} <= named


def test_names_differ_and_every_metric_is_a_quality_an_error_or_signed():
    assert len(set(NAMES)) == len(METRICS)
    assert set(QUALITIES).isdisjoint(ERRORS)
    assert all(metric.meaning for metric in METRICS)


def test_scores_come_in_the_order_of_the_table():
    scores = scores_of(Counts())
    assert tuple(scores) == NAMES
    assert all(scores[name] == 1 for name in QUALITIES)


def test_tables_with_less_room_show_some_metrics():
    for views in (("console",), ("report", "report differences")):
        assert set(shown_in(*views)) < set(NAMES)
