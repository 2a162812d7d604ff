"""Nested JSON values as tables of names and values in text."""

from collections.abc import Iterator
from typing import Any, TypeAlias

from histocli.base.types import Json
from histocli.instances.histograms import DISTRIBUTION_KEYS, bars

Rows: TypeAlias = list[tuple[str, str]]
"""Names and values, as text."""

LINE_ITEMS = 8  # of a longer list of numbers, tables show the length and the range


def flatten(values: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every value of nested objects as text, with its dotted name.

    A dictionary with the keys of a distribution (mean, quantiles, range) becomes one value.

    >>> list(flatten({"area": {"mean": 30.25, "bins": [1, 2]}, "seed": None}))
    [('area.mean', '30.25'), ('area.bins', '1, 2'), ('seed', '-')]
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value.keys() == DISTRIBUTION_KEYS:
            text = {item: _as_text(number) for item, number in value.items()}
            middle = f"median {text['p50']}, 90 % within {text['p5']} to {text['p95']}"
            yield name, f"mean {text['mean']}, {middle}, all within {text['min']} to {text['max']}"
        elif isinstance(value, dict) and value:
            yield from flatten(value, f"{name}.")
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(item, (dict, list)) for item in value)
        ):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield from flatten(item, f"{name}[{index}].")
                else:
                    yield from flatten({f"{name}[{index}]": item})
        else:
            yield name, _as_text(value)


def bar_rows(name: str, both: Json) -> Rows:
    """Return two rows of bars, the histograms of references and patches, with their range."""
    low, high = (_as_text(float(both["edges"][end])) for end in (0, -1))
    return [
        (f"{name} {low} to {high}, {side}", f"|{bars(both[side])}|")
        for side in ("references", "patches")
        if both[side]
    ]


def _as_text(value: Any) -> str:
    if value is None or value in ({}, []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    if isinstance(value, list):
        numbers = [
            item for item in value if isinstance(item, (int, float)) and not isinstance(item, bool)
        ]
        if len(value) > LINE_ITEMS and len(numbers) == len(value):
            return f"{len(value)} numbers, {_as_text(min(numbers))} to {_as_text(max(numbers))}"
        return ", ".join(map(_as_text, value))
    return str(value)
