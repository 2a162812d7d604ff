"""``histosynth info``: the contents of a store, model or slide as tables or JSON."""

from typing import Annotated

import typer

from histocli.cli.console import Screen
from histocli.cli.options import command
from histocli.config.common import Execution
from histocli.config.info import InfoConfig


@command(
    example="histosynth info synth.zarr",
    without=["device", "precision", "workers", "resume", "on_error", "dry_run"],
    overwrite_help="Replace an existing sheet.",
)
def info(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="Patch store, label store, model file or slide.")
    ],
    settings: InfoConfig,
    running: Execution,
    screen: Screen,
) -> None:
    """Describe a store, model or slide: contents, measured statistics, levels, pixel size, origin.

    The description goes to stderr, --json to stdout. A sheet is the only output and is written
    whole, so there is no --resume and no --dry-run.
    """
    from histocli.stages.info.run import info as run  # late: keeps --help free of torch

    result = run(store, settings, running)
    for title, rows in result.describe() if settings.everything else result.page():
        screen.table(title, ("", ""), rows, numbers_from=2)
    if not settings.everything:
        screen.say("--all prints every value, --json all for programs")
    if screen.as_json:
        screen.print_json(result.to_json())
    elif result.sheet is not None:
        screen.print_path(result.sheet)
