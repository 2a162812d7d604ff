"""``histosynth export``: label stores -> files for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.drawing import Drawing
from histocli.config.export import ExportConfig
from histocli.config.options import ESSENTIAL, Option


@o.command(
    example="histosynth export out/ -o files/ --format csv,geojson",
    without=["device", "precision", "workers", "resume"],
)
def export(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORES", help="Label stores (.ome.zarr) that segment made. " + o.INPUTS
        ),
    ],
    settings: ExportConfig,
    drawing: Drawing,
    running: Execution,
    screen: Screen,
    out: Annotated[
        Path | None,
        Option(
            "Folder for the files; beside the stores by default.",
            short="-o",
            metavar="FOLDER",
            panel=ESSENTIAL,
        ),
    ] = None,
) -> None:
    """Write label stores as files for other programs: QuPath, napari, R, spreadsheets.

    A file is complete or absent, so there is no --resume: the same command makes the rest.
    """
    o.check_folder(out)
    from histocli.stages.export import export as run  # late: keeps --help free of torch

    run(stores, out, settings, running, drawing=drawing, track=screen.track, report=screen.result)
