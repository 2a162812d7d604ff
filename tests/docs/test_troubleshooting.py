"""Every message in the headings of the page about troubleshooting is one that the package has."""

import ast
import re

import pytest

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "troubleshooting.md"
MESSAGES = re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def texts():
    """Return all texts in the code of the package; a value in an f-string is a blank."""
    found = []
    for path in sorted((ROOT / "histocli").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [
                    each.value if isinstance(each, ast.Constant) else " " for each in node.values
                ]
                found.append("".join(parts))
    return [" ".join(text.split()) for text in found]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_package_has_the_message(message, texts):
    assert any(message in text for text in texts)


def test_there_are_messages():
    assert len(MESSAGES) > 12
