"""The house has floors: which room may import which, and where heavy libraries may be loaded.

Floor 3  cli                                words -> config, errors -> exit codes
Floor 2  stages                             open stores, call rooms, write
Floor 1  reference synthesis model training inference metrics realism figures
         slides annotations exports stores
Floor 0  optics instances config base

Every import counts, also inside functions and under TYPE_CHECKING.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "histocli"
ROOT = Path(__file__).parents[1] / PACKAGE

ROOMS = {
    "base": set(),
    "weights": set(),
    "config": {"base"},
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
    "cli": {"stages", "config", "base"},
}
"""Beside itself, a room may import these."""

SHARED_BY_STAGES = {
    "shared",
    "cluster",
    "common",
    "drawing",
    "fresh",
    "hardness",
    "outputs",
    "pipelines",
    "real_patches",
    "scores",
    "tiled",
    "unlabelled",
}
"""What stages have in common; no stage imports another one..."""
WHOLE_STORY = "run"  # ...but the stage that runs them all
# imported by --help, so heavy libraries only load inside their functions
LIGHT_ROOMS = {"base", "config", "cli"}
HEAVY = {"torch", "zarr", "scipy", "skimage", "cv2", "tifffile", "imagecodecs", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One imported module, where, and whether it is loaded together with its file."""

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
                if base == PACKAGE or base.count(".") == 1:
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
    """Return what a file of the package (``room/file.py``) imports against the rules."""
    parts = Path(path).parts
    if len(parts) == 1:
        return []  # __init__ holds the version, __main__ starts cli
    room, own = parts[0], Path(parts[1]).stem  # a stage is a file or a folder
    wrong = []
    for item in imports_of(source):
        where = f"{path}:{item.line}"
        words = item.module.split(".")
        if item.module.startswith("."):
            wrong.append(f"{where} imports {item.module}: imports name the full path")
        if item.at_import_time and room in LIGHT_ROOMS and words[0] in HEAVY:
            wrong.append(f"{where} imports {words[0]} outside a function, so --help would load it")
        if words[0] != PACKAGE or len(words) == 1 or words[1] == "__version__":
            continue
        target = words[1]
        if target not in ROOMS:
            wrong.append(f"{where} imports {item.module}, which is in no room of the plan")
        elif target != room and target not in ROOMS.get(room, set()):
            wrong.append(f"{where}: {room} must not import {target}")
        elif room == "stages" and target == "stages" and own != WHOLE_STORY:
            if len(words) > 2 and words[2] not in SHARED_BY_STAGES | {own}:
                wrong.append(f"{where}: a stage must not import another one ({words[2]})")
        elif room == "cli" and target == "stages" and item.at_import_time:
            wrong.append(f"{where}: cli imports stages inside the command function only")
    return sorted(set(wrong))


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_file_keeps_to_the_plan(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


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
        ("stages/a.py", "from histocli.stages.train import train", "another one (train)"),
        ("stages/a.py", "from histocli.stages import train", "another one (train)"),
        ("stages/a.py", "from histocli.cli.app import run", "stages must not import cli"),
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
            "from histocli.stages.common import x\nfrom histocli.stores.labels import y",
        ),
        ("stages/run.py", "from histocli.stages.train import train"),
        ("instances/a.py", "import torch\nfrom histocli.instances.matching import overlaps"),
    ],
)
def test_a_right_import_is_not_found(path, source):
    assert violations(path, source) == []
