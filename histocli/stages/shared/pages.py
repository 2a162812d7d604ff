"""Rules of the pages that commands write: what may be replaced, and links from a page to files."""

from __future__ import annotations

import os
from pathlib import Path

from histocli.base.errors import InvalidOption, StoreExists
from histocli.base.files import replace_atomically
from histocli.figures.report import MARK


def check_page(target: Path, *, replace: bool, option: str = "--html") -> None:
    """Check, before the work, that a page can be written after it.

    ``InvalidOption`` is raised where the name does not end in ``.html``; ``StoreExists`` where
    another file lies at the target, or a page of ours that ``replace`` does not allow to go.
    ``option`` is the one that messages name.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"--html writes a web page, so its file ends in .html; got {target}")
    if target.is_dir():
        raise StoreExists(f"{target}: is a folder; choose another {option}")
    if target.exists():
        with target.open("rb") as stream:
            is_page = MARK.encode() in stream.read(400)
        if not is_page:
            raise StoreExists(
                f"{target}: exists and is no report of histosynth; choose another {option}"
            )
        if not replace:
            raise StoreExists(
                f"{target}: exists; replace it with --overwrite or choose another {option}"
            )


def write_page(target: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    with replace_atomically(target) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def path_from(page: Path, file: str) -> str:
    """Return the path of a file from the folder of a page; absolute on another drive."""
    try:
        found = os.path.relpath(file, page.parent)
    except ValueError:  # Windows
        found = os.path.abspath(file)
    return Path(found).as_posix()
