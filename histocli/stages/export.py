"""``histosynth export``: label stores of slides -> files for other programs."""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from histocli.base.errors import (
    HistosynthError,
    InputNotFound,
    InvalidInput,
    InvalidOption,
    OutOfResources,
    Stopped,
)
from histocli.base.formats import FORMATS
from histocli.base.inputs import expand_inputs
from histocli.base.interrupts import raise_if_stopped
from histocli.base.progress import Track, silent
from histocli.config.common import Execution, as_dict, config_hash
from histocli.config.drawing import DRAWN, OUTLINES, Drawing
from histocli.config.export import ExportConfig
from histocli.exports.content import Window
from histocli.exports.registry import check_packages
from histocli.slides.open import open_slide
from histocli.slides.slide import Slide, shape_of, slide_stem
from histocli.stages.shared.frame import Plan, Work, carry_out
from histocli.stages.shared.outputs import write_output
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores.labels import LabelStore, open_labels
from histocli.stores.provenance import Provenance

STOPPED = "export: stopped; files that were finished are kept, the same command makes the others"
Report = Callable[["ExportResult"], None]


@dataclass(frozen=True, kw_only=True)
class ExportResult(StageResult):
    """One file that was made from one store."""

    schema: ClassVar[str] = "histosynth.export/1"

    input: str
    """Path of the store."""
    format: str
    """Name of the format of the file, a key of ``FORMATS``."""
    nuclei: int | None = None
    """Number of nuclei in the store."""


def export(
    stores: Sequence[str],
    out: Path | None,
    config: ExportConfig,
    execution: Execution,
    *,
    drawing: Drawing = OUTLINES,
    track: Track = silent,
    report: Report = lambda result: None,
) -> list[ExportResult]:
    """Write label stores of slides as files for other programs; return a result for each file.

    Parameters
    ----------
    stores, out, drawing
        Words as in :mod:`histocli.base.inputs`; folder for the files, None for those of the stores;
        the look of overlays.

    Raises
    ------
    InvalidOption
        The region leaves the slide, a format needs ``--slide``, or a package is missing.
    InputNotFound, InvalidStore, StoreExists
        As in all commands. With ``on_error="continue"``, errors of one file become failed results.
    """
    check_packages(config.formats)
    keep_going = execution.on_error == "continue"
    paths = expand_inputs(
        stores,
        suffixes=(FORMATS["ome-zarr"].suffix,),
        stdin=sys.stdin,
        what="label store",
        keep_missing=keep_going,
    )
    if config.region is not None and len(paths) > 1:
        raise InvalidOption(
            f"--region is a place on one slide, but {len(paths)} stores were given; give one"
        )
    results = []
    with track("export", len(paths) * len(config.formats)) as bar:
        for path, name in itertools.product(paths, config.formats):
            raise_if_stopped(STOPPED)
            watch = Stopwatch()
            stem = slide_stem(path)
            if config.region is not None:
                stem += "." + "-".join(map(str, config.region))
            target = (out or path.parent) / f"{stem}{FORMATS[name].suffix}"
            empty = ExportResult(input=str(path), output=str(target), format=name)
            try:
                result = _export(empty, config, drawing, execution, watch)
            except HistosynthError as error:
                if not keep_going or isinstance(error, OutOfResources | Stopped):
                    raise
                result = replace(empty, status="failed", seconds=watch.seconds, error=str(error))
            results.append(result)
            report(result)
            bar.advance(1, target.name)
    return results


def _export(
    empty: ExportResult,
    config: ExportConfig,
    drawing: Drawing,
    execution: Execution,
    watch: Stopwatch,
) -> ExportResult:
    """Write one file of a store; ``empty`` is its result without status and nuclei."""
    store, out = open_labels(empty.input), Path(empty.output)
    if store.layout != "slide":
        raise InvalidInput(
            f"{store.path}: holds the labels of patches; export takes those of slides"
        )
    window = _window(store, config)
    fingerprint = drawing.fingerprint(empty.format, _fingerprint(store, empty.format, config))
    made_with = as_dict(config) | (as_dict(drawing) if empty.format in DRAWN else {})

    def provenance(contract: str) -> Provenance:
        return Provenance(
            contract=contract, command="export", config=made_with, config_hash=fingerprint
        )

    def make(work: Work[ExportResult]) -> ExportResult:
        write_output(
            empty.format,
            out,
            store,
            lambda: _open_slide(store, config),
            provenance,
            drawing=drawing,
            window=window,
            seed=config.seed,
        )
        return work.planned

    plan = Plan(
        out=out,
        contract=FORMATS[empty.format].contract,
        fingerprint=fingerprint,
        planned=lambda: replace(empty, nuclei=store.n_nuclei),
        watch=watch,
    )
    return carry_out(plan, execution, make)


def _fingerprint(store: LabelStore, name: str, config: ExportConfig) -> str:
    """Return the fingerprint of a file; for a whole slide that of its store, as in ``segment``."""
    if config.region is None and not config.seed:
        return store.provenance.config_hash
    return config_hash(
        ExportConfig(region=config.region, seed=config.seed, formats=(name,)),
        labels=store.provenance.config_hash,
    )


def _window(store: LabelStore, config: ExportConfig) -> Window | None:
    if config.region is None:
        return None
    y0, x0, y1, x1 = config.region
    height, width = store.shape
    if y1 > height or x1 > width:
        raise InvalidOption(
            f"--region {y0},{x0},{y1},{x1}: leaves the slide, "
            f"which has {height} rows and {width} columns"
        )
    return slice(y0, y1), slice(x0, x1)


def _open_slide(store: LabelStore, config: ExportConfig) -> Slide:
    """Open the slide of a store, and check that its size in pixels is that of the store."""
    name = str(store.facts.get("source", {}).get("name", ""))
    if config.slide is None:
        shown = [name for name, form in FORMATS.items() if form.needs_pixels]
        raise InvalidOption(
            f"--format {' and '.join(shown)} show the slide; give {name} or its folder with --slide"
        )
    path = Path(config.slide)
    if path.is_dir() and (path / name).exists():
        path = path / name
    if not path.exists():
        raise InputNotFound(
            f"{path}: no such slide; --slide takes {name}, or the folder that holds it"
        )
    slide = open_slide(path, mpp=config.mpp if config.mpp is not None else store.mpp)
    found, wanted = shape_of(slide), store.shape
    if found != wanted:
        slide.close()
        raise InvalidInput(
            f"{path}: has {found[0]} x {found[1]} pixels, "
            f"but {store.path} is of {wanted[0]} x {wanted[1]}: another slide"
        )
    return slide
