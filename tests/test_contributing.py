"""CONTRIBUTING.md names files and what they define; both have to be there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+) \| `([\w/]+\.py)` \| ([^|]+) \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def defined_in(path: Path) -> set[str]:
    """Return the names that a file defines, also ``Class.method``, without imported ones."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f"{node.name}.{each.name}" for each in inner if hasattr(each, "name")}
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                found.add(target.id)
    return found


@pytest.mark.parametrize(("request_", "path", "names"), ROWS)
def test_a_request_begins_where_the_table_says(request_, path, names):
    wanted = set(re.findall(r"`([^`]+)`", names))
    assert wanted
    assert wanted <= defined_in(ROOT / "histocli" / path), request_


def test_the_table_has_no_request_twice():
    assert len(ROWS) == len({request for request, *_ in ROWS}) >= 20


def test_a_name_that_is_not_there_is_found(tmp_path):
    (tmp_path / "a.py").write_text("from x import b\nC = 1\nclass D:\n    def e(self): ...\n")
    assert defined_in(tmp_path / "a.py") == {"C", "D", "D.e"}
