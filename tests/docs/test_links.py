"""All links of the Markdown files lead somewhere: to a file, and to a heading of it."""

import re
import unicodedata
from urllib.parse import unquote

import pytest

from tests.docs.pages import FENCE, ROOT, pages_in_order, prose_of

FOLDERS = ("", "docs", "benchmarks", "examples", "histocli")
PAGES = sorted(
    {path for folder in FOLDERS for path in (ROOT / folder).glob("*.md")}
    | set((ROOT / "docs").rglob("*.md"))
    | set((ROOT / "histocli").rglob("*.md"))
)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)


def anchors_of(path):
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).lower().strip()
        anchors.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for found in LINK.finditer(prose_of(page)):
        link = found[1] or found[2]
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / unquote(file)).resolve() if file else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_of(target), f"{page}: {link}"


def test_every_page_of_docs_can_be_reached():
    """From the README or from the list of pages of the site, by links."""
    waiting, seen = list(pages_in_order()), set(pages_in_order())
    for page in waiting:  # which grows
        for found in LINK.finditer(prose_of(page)):
            target = (page.parent / (found[1] or found[2]).partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in seen:
                seen.add(target)
                waiting.append(target)
    assert set((ROOT / "docs").rglob("*.md")) <= seen
