"""One self-contained HTML page for people: tables, charts and pictures.

The page is rendered from ``templates/report.html``, and every text is escaped. The page fetches
nothing, and its Content-Security-Policy forbids network access. Charts are SVG with their numbers
in words for screen readers. Tables are sorted by buttons in the headings, which work by keyboard.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from histocli.figures.charts import FRAME
from histocli.figures.fates import COLOURS
from histocli.figures.sections import Gallery, Section

MARK = "<!-- histosynth-report/1 -->"
"""Near the beginning of every report: an existing file without it is not overwritten."""


LEGEND = {
    "matched": "matched: IoU above one half",
    "missed": "missed: true, not found (filled)",
    "false": "false: found, not true (dashed)",
    "split": "split: one true nucleus, several found",
    "merged": "merged: several true nuclei, one found",
}


def render_report(title: str, lead: str, sections: Sequence[Section], *, verdict: str = "") -> str:
    """Return the page of a report.

    Parameters
    ----------
    title : str
    lead, verdict : str
        One or two sentences below the title, and one that stands out.
    sections : sequence of Section
        Sections without content are left out.

    Returns
    -------
    str
        HTML 5.
    """
    kept = [section for section in sections if getattr(section, section.content)]
    pictures = [
        (each.group, picture.title)
        for each in kept
        if isinstance(each, Gallery)
        for picture in each.pictures
    ]
    return (
        _environment()
        .get_template("report.html")
        .render(
            mark=Markup(MARK),
            title=title,
            lead=lead,
            verdict=verdict,
            sections=kept,
            anchors={key: f"picture-{n}" for n, key in enumerate(dict.fromkeys(pictures))},
            legend=[(kind, COLOURS[kind], meaning) for kind, meaning in LEGEND.items()],
            frame=FRAME,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("histocli", "figures/templates"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "score": lambda value: "–" if math.isnan(value) else f"{value:.3f}",
        "signed": lambda value: "–" if math.isnan(value) else f"{value:+.3f}",
        "sort_key": _sort_key,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "path": lambda path: quote(path, safe="/._-~", errors="surrogateescape"),
        "thousands": lambda count: f"{count:,}",
    }
    return environment


def _printable(value: Any) -> Any:
    """Write unprintable characters of a text as escapes, except newlines."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "surrogatepass").decode()
        for c in value
    )


def number(value: float | int | None) -> str:
    """Write a number for a table: integers whole, others with 4, 2 or 0 decimals, none as a dash.

    >>> number(3), number(0.12345), number(float("nan")), number(12345.6)
    ('3', '0.1235', '–', '12346')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return str(value)
    digits = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:.{digits}f}"


def _sort_key(value: float | int | None) -> str:
    """Write the number by which a table is sorted; an unknown number is an empty text."""
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"
