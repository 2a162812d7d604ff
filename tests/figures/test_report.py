"""The page: complete, valid enough for a strict parser, without network, and nothing from a file
name becomes markup."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.figures.charts import Histogram, Lines
from histocli.figures.report import number, render_report
from histocli.figures.sections import (
    Bar,
    Charts,
    Details,
    Estimate,
    Fates,
    Gallery,
    Headline,
    Link,
    Part,
    Picture,
    ReportTable,
    Score,
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
    score = Score(
        name=name,
        meaning=name,
        estimates=[Estimate(0.5, (0.4, 0.6)), Estimate(float("nan"), None)],
        difference=Estimate(-0.01, (-0.02, 0.0)),
        p_value=0.07,
    )
    return [
        Headline(title=name, models=[name, "b"], scores=[score]),
        Fates(title=name, bars=[Bar(name, [Part("matched", name, 3), Part("missed", "m", 0)])]),
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
            pictures=[
                Picture(
                    content=PNG, title=name, caption=name, flags=[name], links=[Link(name, name)]
                )
            ],
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
                inside = values[name].startswith(("data:image/png;base64,", "#"))
                assert inside or (tag == "a" and values[name] == "a")  # a link to a file
    assert "url(" not in page
    assert "http" not in re.sub(r'http-equiv|"http://www.w3.org/[^"]*"', "", page)


def test_the_page_works_by_keyboard_and_for_readers():
    found = parse(render_report("t", "l", sections("a")))
    tags = [tag for tag, _ in found.seen]
    assert ("html", {"lang": "en"}) in found.seen
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
    assert all(values.get("alt") for tag, values in found.seen if tag == "img")
    drawn = [values for tag, values in found.seen if tag == "svg"]
    assert all(values.get("aria-label") or values.get("aria-hidden") for values in drawn)
    assert tags.count("button") == 2  # one a heading of the sortable table
    assert all(
        values.get("tabindex") == "0" for _, values in found.seen if values.get("role") == "region"
    )
    ids = [values["id"] for _, values in found.seen if "id" in values]
    assert len(set(ids)) == len(ids)
    links = [values["href"][1:] for tag, values in found.seen if tag == "a"]
    links.remove("")  # to a file, whose path is "a"
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


def test_the_scale_of_scores_holds_all_intervals():
    def span(*ends):
        estimates = [Estimate(low, (low, high)) for low, high in ends]
        score = Score(name="pq", meaning="", estimates=estimates)
        return Headline(title="t", models=["a"], scores=[score]).span

    assert span((0.52, 0.61)) == (0.5, 0.7)
    assert span((0.0, 0.3), (0.9, 1.0)) == (0, 1)
    assert span((0.5, 0.5)) == (0, 1)
    assert span((float("nan"), float("nan"))) == (0, 1)


def test_a_file_name_in_a_link_is_an_address():
    picture = Picture(content=b"\xff\xd8x", title="t", links=[Link("overlay", "a b/ü#?.png")])
    page = render_report("t", "l", [Gallery(title="g", pictures=[picture])])
    assert 'href="a%20b/%C3%BC%23%3F.png"' in page
    assert "data:image/jpeg;base64," in page


def test_a_verdict_stands_below_the_title():
    assert ">Verdict</b> a &lt; b</p>" in render_report("t", "l", [], verdict="a < b")
    assert "Verdict" not in render_report("t", "l", [])
