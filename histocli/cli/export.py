"""``histosynth export``: label stores -> files for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.formats import format_names
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.export import ExportConfig, parse_region


def export(
    context: typer.Context,
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORES", help="Label stores (.ome.zarr) that segment made. " + o.INPUTS
        ),
    ],
    out: Annotated[
        Path | None,
        o.option(
            "-o",
            "--out",
            help="Folder for the files; beside the stores by default.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str,
        o.option(
            "--format",
            metavar="LIST",
            help=f"What to write, comma-separated: {', '.join(format_names('export'))}.",
        ),
    ] = ",".join(ExportConfig.formats),
    slide: Annotated[
        str | None,
        o.option(
            "--slide",
            metavar="SLIDE|FOLDER",
            help="The slide, or a folder with it; for overlay and qc.",
            show_default=False,
        ),
    ] = ExportConfig.slide,
    region: Annotated[
        str | None,
        o.option(
            "--region",
            metavar="y0,x0,y1,x1",
            help="Part of the slide, in pixels of level 0; for tiff and overlay.",
            show_default=False,
        ),
    ] = None,
    mpp: o.Mpp = ExportConfig.mpp,
    seed: o.Seed = ExportConfig.seed,
    overwrite: o.Overwrite = False,
    on_error: o.OnError = o.DEFAULTS.on_error,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Write label stores as files for other programs: QuPath, napari, R, spreadsheets."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = ExportConfig(
        formats=o.parse_names(format, "--format"),
        slide=slide,
        region=parse_region(region),
        mpp=mpp,
        seed=seed,
    )
    running = o.execution(overwrite=overwrite, on_error=on_error, dry_run=dry_run)
    if print_config:
        print_settings(context)
        return
    from histocli.stages.export import export as run  # late: keeps --help free of torch

    run(stores, out, settings, running, track=screen.track, report=screen.result)
    screen.raise_if_any_failed()
