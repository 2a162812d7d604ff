"""``histosynth pack``: images and label images -> patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli.console import Screen
from histocli.cli.options import check_output, command
from histocli.config.common import Execution
from histocli.config.options import ESSENTIAL, Option
from histocli.config.pack import PackConfig


@command(
    example="histosynth pack images/ labels/ -o labelled.zarr",
    without=["device", "precision", "on_error"],
)
def pack(
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES", help="Images: files, folders, quoted globs, a manifest CSV."
        ),
    ],
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Labels with the same names: files or folders of all kinds that evaluate reads.",
        ),
    ],
    out: Annotated[
        Path, Option("Patch store to create (.zarr).", short="-o", metavar="STORE", panel=ESSENTIAL)
    ],
    settings: PackConfig,
    running: Execution,
    screen: Screen,
) -> None:
    """Make a patch store from your own labelled images, to train with."""
    check_output(out, ".zarr", "patch stores")
    from histocli.stages.pack import pack as run  # late: keeps --help free of numpy and zarr

    screen.result(run(images, labels, out, settings, running, track=screen.track))
