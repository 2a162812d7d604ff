"""The parts that a page for people is made of: tables, pictures, charts, bars, texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from histocli.figures.charts import Histogram, Lines


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
    """A ``Gallery.group``: names in the first column link to the pictures with that title."""
    title_ends: str = ""
    """What the titles of these pictures have after the names."""
    half: bool = False


class Link(NamedTuple):
    """A link to a file, by its path from the folder of the page."""

    text: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG or JPEG with a caption."""

    content: bytes
    title: str
    caption: str = ""
    flags: Sequence[str] = ()
    """Words that ask for attention, such as ``out of focus``."""
    links: Sequence[Link] = ()

    @property
    def kind(self) -> str:
        """Media type of the picture."""
        return "image/jpeg" if self.content.startswith(b"\xff\xd8") else "image/png"


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures beside each other. One that is clicked takes the whole width."""

    content: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]
    note: str = ""
    legend: bool = False
    """Whether a legend explains the outlines of :mod:`histocli.figures.fates`."""
    columns: int = 2
    """Pictures in a row, where the page is broad enough."""
    group: str = ""
    """The name by which ``ReportTable.pictures`` refers to this gallery."""
    half: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Charts beside each other."""

    content: ClassVar[str] = "charts"
    title: str
    charts: Sequence[Histogram | Lines]
    note: str = ""
    half: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Details:
    """Preformatted texts, each with its name, that open on demand."""

    content: ClassVar[str] = "texts"
    title: str
    texts: Sequence[tuple[str, str]]
    half: ClassVar[bool] = False


class Estimate(NamedTuple):
    """A mean with its interval; None where it is not known."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric of one or several models."""

    name: str
    meaning: str
    estimates: Sequence[Estimate]
    """One for each of ``Headline.models``, in 0..1."""
    difference: Estimate | None = None
    """Of two models: the second minus the first."""
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The metrics that a person looks for first, each with its interval on a scale of 0..1."""

    content: ClassVar[str] = "scores"
    title: str
    models: Sequence[str]
    scores: Sequence[Score]
    note: str = ""
    half: bool = True

    @property
    def span(self) -> tuple[float, float]:
        """The part of 0..1 that holds all intervals, rounded outwards to tenths."""
        ends = [
            end
            for score in self.scores
            for estimate in score.estimates
            for end in (estimate.value, *(estimate.interval or ()))
            if math.isfinite(end)
        ]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        low, high = max(math.floor(10 * low) / 10, 0.0), min(math.ceil(10 * high) / 10, 1.0)
        return (low, high) if low < high else (0.0, 1.0)


class Part(NamedTuple):
    """A part of a bar: the number of nuclei of a fate (:mod:`histocli.figures.fates`)."""

    fate: str
    text: str
    nuclei: int


class Bar(NamedTuple):
    """All nuclei of one side, parted by their fates."""

    title: str
    parts: Sequence[Part]

    @property
    def total(self) -> int:
        """Number of nuclei."""
        return sum(part.nuclei for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Fates:
    """Which mistakes there are, and how many: a bar for each side."""

    content: ClassVar[str] = "bars"
    title: str
    bars: Sequence[Bar]
    note: str = ""
    half: bool = True


class Tile(NamedTuple):
    """A number in large letters, and what it is."""

    number: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The few numbers that sum a page up."""

    content: ClassVar[str] = "tiles"
    title: str
    tiles: Sequence[Tile]
    half: ClassVar[bool] = False


Section = ReportTable | Gallery | Charts | Details | Headline | Fates | Tiles
"""The class variable ``content`` names the field that fills the section, and ``half`` whether two
sections have room beside each other on a broad page."""
