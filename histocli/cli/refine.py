"""``histosynth refine``: initial patch store -> refined patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.distributed import leads
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.options import ESSENTIAL, FILES, Option
from histocli.config.refine import RefineConfig


@o.command(
    example="histosynth refine synth.zarr -o refined.zarr", check=o.check_stop_after, trains=True
)
def refine(
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="Initial patch store, or - for its path on stdin."),
    ],
    out: Annotated[
        Path, Option("Patch store to create (.zarr).", short="-o", metavar="STORE", panel=ESSENTIAL)
    ],
    settings: RefineConfig,
    running: Execution,
    screen: Screen,
    refs: Annotated[
        list[str] | None,
        Option(
            "Reference images, folders or slides; repeatable. Without it, those that the store "
            "records.",
            metavar="REFS",
            panel=FILES,
        ),
    ] = None,
    stop_after: Annotated[int | None, o.STOP_AFTER] = None,
) -> None:
    """Make synthetic patches look like their references, by a GAN; labels stay as they are."""
    if not leads():
        screen.verbosity = -1  # of several processes, only the leading one prints
    o.check_output(out, ".zarr", "patch stores")
    meant = {
        o.MODELS: "a trained refiner lies in a refined store and is given by --model",
        o.IMAGES: "references are given by --refs; make a store with "
        "'histosynth generate IMAGES -o STORE' first",
    }
    o.refuse_by_suffix([store], "refine takes a patch store", meant)
    from histocli.stages.refine.run import refine as run  # late: keeps --help free of torch

    words, track = refs or [], screen.track
    result = run(store, words, out, settings, running, stop_after=stop_after, track=track)
    if leads():
        screen.result(result)
