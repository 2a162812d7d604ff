"""``histosynth info``: what is in a store or model."""

from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.cli.settings import print_settings
from histocli.config.info import InfoConfig


def info(
    context: typer.Context,
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Patch store, label store, model file or slide.")
    ],
    sheet: Annotated[
        str | None,
        o.option(
            "--sheet",
            metavar="FILE.png",
            help="Picture to write: patches beside their outlines.",
            show_default=False,
        ),
    ] = InfoConfig.sheet,
    sheet_patches: Annotated[
        int, o.option("--sheet-patches", help="Patches on the sheet.")
    ] = InfoConfig.sheet_patches,
    seed: o.Seed = InfoConfig.seed,
    overwrite: Annotated[
        bool, o.option("--overwrite", help="Replace an existing sheet.", panel=o.RUNNING)
    ] = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
    as_json: o.AsJson = False,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Describe a store, model or slide: contents, measured statistics, levels, pixel size, origin.

    The description goes to stderr, --json to stdout.
    """
    screen: Screen = context.obj
    screen.configure(as_json=as_json, verbose=verbose, quiet=quiet)
    settings = InfoConfig(sheet=sheet, sheet_patches=sheet_patches, seed=seed)
    running = o.execution(overwrite=overwrite)
    if print_config:
        print_settings(context)
        return
    from histocli.stages.info import info as run  # late: keeps --help free of torch

    result = run(store, settings, running)
    for title, rows in result.describe():
        screen.table(title, ("", ""), rows, numbers_from=2)
    if as_json:
        screen.print_json(result.to_json())
    elif result.sheet is not None:
        screen.print_path(result.sheet)
