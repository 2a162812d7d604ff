"""One self-contained HTML page for people: tables, charts and pictures.

The page is the template ``templates/report.html``, which escapes every text. It fetches nothing and
forbids itself the network (Content-Security-Policy). Charts are SVG with their numbers in words for
screen readers. Tables sort by buttons in their headings, so by keyboard too.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from histocli.figures.charts import FRAME, Histogram, Lines
from histocli.figures.fates import COLOURS

MARK = "<!-- histosynth-report/1 -->"
"""Stands at the beginning of every report, so that only reports are overwritten."""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Rows of text and numbers."""

    content: ClassVar[str] = "rows"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""
    sortable: bool = False
    pictures: str | None = None
    """The group of galleries to whose pictures the names in the first column link."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with a caption."""

    png: bytes
    title: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside each other."""

    content: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    legend: bool = False
    """Whether the colours of fates are explained."""
    wide: bool = False
    """One picture a row."""
    group: str = ""
    """What tables call the pictures of this gallery."""


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts beside each other."""

    content: ClassVar[str] = "charts"
    title: str
    charts: Sequence[Histogram | Lines]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Preformatted texts, each with its name, that open on demand."""

    content: ClassVar[str] = "texts"
    title: str
    texts: Sequence[tuple[str, str]]


Section = ReportTable | Gallery | Charts | Details
"""``content`` names the field that a section is empty without."""

LEGEND = {
    "matched": "matched: IoU above one half",
    "missed": "missed: true, not found (filled)",
    "false": "false: found, not true (dotted)",
    "split": "split: one true nucleus, several found",
    "merged": "merged: several true nuclei, one found",
}


def render_report(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page, HTML 5: a heading, a lead of a sentence or two, and what is not empty."""
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
        "sort_key": _sort_key,
        "base64": lambda png: base64.b64encode(png).decode("ascii"),
    }
    return environment


def _printable(value: Any) -> Any:
    """Show control characters as escapes instead of obeying them."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "surrogatepass").decode()
        for c in value
    )


def number(value: float | int | None) -> str:
    """Write a number for a table: integers whole, others with four digits, unknown ones as a dash.

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
    """Write a number as tables are sorted by it; unknown ones are empty."""
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"
