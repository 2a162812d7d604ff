"""``histosynth pack``: a person's images and labels -> patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.pack import PackConfig


def pack(
    context: typer.Context,
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="Folder or glob of images.")],
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Folder or glob of label images (TIFF, PNG, NPY) with the same stems.",
        ),
    ],
    out: Annotated[Path, o.option("-o", "--out", help="Patch store to create (.zarr).")],
    patch_px: Annotated[
        int, o.option("--patch-px", help="Side of a patch, in pixels.")
    ] = PackConfig.patch_px,
    mpp: o.Mpp = PackConfig.mpp,
    shippable: Annotated[
        bool,
        o.option(
            "--shippable/--not-shippable",
            help="Whether the licence of the images lets trained weights be given away.",
        ),
    ] = PackConfig.shippable,
    workers: o.Workers = "auto",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Make a patch store from your own labelled images, to train with."""
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = PackConfig(patch_px=patch_px, mpp=mpp, shippable=shippable)
    running = o.execution(workers=workers, resume=resume, overwrite=overwrite, dry_run=dry_run)
    if print_config:
        print_settings(context)
        return
    from histocli.stages.pack import pack as run  # late: keeps --help free of numpy and zarr

    screen.result(run(images, labels, out, settings, running, track=screen.track))
