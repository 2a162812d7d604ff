"""The benchmarks can be started, and what the documents cite exists.

A benchmark takes minutes to days, so no test runs one. These tests find what breaks most: a name of
the package that moved, a script or a document that is cited and is gone.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "rows")
FILES = sorted([*BENCHMARKS.glob("*.py"), *(ROOT / "examples").glob("*.py")])
FOLDERS = [ROOT / name for name in ("docs", "benchmarks", "examples", "histocli")]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for each in FOLDERS for path in each.rglob("*.md"))])
RESEARCH = ROOT / "docs" / "research"
COMMAND = re.compile(r"python (benchmarks/\w+\.py)")
AT_A_COMMIT = re.compile(r"git show [0-9a-f]{7}:(benchmarks/\w+\.py)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def script(name):
    """Import a script, which is no module of a package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def imported(path):
    """Return the names that a file takes from the package, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("histocli"):
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_shows_its_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        script(name).main()
    assert end.value.code == 0
    assert f"python benchmarks/{name}.py" in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_names_that_a_script_takes_from_the_package_exist(path):
    for module, name in imported(path):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_steps_that_speed_measures_exist():
    for owner, name, _ in script("speed").STEPS:
        assert callable(getattr(owner, name))


def test_rows_are_read_back(tmp_path):
    rows = script("rows")
    path = tmp_path / "results" / "some.jsonl"
    assert rows.read_rows(path) == []
    rows.append_rows(path, {"a": 1})
    rows.append_rows(path, {"a": 2}, {"a": None})
    assert rows.read_rows(path) == [{"a": 1}, {"a": 2}, {"a": None}]


def test_the_readme_of_the_benchmarks_names_every_script():
    text = (BENCHMARKS / "README.md").read_text()
    for name in SCRIPTS:
        assert f"python benchmarks/{name}.py" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_cites_exists(document):
    """Every link leads to a file. A command names a script of this tree; in a study that is
    settled, it may also name one that the document says to take from a commit.
    """
    text = document.read_text()
    for link in LINK.findall(text):
        assert (document.parent / link).exists(), link
    then = AT_A_COMMIT.findall(text) if RESEARCH in document.parents else []
    if document == RESEARCH / "README.md":
        return
    for name in COMMAND.findall(text):
        assert (ROOT / name).exists() or name in then, name


def test_every_study_is_in_the_index():
    index = (RESEARCH / "README.md").read_text()
    for study in RESEARCH.glob("*.md"):
        assert study.name == "README.md" or f"({study.name})" in index


def test_the_example_in_the_rules_of_the_metrics_runs(capsys):
    text = (ROOT / "docs" / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "metrics.md", "exec"), {})
    assert capsys.readouterr().out == "0.8181818181818182 0.25 0\n"
