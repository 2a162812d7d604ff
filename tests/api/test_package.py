"""The names that ``import histocli`` and ``import histosynth`` offer, and what they cost."""

import ast
import importlib.util
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import histocli

ROOT = Path(__file__).parents[2]
# beside the standard library, nothing may be loaded before a name is used
HEAVY = ("numpy", "torch", "zarr", "scipy", "skimage", "cv2", "tifffile", "pandas", "typer", "rich")


def test_importing_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import histocli; dir(histocli)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stdout.split()
    assert "histocli" in loaded
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []
    assert [name for name in loaded if name.startswith("histocli.")] == []


def test_configs_and_errors_come_without_the_libraries():
    code = (
        "import sys, histocli\n"
        "histocli.TrainConfig(steps=3), histocli.Execution(), histocli.HistosynthError\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"numpy", "torch", "zarr", "typer"} & set(done.stdout.split())


@pytest.mark.parametrize("name", [name for name in histocli.__all__ if name != "__version__"])
def test_every_name_is_there_and_documented(name):
    value = getattr(histocli, name)
    assert inspect.getdoc(value)
    assert value.__name__ == name
    assert name in dir(histocli)


def test_names_are_sorted_and_alike_for_type_checkers():
    """What is imported for type checkers is what is loaded on demand."""
    assert sorted(histocli.__all__) == sorted(set(histocli.__all__))
    tree = ast.parse(inspect.getsource(histocli))
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == {name: f"histocli.{place}" for name, place in histocli._PLACES.items()}
    assert set(checked) == set(histocli.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        histocli.Segmentor  # noqa: B018
    assert not hasattr(histocli, "__path__x")


@pytest.mark.parametrize("name", ["generate", "refine", "pack", "train", "evaluate", "compare"])
def test_functions_take_the_same_things_in_the_same_order(name):
    names = list(inspect.signature(getattr(histocli, name)).parameters)
    assert names.index("config") + 1 == names.index("execution")
    assert names[-1] == "progress"


def test_histosynth_is_the_same_package():
    """It lies inside histocli and is installed beside it; this loads it as it is installed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["histocli"]
    ((source, place),) = wheel["force-include"].items()
    assert place == "histosynth"
    folder = ROOT / source
    assert (folder / "py.typed").is_file()
    spec = importlib.util.spec_from_file_location("histosynth", folder / "__init__.py")
    histosynth = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(histosynth)
    assert histosynth.__all__ == histocli.__all__
    assert histosynth.__version__ == histocli.__version__
    for name in histocli.__all__:
        assert getattr(histosynth, name) is getattr(histocli, name), name
    assert dir(histosynth) == dir(histocli)


def test_types_are_announced():
    assert (Path(histocli.__file__).parent / "py.typed").is_file()
