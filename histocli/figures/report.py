"""One self-contained HTML page for people: tables, charts and pictures; nothing is fetched,
whatever a file is called.

Every text passes :func:`html.escape`; the page forbids itself the network
(Content-Security-Policy). Charts are SVG with their numbers in words for screen readers. Tables
sort by buttons in their headings, so by keyboard too.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from histocli.figures.fates import COLOURS, KINDS

WIDTH, HEIGHT = 420, 220  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 40  # room for its axes


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text and numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    note: str = ""
    sortable: bool = False
    pictures: str | None = None
    """Of which galleries the first column links to the picture of that name, where there is one."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with a caption."""

    png: bytes
    title: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside each other."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""
    legend: bool = False
    """Whether the colours of verdicts are explained."""
    wide: bool = False
    """One picture a row."""
    group: str = ""
    """What tables call these pictures."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars of one or two distributions over the same bins."""

    title: str
    edges: Sequence[float]
    series: Sequence[tuple[str, Sequence[float]]]
    """Name and number of each bin."""
    x_label: str
    y_label: str
    logarithmic: bool = False
    """Whether bins are as wide as their logarithm says."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines through points, such as a training curve."""

    title: str
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    """Name, and x and y of each point."""
    x_label: str
    y_label: str
    diagonal: bool = False
    """Whether equality is drawn, and both axes go from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts beside each other."""

    title: str
    charts: Sequence[Histogram | Lines]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Preformatted text that opens on demand."""

    title: str
    items: Sequence[tuple[str, str]]


Section = Table | Gallery | Charts | Details


def render_report(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page.

    Parameters
    ----------
    title, lead : str
        Heading, and a sentence or two below it.
    sections : sequence of Section
        In their order; empty ones are left out.

    Returns
    -------
    str
        HTML 5, whole.
    """
    kept = [section for section in sections if _is_filled(section)]
    pictures = [
        (each.group, picture.title)
        for each in kept
        if isinstance(each, Gallery)
        for picture in each.pictures
    ]
    anchors = {key: f"picture-{number}" for number, key in enumerate(dict.fromkeys(pictures))}
    links = "".join(
        f'<li><a href="#section-{number}">{_text(section.title)}</a></li>'
        for number, section in enumerate(kept)
    )
    body = "".join(
        f'<section id="section-{number}" aria-labelledby="heading-{number}"><h2 id="heading-{number}">{_text(section.title)}</h2>'
        f"{_body(section, anchors)}</section>"
        for number, section in enumerate(kept)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the results</a>\n'
        f'<header><h1>{_text(title)}</h1><p>{_text(lead)}</p><nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f'<main id="main">{body}</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n'
    )


def _is_filled(section: Section) -> bool:
    match section:
        case Table():
            return bool(section.rows)
        case Gallery():
            return bool(section.pictures)
        case Charts():
            return bool(section.charts)
        case Details():
            return bool(section.items)


def _body(section: Section, anchors: dict[tuple[str, str], str]) -> str:
    match section:
        case Table():
            return _note(section.note) + _table(section, anchors)
        case Gallery():
            kind = "gallery wide" if section.wide else "gallery"
            pictures = "".join(
                _picture(picture, anchors[section.group, picture.title])
                for picture in section.pictures
            )
            return (
                _note(section.note)
                + (_legend() if section.legend else "")
                + f'<div class="{kind}">{pictures}</div>'
            )
        case Charts():
            drawn = "".join(
                _histogram(chart) if isinstance(chart, Histogram) else _lines(chart)
                for chart in section.charts
            )
            return _note(section.note) + f'<div class="charts">{drawn}</div>'
        case Details():
            return "".join(
                f"<details><summary>{_text(name)}</summary><pre>{_text(content)}</pre></details>"
                for name, content in section.items
            )


def _text(value: str) -> str:
    """Escape for text and quoted attributes; control characters are shown, not obeyed."""
    return escape(
        "".join(
            c
            if c.isprintable() or c == "\n"
            else c.encode("unicode_escape", "surrogatepass").decode()
            for c in value
        )
    )


def _note(note: str) -> str:
    return f"<p>{_text(note)}</p>" if note else ""


def number(value: float | int | None) -> str:
    """Write a number for a table: whole ones whole, others with four digits; unknown ones as a
    dash.

    >>> number(3), number(0.12345), number(float("nan")), number(12345.6)
    ('3', '0.1235', '–', '12346')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        return str(value)
    return (
        f"{value:.4f}"
        if abs(value) < 10
        else f"{value:.2f}"
        if abs(value) < 1000
        else f"{value:.0f}"
    )


def _table(table: Table, anchors: dict[tuple[str, str], str]) -> str:
    head = "".join(
        f'<th scope="col"><button type="button">{_text(name)}<span aria-hidden="true"></span></button></th>'
        if table.sortable
        else f'<th scope="col">{_text(name)}</th>'
        for name in table.header
    )
    rows = []
    for row in table.rows:
        cells = []
        for column, value in enumerate(row):
            if isinstance(value, str):
                shown = _text(value)
                anchor = (
                    anchors.get((table.pictures, value))
                    if table.pictures is not None and column == 0
                    else None
                )
                if anchor is not None:
                    shown = f'<a href="#{anchor}">{shown}</a>'
                cells.append(
                    f'<th scope="row">{shown}</th>'
                    if column == 0
                    else f"<td{_short(value)}>{shown}</td>"
                )
            else:
                key = "" if value is None or not math.isfinite(value) else f"{value:.9g}"
                cells.append(f'<td class="n" data-v="{key}">{number(value)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    name = _text(table.title)
    kind = ' class="sortable"' if table.sortable else ""
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _short(value: str) -> str:
    """Keep short texts, such as intervals, on one line; long ones may break."""
    return ' class="t"' if len(value) < 28 else ""


def _picture(picture: Picture, anchor: str) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    name, caption = _text(picture.title), _text(picture.caption)
    return (
        f'<figure id="{anchor}"><img src="data:image/png;base64,{data}" alt="{name}: {caption}">'
        f"<figcaption><b>{name}</b> {caption}</figcaption></figure>"
    )


_MEANINGS = {
    "matched": "matched: IoU above one half",
    "missed": "missed: true, not found (filled)",
    "false": "false: found, not true (dotted)",
    "split": "split: one true nucleus, several found",
    "merged": "merged: several true nuclei, one found",
}


def _legend() -> str:
    items = "".join(
        f'<li><span class="swatch {kind}" style="--c: rgb{COLOURS[kind]}"></span>{_text(_MEANINGS[kind])}</li>'
        for kind in KINDS
    )
    return f'<ul class="legend">{items}</ul>'


# -----------------------------------------------------------------------------------------------------------------
# charts


def _chart(title: str, names: Sequence[str], spoken: str, inner: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{_text(title)}{_key(names)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(title)}. {_text(spoken)}">{inner}</svg></figure>'
    )


def _axes(
    x: Iterable[tuple[float, str]], y: Iterable[tuple[float, str]], x_label: str, y_label: str
) -> str:
    """Draw ticks at given places of the chart with their texts."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{_text(label)}</text>'
        for at, label in y
    )
    ticks += "".join(
        f'<text x="{at:.1f}" y="{bottom + 13}" text-anchor="middle">{_text(label)}</text>'
        for at, label in x
    )
    return (
        f'{ticks}<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{_text(x_label)}</text>'
        f'<text transform="translate(11 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{_text(y_label)}</text>'
    )


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between two, a few."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    step = min(
        (10 ** math.floor(math.log10(raw)) * nice for nice in (1, 2, 2.5, 5, 10)),
        key=lambda s: abs(s - raw),
    )
    return [
        float(value)
        for value in np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        * step
    ]


def _key(names: Sequence[str]) -> str:
    """Name the series, where there are several."""
    if len(names) < 2:
        return ""
    return "".join(
        f'<span class="key"><i class="k{k}"></i>{_text(name)}</span>'
        for k, name in enumerate(names)
    )


def _histogram(chart: Histogram) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    place = [math.log(edge) for edge in chart.edges] if chart.logarithmic else list(chart.edges)

    def at(value: float) -> float:
        return LEFT + (value - place[0]) / (place[-1] - place[0]) * (right - LEFT)

    tallest = max((max(values, default=0) for _, values in chart.series), default=0) or 1
    bars, spoken = [], []
    for k, (name, values) in enumerate(chart.series):
        for index, value in enumerate(values):
            left, width = at(place[index]), at(place[index + 1]) - at(place[index])
            part = width / len(chart.series)
            high = value / tallest * (bottom - TOP)
            label = f"{name}: {value:g} from {chart.edges[index]:g} to {chart.edges[index + 1]:g}"
            bars.append(
                f'<rect class="s{k}" x="{left + k * part + 0.5:.1f}" y="{bottom - high:.1f}" width="{max(part - 1, 0.5):.1f}" '
                f'height="{high:.1f}"><title>{_text(label)}</title></rect>'
            )
        spoken.append(f"{name}: {sum(values):g} in all")
    shown = range(0, len(chart.edges), max(1, len(chart.edges) // 6))
    x = [(at(place[index]), f"{chart.edges[index]:.3g}") for index in shown]
    y = [(bottom - value / tallest * (bottom - TOP), f"{value:g}") for value in _ticks(0, tallest)]
    inner = _axes(x, y, chart.x_label, chart.y_label) + "".join(bars)
    return _chart(chart.title, [name for name, _ in chart.series], "; ".join(spoken), inner)


def _lines(chart: Lines) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    points = np.array([point for _, line in chart.series for point in line], np.float64).reshape(
        -1, 2
    )
    points = points[np.isfinite(points).all(axis=1)]
    if chart.diagonal or not len(points):
        low, high = np.zeros(2), np.ones(2)
    else:
        low, high = points.min(axis=0), points.max(axis=0)
        high = np.where(high > low, high, low + 1)

    def at(point: npt.ArrayLike) -> tuple[float, float]:
        share = (np.asarray(point, np.float64) - low) / (high - low)
        return LEFT + share[0] * (right - LEFT), bottom - share[1] * (bottom - TOP)

    drawn, spoken = [], []
    if chart.diagonal:
        (x0, y0), (x1, y1) = at((0, 0)), at((1, 1))
        drawn.append(f'<line class="even" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    for k, (name, line) in enumerate(chart.series):
        places = [at(point) for point in line if all(map(math.isfinite, point))]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline class="l{k}" points="{path}"/>')
        if len(places) <= 40:
            drawn += [
                f'<circle class="s{k}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_text(name)}: {px:.4g}, {py:.4g}</title></circle>'
                for (x, y), (px, py) in zip(places, line, strict=False)
            ]
        if line:
            spoken.append(f"{name}: from {line[0][1]:.4g} to {line[-1][1]:.4g}")
    x = [(at((value, low[1]))[0], f"{value:g}") for value in _ticks(float(low[0]), float(high[0]))]
    y = [(at((low[0], value))[1], f"{value:g}") for value in _ticks(float(low[1]), float(high[1]))]
    inner = _axes(x, y, chart.x_label, chart.y_label) + "".join(drawn)
    return _chart(chart.title, [name for name, _ in chart.series], "; ".join(spoken), inner)


_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--panel:#f4f6f8;--line:#d0d7de;--link:#0550ae;
--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#b8578f}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--paper:#0d1117;--panel:#161b22;--line:#3d444d;
--link:#79b8ff;--s0:#56b4e9;--s1:#e69f00;--s2:#2bc79a;--s3:#d99ac5}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.25rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
p{max-width:70ch;margin:.5rem 0;overflow-wrap:anywhere}
header p{color:var(--soft)}
a{color:var(--link)}
nav ul,.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;padding:0;margin:.75rem 0}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.5rem}
:focus-visible{outline:3px solid var(--s1);outline-offset:2px}
.scroll{overflow:auto;max-height:36rem;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .65rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td{min-width:12rem}td.n,td.t{min-width:0;white-space:nowrap}td.n{text-align:right}
tbody th{font-weight:600;overflow-wrap:anywhere;min-width:9.5rem;max-width:22rem}
thead th{position:sticky;top:0;background:var(--panel);white-space:nowrap}
thead button{all:unset;cursor:pointer;font-weight:600;padding:.1rem .2rem}
thead button:focus-visible{outline:3px solid var(--s1)}
thead button span::after{content:"\\2195";opacity:.4;margin-left:.3rem}
th[aria-sort=ascending] button span::after{content:"\\2191";opacity:1}
th[aria-sort=descending] button span::after{content:"\\2193";opacity:1}
tbody tr:hover{background:var(--panel)}
figure{margin:0}
figcaption{font-size:.875rem;color:var(--soft);margin:.35rem 0;overflow-wrap:anywhere}
figcaption b{color:var(--ink)}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1.25rem}
.gallery.wide{grid-template-columns:1fr}
.gallery img{display:block;max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
.gallery figure:target img{outline:4px solid var(--s1)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem}
.chart{background:var(--panel);border-radius:6px;padding:.5rem .75rem}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}
svg text{fill:var(--ink)}.grid{stroke:var(--line)}.axis{stroke:var(--soft)}.even{stroke:var(--soft);stroke-dasharray:4 4}
.key{display:inline-block;margin-left:.8rem}.key i{display:inline-block;width:.7rem;height:.7rem;margin-right:.3rem}
.k0{background:var(--s0)}.k1{background:var(--s1)}.k2{background:var(--s2)}.k3{background:var(--s3)}
.s0{fill:var(--s0)}.s1{fill:var(--s1)}.s2{fill:var(--s2)}.s3{fill:var(--s3)}
polyline{fill:none;stroke-width:2}.l0{stroke:var(--s0)}.l1{stroke:var(--s1)}.l2{stroke:var(--s2)}.l3{stroke:var(--s3)}
.swatch{display:inline-block;width:1.1rem;height:1.1rem;vertical-align:-.2rem;margin-right:.4rem;background:#c9a0c0;
border:3px solid var(--c)}
.swatch.missed{background:var(--c)}.swatch.false{border-style:dotted}
details{margin:.5rem 0}summary{cursor:pointer}
pre{overflow:auto;background:var(--panel);padding:.75rem;border-radius:6px;font-size:.8rem;max-height:30rem}
@media print{.scroll{max-height:none}}
"""

_SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => {
      const cell = row.cells[column];
      return 'v' in cell.dataset ? (cell.dataset.v === '' ? NaN : Number(cell.dataset.v)) : cell.textContent;
    };
    const order = (a, b) => {
      if (typeof a === 'string' || typeof b === 'string') return String(a).localeCompare(String(b), 'en', {numeric: true});
      if (Number.isNaN(a) || Number.isNaN(b)) return (Number.isNaN(a) - Number.isNaN(b)) * (up ? 1 : -1);
      return a - b;
    };
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort((a, b) => order(a[0], b[0]) * (up ? 1 : -1));
    body.append(...rows.map(pair => pair[1]));
  }));
}
"""
