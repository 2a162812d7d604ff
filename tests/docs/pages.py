"""The pages of README and docs: their order, their blocks of code, their links and headings."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: ``sh``, ``python`` or another language, and the mark behind it."""

    page: str
    line: int
    language: str
    mark: str
    text: str


def pages_in_order():
    """Return the paths of all pages that the site lists; its first one is the README."""
    nav = yaml.safe_load(re.sub(r"!!python\S*", "", (DOCS / "site" / "mkdocs.yml").read_text()))

    def leaves(node):
        if isinstance(node, str):
            return [node]
        values = node.values() if isinstance(node, dict) else node
        return [leaf for value in values for leaf in leaves(value)]

    listed = [DOCS / leaf for leaf in leaves(nav["nav"])]
    return [ROOT / "README.md" if path == DOCS / "index.md" else path for path in listed]


def blocks_of(path):
    """Return the fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            page=str(path.relative_to(ROOT)),
            line=text.count("\n", 0, found.start()) + 1,
            language=found[2],
            mark=found[3].strip(),
            text=re.sub(rf"^{found[1]}", "", found[4], flags=re.MULTILINE),
        )
        for found in FENCE.finditer(text)
    ]


def prose_of(path):
    """Return the text of a page without its blocks and its words of code."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", lambda found: "`" * len(found[0]), text)
