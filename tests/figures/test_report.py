"""The page: complete, valid enough for a strict parser, without network, and nothing from a file
name becomes markup."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.figures.charts import Histogram, Lines
from histocli.figures.report import (
    Charts,
    Details,
    Gallery,
    Picture,
    ReportTable,
    number,
    render_report,
)

NASTY = "<img src=x onerror=alert(1)>\"'&\n\x1b[31m.tif"
PNG = b"\x89PNG\r\n\x1a\n"
VOID = {"meta", "img"}


class Strict(HTMLParser):
    """Collects elements, and fails where tags do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser


def sections(name=NASTY):
    histogram = Histogram(
        title=name,
        edges=[1, 2, 4],
        series=[(name, [3, 1]), ("b", [0, 2])],
        x_label=name,
        y_label=name,
        logarithmic=True,
    )
    lines = Lines(title=name, series=[(name, [(0.0, 1.0), (2.0, 3.0)])], x_label=name, y_label=name)
    return [
        ReportTable(
            title=name,
            header=(name, "pq"),
            rows=[[name, 0.5], ["b", float("nan")]],
            note=name,
            sortable=True,
            pictures="g",
        ),
        ReportTable(title="empty", header=("a",), rows=[]),
        Gallery(
            title=name,
            pictures=[Picture(png=PNG, title=name, caption=name)],
            legend=True,
            group="g",
        ),
        Charts(
            title=name,
            charts=[
                histogram,
                lines,
                Lines(title="c", series=[("x", [])], x_label="", y_label="", diagonal=True),
            ],
        ),
        Details(title=name, texts=[(name, name)]),
    ]


def test_names_of_files_never_become_markup():
    page = render_report(NASTY, NASTY, sections())
    found = parse(page)
    assert [tag for tag, values in found.seen if "onerror" in values] == []
    assert sum(tag == "img" for tag, _ in found.seen) == 1
    assert sum(tag == "script" for tag, _ in found.seen) == 1
    assert "\x1b" not in page
    assert NASTY.replace("\x1b", "\\x1b") in found.text


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30))
def test_any_name_is_shown_as_it_is(name):
    found = parse(render_report("t", "l", sections(name)))
    assert sum(tag == "script" for tag, _ in found.seen) == 1
    title = next(
        values["aria-label"]
        for tag, values in found.seen
        if tag == "div" and values.get("role") == "region"
    )
    assert len(title) >= len(name)


def test_nothing_is_fetched():
    page = render_report("t", "l", sections("a"))
    found = parse(page)
    policy = next(
        values["content"]
        for tag, values in found.seen
        if values.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    for tag, values in found.seen:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href"):
            if name in values:
                assert values[name].startswith(("data:image/png;base64,", "#"))
    assert "url(" not in page
    assert "http" not in re.sub(r'http-equiv|"http://www.w3.org/[^"]*"', "", page)


def test_the_page_works_by_keyboard_and_for_readers():
    found = parse(render_report("t", "l", sections("a")))
    tags = [tag for tag, _ in found.seen]
    assert ("html", {"lang": "en"}) in found.seen
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
    assert all(values.get("alt") for tag, values in found.seen if tag == "img")
    assert all(values.get("aria-label") for tag, values in found.seen if tag == "svg")
    assert tags.count("button") == 2  # one a heading of the sortable table
    assert all(
        values.get("tabindex") == "0" for _, values in found.seen if values.get("role") == "region"
    )
    ids = [values["id"] for _, values in found.seen if "id" in values]
    assert len(set(ids)) == len(ids)
    links = [values["href"][1:] for tag, values in found.seen if tag == "a"]
    assert set(links) <= set(ids)
    assert "picture-0" in links


def test_empty_sections_are_left_out_and_equal_reports_are_equal():
    page = render_report("t", "l", sections("a"))
    assert "empty" not in page
    assert page == render_report("t", "l", sections("a"))


def test_light_and_dark():
    page = render_report("t", "l", [])
    assert "color-scheme:light dark" in page
    assert "prefers-color-scheme:dark" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("inf"), "–"), (7, "7"), (0.5, "0.5000"), (-12.3456, "-12.35")],
)
def test_numbers(value, text):
    assert number(value) == text
    assert number(np.float64(0.25)) == "0.2500"
