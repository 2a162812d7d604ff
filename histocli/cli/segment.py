"""``histosynth segment``: slides and a model -> label stores."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.formats import format_names
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.segment import TISSUE, SegmentConfig

SCALE = "Scale"  # panel of --help


def segment(
    context: typer.Context,
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDES",
            help=f"Slides, images, a manifest CSV (path, mpp, roi), or a patch store. {o.INPUTS}",
        ),
    ],
    out: Annotated[
        Path,
        o.option("-o", "--out", help="Folder for the results, one set a slide, named after it."),
    ],
    model: Annotated[
        Path | None,
        o.option(
            "--model",
            metavar="MODEL",
            help="Model file that 'histosynth train' made, or a name from 'histosynth models'; without it, the default one.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str,
        o.option(
            "--format",
            metavar="LIST",
            help=f"What to write, comma-separated: {', '.join(format_names('segment'))}.",
        ),
    ] = ",".join(SegmentConfig.formats),
    mpp: o.Mpp = SegmentConfig.mpp,
    tile_px: Annotated[
        int, o.option("--tile-px", help="Largest side of a network tile's kept core, in pixels.")
    ] = SegmentConfig.tile_px,
    views: Annotated[
        int,
        o.option(
            "--views",
            help="Orientations in which the network sees each tile, 1 to 8; the cost grows as much.",
        ),
    ] = SegmentConfig.views,
    tissue: Annotated[
        str,
        o.option(
            "--tissue",
            metavar="|".join(TISSUE),
            help="Look for nuclei on tissue only, or everywhere (none).",
        ),
    ] = SegmentConfig.tissue,
    roi: Annotated[
        str | None,
        o.option(
            "--roi",
            metavar="FILE|FOLDER",
            help="Regions to look at: GeoJSON in slide pixels, a mask image, or a folder with one for each slide.",
            show_default=False,
        ),
    ] = SegmentConfig.roi,
    max_memory: Annotated[
        str | None,
        o.option(
            "--max-memory",
            metavar="4G",
            help="Memory that the process may take.",
            panel=SCALE,
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        o.option(
            "--shard",
            metavar="i/N",
            help="Take the i-th of N shares of the slides; by default what a Slurm array says, else all.",
            panel=SCALE,
            show_default=False,
        ),
    ] = SegmentConfig.shard,
    scheduler: Annotated[
        str | None,
        o.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Dask scheduler whose workers do the work.",
            panel=SCALE,
            show_default=False,
        ),
    ] = SegmentConfig.scheduler,
    device: o.Device = o.DEFAULTS.device,
    precision: o.Precision = o.DEFAULTS.precision,
    workers: o.Workers = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    on_error: o.OnError = o.DEFAULTS.on_error,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Label every nucleus of slides and images."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = SegmentConfig(
        formats=o.parse_names(format, "--format"),
        mpp=mpp,
        tile_px=tile_px,
        views=views,
        tissue=tissue,
        roi=roi,
        max_memory=o.parse_gigabytes(max_memory, "--max-memory"),
        shard=shard,
        scheduler=scheduler,
    )
    running = o.execution(
        device=device,
        precision=precision,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        on_error=on_error,
        dry_run=dry_run,
    )
    if print_config:
        print_settings(context)
        return
    o.refuse_by_suffix(
        slides, "segment takes images", {(".safetensors",): "a model is given with --model"}
    )
    from histocli.stages.segment import segment as run  # late: keeps --help free of torch

    results = run(slides, model, out, settings, running, track=screen.track, report=screen.result)
    if dry_run:
        from histocli.stages.segment import plan_table

        screen.table(*plan_table(results))
    screen.raise_if_any_failed()
