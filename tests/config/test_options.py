"""What a flag holds is read as it was meant, or refused by name."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocli.base.errors import InvalidOption
from histocli.config.options import parse_duration, parse_gates, parse_region, parse_workers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1h0m30s", 3630),
        ("600", 600),
        ("0.5m", 30),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text, "--time-budget") == seconds


@given(st.text(max_size=8))
def test_any_other_text_is_refused_politely(text):
    with suppress(InvalidOption):
        assert parse_duration(text, "--time-budget") > 0


@pytest.mark.parametrize("text", ["", "1,2,3", "a,b,c,d", "1,2,3,-4"])
def test_regions_that_are_none(text):
    with pytest.raises(InvalidOption, match="--region"):
        parse_region(text, "--region")


def test_workers():
    assert parse_workers("auto", "--workers") == 0
    assert parse_workers("12", "--workers") == 12
    for text in ("", "-1", "two", "1.5", "9" * 50):
        with pytest.raises(InvalidOption, match="--workers"):
            parse_workers(text, "--workers")


def test_gates():
    assert parse_gates(["pq=0.55", "dice=0.7,f1=.5"], "--min") == (
        ("pq", 0.55),
        ("dice", 0.7),
        ("f1", 0.5),
    )
    assert parse_gates([], "--min") == ()
