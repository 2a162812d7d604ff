"""The result of ``segment`` for each slide, and the table of a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from histocli.base.types import Json
from histocli.stages.shared.results import StageResult

BLURRED_SHARE = 0.3  # a slide with a larger share of its tissue out of focus is flagged
# so much ink is a stroke of a pen; on a small image so large a share of it
INK_MM2, INK_SHARE = 0.02, 0.05
CUT_SHARE = 0.01  # a slide with a larger share of cut nuclei is flagged
LEAST_TISSUE_MM2 = 0.02  # tissue of this area nearly always shows nuclei


@dataclass(frozen=True, kw_only=True)
class SegmentResult(StageResult):
    """The result of one input, a slide or a patch store; ``output`` is the first of ``outputs``."""

    schema: ClassVar[str] = "histosynth.segment/1"

    input: str
    """Path of the slide."""
    outputs: dict[str, str]
    """Paths of the outputs, by format."""
    nuclei: int | None = None
    """Number of nuclei."""
    mm2: float | None = None
    """Area in which nuclei were looked for, in square millimetres."""
    mpp: float | None = None
    """Micrometres per pixel of the slide."""
    mpp_source: str | None = None
    """Source of ``mpp``, such as ``given`` or ``assumed``."""
    n_cut: int | None = None
    """Number of nuclei that reach the border of the largest window around them; they may be cut."""
    empty: str | None = None
    """``nothing looked at``, or ``no nuclei`` on tissue; None for an ordinary result."""
    stain_distance: float | None = None
    """Distance of the slide's stain to those of the model's references (see
    :mod:`histocli.model.known_stains`); None where it was not measured."""
    far: bool = False
    """Whether that distance is larger than between the references."""
    blurred_share: float | None = None
    """Share of the tissue that is out of focus; None where it could not be measured."""
    ink_mm2: float | None = None
    """Area of the strokes of a pen, where no nuclei are looked for."""
    flags: tuple[str, ...] = ()
    """What may make the result wrong: ``out of focus``, ``pen``, ``foreign stain``, ``empty``,
    ``cut nuclei``."""
    plan: Json | None = None
    """In a dry run: number of tiles, and expected memory, disk space and time."""


@dataclass(frozen=True)
class SlideFacts:
    """Facts about a finished slide; the fields are those of :class:`SegmentResult`."""

    nuclei: int
    mm2: float
    mpp: float
    mpp_source: str
    n_cut: int = 0
    empty: str | None = None
    stain_distance: float | None = None
    far: bool = False
    blurred_share: float | None = None
    ink_mm2: float | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """What may make the result wrong, as in :class:`SegmentResult`."""
        ink_mm2 = self.ink_mm2 or 0.0
        found = {
            "out of focus": (self.blurred_share or 0.0) > BLURRED_SHARE,
            "pen": ink_mm2 > min(INK_MM2, INK_SHARE * (self.mm2 + ink_mm2)),
            "foreign stain": self.far,
            "empty": self.empty is not None,
            "cut nuclei": self.n_cut > CUT_SHARE * self.nuclei,
        }
        return tuple(name for name, there in found.items() if there)

    def to_result(self) -> Json:
        """Return the fields of :class:`SegmentResult` that are about the slide."""
        return {**vars(self), "flags": self.flags}


def facts_from(known: Json) -> SlideFacts:
    """Return the facts that an output records about its slide."""
    nuclei, mm2 = known["n_nuclei"], known["mm2"]
    empty = None
    if mm2 == 0:
        empty = "nothing looked at"
    elif nuclei == 0 and mm2 > LEAST_TISSUE_MM2:
        empty = "no nuclei"
    return SlideFacts(
        nuclei,
        mm2,
        known["mpp"],
        known["mpp_source"],
        known.get("n_cut", 0),
        empty,
        known.get("stain_distance"),
        known.get("far", False),
        known.get("blurred_share"),
        known.get("ink_mm2"),
    )


@dataclass(frozen=True)
class Expected:
    """The expected work for a slide, estimated in a dry run."""

    mpp: float
    mpp_source: str
    network_px: int
    """Pixels that will go through the network."""
    plan: Json
    """``SegmentResult.plan`` without the time."""


class Table(NamedTuple):
    """A table to print."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def plan_table(results: Sequence[SegmentResult]) -> Table:
    """Return the printed table of a dry run."""
    planned = [(result.input, result.plan) for result in results if result.plan is not None]
    rows: list[tuple[str, ...]] = [
        (
            Path(slide).name,
            f"{plan.get('mm2', 0):.3g}",
            str(plan["tiles"]),
            str(plan["memory_mb"]),
            f"{plan['disk_mb']:.0f}",
            f"{plan['seconds']:.0f}",
        )
        for slide, plan in planned
    ]
    if rows:
        tiles, disk, seconds = (
            sum(plan[name] for _, plan in planned) for name in ("tiles", "disk_mb", "seconds")
        )
        memory = max(plan["memory_mb"] for _, plan in planned)
        rows.append(
            (f"{len(rows)} slides", "", str(tiles), str(memory), f"{disk:.0f}", f"{seconds:.0f}")
        )
    header = ("slide", "mm2 of tissue", "tiles", "MB of memory", "MB of disk", "seconds")
    return Table("expected", header, rows)
