"""Rules of the package: imports between rooms, imports of heavy libraries, and sizes of code.

The folders of the package are called rooms and lie on floors:

Floor 3  cli                                typed words -> settings, errors -> exit codes
         api                                Python calls -> the same settings, arrays -> files
Floor 2  stages                             open stores, call rooms, write outputs
Floor 1  reference synthesis model training inference metrics realism figures
         slides annotations exports stores
Floor 0  optics instances config base

``ROOMS`` says which rooms a room may import, also inside functions and under TYPE_CHECKING.

Files, classes, functions and lines have a largest size; ``EXCEPTIONS`` lists larger ones with
reasons.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "histocli"
ROOT = Path(__file__).parents[1] / PACKAGE

ROOMS = {
    "base": set(),
    "weights": set(),
    "config": {"metrics", "base"},
    "optics": {"base"},
    "instances": {"base"},
    "model": {"optics", "base"},
    "slides": {"optics", "base"},
    "annotations": {"slides", "instances", "base"},
    "exports": {"instances", "figures", "base"},
    "stores": {"instances", "base"},
    "figures": {"instances", "base"},
    "reference": {"optics", "instances", "base"},
    "synthesis": {"reference", "optics", "instances", "base"},
    "training": {"model", "optics", "instances", "base"},
    "inference": {"model", "optics", "instances", "base"},
    "metrics": {"instances", "base"},
    "realism": {"reference", "training", "model", "optics", "instances", "base"},
    "stages": {
        "reference",
        "synthesis",
        "model",
        "training",
        "inference",
        "metrics",
        "realism",
        "figures",
        "slides",
        "annotations",
        "exports",
        "optics",
        "instances",
        "stores",
        "config",
        "base",
    },
    "cli": {"stages", "config", "metrics", "base"},
    # the same floor for Python programs: it calls stages with the same settings and knows no other
    # room, so that a change below the stages cannot change what programs rely on
    "api": {"stages", "config", "base"},
    "histosynth": set(),  # the package's other name, which re-exports it
}
"""For each room the other rooms that it may import."""

# The only folder of stages from which other stages may import.
SHARED_BY_STAGES = "shared"
# The stage that calls the others, one after the other: the whole chain in one command.
CHAIN = "run"
# --help imports these rooms, so they import heavy libraries only inside functions
LIGHT_ROOMS = {"base", "config", "cli"}
# --help lists metrics, so metrics.table is light too; light rooms import nothing else of metrics
HEAVY = {
    "torch",
    "zarr",
    "scipy",
    "skimage",
    "cv2",
    "tifffile",
    "imagecodecs",
    "safetensors",
    "openvino",
}


@dataclass(frozen=True)
class Import:
    """One imported module, its line, and whether it is imported outside functions."""

    module: str
    line: int
    at_import_time: bool


def imports_of(source: str) -> list[Import]:
    """Find all imports of a file, also inside functions."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import_time: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.Import):
                found.extend(
                    Import(alias.name, child.lineno, at_import_time) for alias in child.names
                )
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                found.append(Import(base, child.lineno, at_import_time))
                # "from histocli.stores import labels" names a module
                found.extend(
                    Import(f"{base}.{alias.name}", child.lineno, at_import_time)
                    for alias in child.names
                )
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    visit(ast.Module([part], []), False)
                for part in child.orelse:
                    visit(ast.Module([part], []), at_import_time)
            else:
                visit(child, at_import_time and not inside)

    visit(ast.parse(source), True)
    return found


def violations(path: str, source: str) -> list[str]:
    """Return a message for each import of a file (``room/file.py``) that breaks the rules."""
    parts = Path(path).parts
    if len(parts) == 1 or parts[0] == "histosynth":
        return []  # __init__ names what api and config offer, __main__ starts cli
    room, own = parts[0], Path(parts[1]).stem  # a stage is a file or a folder
    wrong = []
    for item in imports_of(source):
        where = f"{path}:{item.line}"
        words = item.module.split(".")
        if item.module.startswith("."):
            wrong.append(f"{where} imports {item.module}: imports name the full path")
        light = room in LIGHT_ROOMS or path == "metrics/table.py"
        if item.at_import_time and light and words[0] in HEAVY:
            wrong.append(f"{where} imports {words[0]} outside a function, so --help would load it")
        if words[0] != PACKAGE or len(words) == 1 or words[1] == "__version__":
            continue
        target = words[1]
        if target not in ROOMS:
            wrong.append(f"{where} imports {item.module}, which is in no room of the plan")
        elif target != room and target not in ROOMS.get(room, set()):
            wrong.append(f"{where}: {room} must not import {target}")
        elif room == "stages" and target == "stages":
            if own != CHAIN and len(words) > 2 and words[2] not in {SHARED_BY_STAGES, own}:
                wrong.append(f"{where}: a stage must not import another one ({words[2]})")
        elif target == "metrics" and room in LIGHT_ROOMS and words[2:3] != ["table"]:
            wrong.append(f"{where}: {room} may see metrics.table alone of metrics")
        elif room == "cli" and target == "stages" and item.at_import_time:
            wrong.append(f"{where}: cli imports stages inside the command function only")
    return sorted(set(wrong))


MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_CLASS = 200
MOST_LINES_OF_A_FUNCTION = 60  # from the def to the end, with the docstring
MOST_PARAMETERS = 8  # without self
MOST_CHARACTERS_OF_A_LINE = 100

EXCEPTIONS: dict[str, str] = {}
"""Reasons for larger sizes, by name as in :func:`oversized`."""


def definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield classes and functions with their names, ``prefix`` and ``Class.method``."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


def oversized(path: str, source: str) -> dict[str, str]:
    """Return the size of each too large part of a file of the package, by name.

    Files are named ``room/file.py``, classes and functions ``room/file.py:name``.
    """
    lines = source.count("\n")
    found = {path: f"{lines} lines"} if lines > MOST_LINES_OF_A_FILE else {}
    for number, line in enumerate(source.split("\n"), 1):
        length = len(line.split("  # type: ignore")[0])  # must be on the line that it is about
        if length > MOST_CHARACTERS_OF_A_LINE:
            found[f"{path}:{number}"] = f"{length} characters"
    for name, node in definitions(ast.parse(source), f"{path}:"):
        lines = (node.end_lineno or 0) - node.lineno + 1
        if isinstance(node, ast.ClassDef):
            if lines > MOST_LINES_OF_A_CLASS:
                found[name] = f"a class of {lines} lines"
            continue
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        parameters = len(names) - (names[:1] in (["self"], ["cls"]))
        if lines > MOST_LINES_OF_A_FUNCTION:
            found[name] = f"{lines} lines"
        elif parameters > MOST_PARAMETERS:
            found[name] = f"{parameters} parameters"
    return found


def circles(sources: dict[str, str]) -> list[str]:
    """Return the files in a circle of imports; ``sources`` holds the text of each file by path."""
    names = {path.removesuffix(".py").removesuffix("/__init__"): path for path in sources}
    imported = {
        path: {
            names[target]
            for item in imports_of(source)
            if (target := item.module.removeprefix(f"{PACKAGE}.").replace(".", "/")) in names
        }
        for path, source in sources.items()
    }
    found = []
    for path in sources:
        reached, waiting = set(), [path]
        while waiting:
            below = imported[waiting.pop()] - reached
            reached |= below
            waiting += below
        if path in reached:
            found.append(path)
    return found


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_file_keeps_to_the_plan(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_nothing_is_too_large_but_what_has_a_reason():
    found: dict[str, str] = {}
    for path in FILES:
        found |= oversized(path, (ROOT / path).read_text(encoding="utf-8"))
    assert {name: size for name, size in found.items() if name not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() <= found.keys(), "an exception is no longer needed"
    assert all(EXCEPTIONS.values())


def test_no_file_imports_itself_by_way_of_others():
    assert circles({path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}) == []


@pytest.mark.parametrize(
    ("source", "name", "size"),
    [
        ("x = 1\n" * 401, "base/a.py", "401 lines"),
        ("class A:\n" + "    x = 1\n" * 200, "base/a.py:A", "a class of 201 lines"),
        ("def f():\n" + "    x = 1\n" * 60, "base/a.py:f", "61 lines"),
        ("#" * 101, "base/a.py:1", "101 characters"),
        (
            "class A:\n    def f(self, a, b, c, d, e, f, g, h, *, i): ...",
            "base/a.py:A.f",
            "9 parameters",
        ),
    ],
)
def test_what_is_too_large_is_found(source, name, size):
    assert oversized("base/a.py", source) == {name: size}
    for longer, shorter in (("    x = 1\n", ""), ("a, ", ""), ("x = 1\nx", "x"), ("##", "#")):
        source = source.replace(longer, shorter, 1)
    assert oversized("base/a.py", source) == {}


def test_circles_are_found():
    files = {
        "a/x.py": "def f():\n    from histocli.b.y import g",
        "b/y.py": "if TYPE_CHECKING:\n    from histocli.c import z",
        "c/z.py": "import histocli.a.x",
        "d/w.py": "from histocli.a.x import f",
    }
    assert circles(files) == ["a/x.py", "b/y.py", "c/z.py"]


def test_every_folder_is_a_room_with_a_sign():
    for folder in (path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert folder.name in ROOMS, folder.name
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def test_every_file_says_what_it_is():
    for path in FILES:
        assert ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))), path
        assert Path(path).name not in {"utils.py", "helpers.py", "misc.py"}, path


def test_the_plan_has_no_circles():
    floor: dict[str, int] = {}

    def height(room: str, above: tuple[str, ...] = ()) -> int:
        assert room not in above, f"circle: {above} -> {room}"
        if room not in floor:
            floor[room] = 1 + max(
                (height(below, (*above, room)) for below in ROOMS[room]), default=0
            )
        return floor[room]

    assert max(ROOMS, key=height) == "cli"
    assert height("base") == 1


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        (
            "metrics/a.py",
            "from histocli.stores.labels import open_labels",
            "metrics must not import stores",
        ),
        ("metrics/a.py", "from histocli import stores", "metrics must not import stores"),
        ("metrics/a.py", "import histocli.optics.density as d", "metrics must not import optics"),
        (
            "base/a.py",
            "def f():\n    from histocli.config.train import TrainConfig",
            "base must not import config",
        ),
        ("base/a.py", "import torch", "outside a function"),
        ("config/a.py", "class A:\n    import torch.nn", "outside a function"),
        (
            "cli/a.py",
            "try:\n    import numpy, zarr\nexcept ImportError:\n    pass",
            "outside a function",
        ),
        ("cli/a.py", "from histocli.stages.train import train", "inside the command function only"),
        (
            "cli/a.py",
            "def f():\n    from histocli.model.segmenter import Segmenter",
            "cli must not import model",
        ),
        ("metrics/table.py", "import numpy, scipy", "outside a function"),
        ("config/a.py", "from histocli.metrics.counts import Counts", "metrics.table alone"),
        ("stages/a.py", "from histocli.stages.train import train", "another one (train)"),
        ("stages/a.py", "from histocli.stages import train", "another one (train)"),
        ("stages/run/a.py", "from histocli.cli.app import run", "stages must not import cli"),
        ("stages/a.py", "from histocli.cli.app import run", "stages must not import cli"),
        ("api/a.py", "from histocli.stores.labels import open_labels", "must not import stores"),
        ("stages/a.py", "from histocli.api.segmenter import Segmenter", "must not import api"),
        ("stores/a.py", "from ..base import errors", "full path"),
        ("stores/a.py", "from histocli.utils import x", "in no room"),
        (
            "training/a.py",
            "if TYPE_CHECKING:\n    from histocli.stores.patches import PatchStore",
            "must not import stores",
        ),
    ],
)
def test_a_wrong_import_is_found(path, source, said):
    found = violations(path, source)
    assert found
    assert all(said in message for message in found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("base/a.py", "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"),
        ("cli/a.py", "def f():\n    from histocli.stages.train import train"),
        ("cli/a.py", "from histocli import __version__"),
        (
            "stages/a.py",
            "from histocli.stages.shared.results import x\nfrom histocli.stores.labels import y",
        ),
        ("stages/train/run.py", "from histocli.stages.train.plan import x"),
        ("stages/run/run.py", "from histocli.stages.train.run import train"),
        ("api/a.py", "import numpy\nfrom histocli.stages.train.run import train"),
        ("__init__.py", "from histocli.api.segmenter import Segmenter"),
        ("config/a.py", "from histocli.metrics.table import QUALITIES"),
        ("instances/a.py", "import torch\nfrom histocli.instances.matching import overlaps"),
    ],
)
def test_a_right_import_is_not_found(path, source):
    assert violations(path, source) == []
