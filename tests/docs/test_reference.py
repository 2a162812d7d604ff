"""The reference of the commands and the list of Python names are those of the package."""

import importlib.util
import re

import histocli
from histocli.cli.app import COMMANDS
from tests.docs.pages import DOCS, ROOT, pages_in_order


def test_the_reference_is_current():
    script = DOCS / "site" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (DOCS / "commands" / "reference.md").read_text(encoding="utf-8")
    assert written == module.reference(), f"run python {script.relative_to(ROOT)}"


def test_every_command_has_a_guide():
    guides = {path.stem for path in pages_in_order() if path.parent == DOCS / "commands"}
    assert guides == {function.__name__ for function in COMMANDS} | {"README", "reference"}


def test_the_reference_of_python_names_all_that_is_stable():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = [
        name for names in re.findall(r"members: \[(.*)\]", text) for name in names.split(", ")
    ]
    listed += re.findall(r"^::: histocli\.\w+\.\w+\.(\w+)$", text, re.MULTILINE)
    assert set(listed) == set(histocli.__all__) - {"__version__", "HistosynthError"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
