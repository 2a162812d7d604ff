"""``histosynth info``: description of a store, model or slide, and a sheet of its patches."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from histocli.base.errors import InvalidOption, InvalidStore, StoreExists
from histocli.base.formats import ATTRIBUTE
from histocli.base.types import Json, RGBImage
from histocli.config.common import Execution
from histocli.config.info import InfoConfig
from histocli.exports.pictures import png_bytes, write_png
from histocli.slides.open import is_slide_name
from histocli.stages.info.contents import (
    Description,
    describe_labels,
    describe_model,
    describe_slide,
)
from histocli.stages.info.page import page_rows, reference_rows
from histocli.stages.info.patches import describe_patches
from histocli.stages.info.tables import Rows, bar_rows, flatten
from histocli.stages.shared.results import StageResult, Status, Stopwatch
from histocli.stores import labels, models, patches
from histocli.stores.provenance import read_provenance


@dataclass(frozen=True, kw_only=True)
class InfoResult(StageResult):
    """Description of a store, model or slide, with counts of its contents."""

    schema: ClassVar[str] = "histosynth.info/1"

    kind: str
    """``patches``, ``labels``, ``model`` or ``slide``."""
    contract: str
    """Name and version of the file format; for a slide, the library that reads it."""
    contents: Json
    references: list[Json]
    """Record of each reference, with the statistics that were measured on it."""
    provenance: Json
    sheet: str | None = None
    """Path of the PNG file that was written."""

    def page(self) -> list[tuple[str, Rows]]:
        """Return titled tables that fit on a page: what a person asks first."""
        histograms = self.contents.get("histograms", {})
        sections = [
            (
                f"{self.output} · {self.contract}",
                page_rows(self.kind, self.contents, self.provenance),
            ),
            (
                "references beside patches",
                [row for name, both in histograms.items() for row in bar_rows(name, both)],
            ),
            ("references", reference_rows(self.references)),
        ]
        if self.sheet is not None:
            sections.append(("sheet", [("path", self.sheet)]))
        return [(title, rows) for title, rows in sections if rows]

    def describe(self) -> list[tuple[str, Rows]]:
        """Return titled tables of all names and values as text; long lists are shortened."""
        provenance = {key: value for key, value in self.provenance.items() if key != "config"}
        contents = {key: value for key, value in self.contents.items() if key != "histograms"}
        histograms = self.contents.get("histograms", {})
        sections = [
            (f"{self.kind} · {self.contract}", [("path", self.output), *flatten(contents)]),
            (
                "references beside patches",
                [row for name, both in histograms.items() for row in bar_rows(name, both)],
            ),
            ("made by", list(flatten(provenance))),
            ("settings", list(flatten(self.provenance.get("config") or {}))),
        ]
        for number, reference in enumerate(self.references, 1):
            facts = {
                key: value for key, value in reference.items() if key not in ("name", "statistics")
            }
            rows = [*flatten(facts), *flatten(reference.get("statistics") or {})]
            sections.append(
                (f"reference {number} of {len(self.references)} · {reference['name']}", rows)
            )
        if self.sheet is not None:
            sections.append(("sheet", [("path", self.sheet)]))
        return [(title, rows) for title, rows in sections if rows]


def info(store: str, config: InfoConfig, execution: Execution) -> InfoResult:
    """Describe a store, model, slide or image.

    Parameters
    ----------
    store : str
        Path of a store, model, slide or image.
    config : InfoConfig
        May name a sheet to write.
    execution : Execution
        A dry run draws no sheet. With ``overwrite`` the sheet replaces another picture.

    Raises
    ------
    StoreNotFound
        Nothing lies at the path.
    InvalidStore
        The store or model is foreign, of an unknown version, unfinished or damaged.
    InvalidOption
        A sheet is asked for, but a model or slide has no patches or overview to draw.
    StoreExists
        Another file lies at the path of the sheet.
    """
    watch = Stopwatch()
    path = Path(store)
    opened = _describe(path)
    sheet: str | None = None
    status: Status = "done"
    if config.sheet is not None:
        if opened.draw is None:
            raise InvalidOption(
                f"--sheet: {path} holds no pictures; "
                "give a patch store, or the label store of a slide"
            )
        if execution.dry_run:
            status = "planned"
        else:
            sheet = config.sheet
            _write_sheet(Path(sheet), opened.draw(config), overwrite=execution.overwrite)
    return InfoResult(
        output=str(path),
        status=status,
        seconds=watch.seconds,
        kind=opened.kind,
        contract=opened.provenance.contract if opened.provenance else opened.contents["backend"],
        contents=opened.contents,
        references=[record.to_json() for record in opened.references],
        provenance=opened.provenance.to_json() if opened.provenance else {},
        sheet=sheet,
    )


def _describe(path: Path) -> Description:
    """Describe a file or folder, by its name and its provenance."""
    if path.is_dir():
        if _is_foreign_zarr(path):
            return describe_slide(path)
    elif path.exists():
        return describe_slide(path) if is_slide_name(path) else describe_model(path)
    provenance = read_provenance(path)
    match provenance.contract_name:
        case "histosynth-patches":
            return describe_patches(path)
        case "histosynth-labels":
            return describe_labels(path)
    raise InvalidStore(
        f"{path}: holds {provenance.contract}, which info does not know; "
        f"it knows {patches.CONTRACT}, {labels.CONTRACT} and {models.CONTRACT}"
    )


def _is_foreign_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr store of another program, such as an OME-Zarr slide."""
    if (path / ".zattrs").is_file() or (path / ".zarray").is_file():  # Zarr format 2; ours is 3
        return True
    try:
        attributes = json.loads((path / "zarr.json").read_bytes()).get("attributes") or {}
    except (OSError, ValueError, AttributeError):
        return False
    return ATTRIBUTE not in attributes and ("ome" in attributes or "multiscales" in attributes)


def _write_sheet(path: Path, sheet: RGBImage, *, overwrite: bool) -> None:
    """Write a picture, unless the same bytes lie at the path already."""
    if path.is_file() and not overwrite:
        if path.read_bytes() == png_bytes(sheet):
            return
        raise StoreExists(
            f"{path}: exists and is another picture; "
            "replace it with --overwrite or choose another --sheet"
        )
    write_png(path, sheet)
