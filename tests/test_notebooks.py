"""The notebooks run from top to bottom on small data, and hold no outputs.

The code cells are executed as they stand, in one namespace, without Jupyter. After the cell that is
tagged ``parameters`` the test sets some of its names, as papermill does.
"""

import ast
import contextlib
import io
import json
import logging
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "first_slide": {"OUT": "out"},
    "own_tissue": {"OUT": "out", "PATCHES": 4, "PATCH_PX": 64, "STEPS": 2},
    "compare_models": {"PATCHES": 3, "PATCH_PX": 64},
}
"""Parameters of each notebook, for a run of seconds."""


def read(name):
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(book):
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", ())


def execute(source, namespace):
    """Run a cell; return the value that Jupyter would show below it."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    return (
        None
        if last is None
        else eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    )


def test_every_notebook_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_notebooks_hold_no_outputs(name):
    book = read(name)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    identifiers = [cell["id"] for cell in book["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    assert book["cells"][0]["cell_type"] == "markdown"
    for cell in code_cells(book):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert sum(map(is_parameters, code_cells(book))) == 1


@pytest.mark.parametrize("name", SMALL)
def test_the_parameters_that_are_made_small_are_there(name):
    (cell,) = filter(is_parameters, code_cells(read(name)))
    namespace = {}
    execute("".join(cell["source"]), namespace)
    assert set(SMALL[name]) <= set(namespace)


@pytest.mark.parametrize("name", SMALL)
def test_notebooks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("histocli"), "propagate", False)
    namespace, shown = {}, []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in code_cells(read(name)):
            value = execute("".join(cell["source"]), namespace)
            if is_parameters(cell):
                namespace.update(SMALL[name])
            if value is not None:
                picture = getattr(value, "_repr_png_", None)  # as Jupyter shows pictures
                shown.append(value)
                assert picture() if picture else repr(value)
    assert shown or printed.getvalue()
    if "OUT" in SMALL[name]:
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    else:
        assert list(tmp_path.iterdir()) == []
