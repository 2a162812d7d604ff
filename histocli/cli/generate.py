"""``histosynth generate``: reference images -> patch store."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.generate import GenerateConfig
from histocli.config.options import ESSENTIAL, Option


@o.command(example="histosynth generate refs/ -o synth.zarr", without=["precision"])
def generate(
    references: Annotated[
        list[str], typer.Argument(metavar="REFS", help=f"Unlabelled H&E images. {o.INPUTS}")
    ],
    out: Annotated[
        Path, Option("Patch store to create (.zarr).", short="-o", metavar="STORE", panel=ESSENTIAL)
    ],
    settings: GenerateConfig,
    running: Execution,
    screen: Screen,
) -> None:
    """Draw synthetic H&E patches with nucleus labels, in the likeness of reference images."""
    o.check_output(out, ".zarr", "patch stores")
    advice = "a model is used by 'histosynth segment SLIDES --model MODEL'"
    o.refuse_by_suffix(references, "generate takes images", {o.MODELS: advice})
    from histocli.stages.generate.run import generate as run  # late: keeps --help free of torch

    screen.result(run(references, out, settings, running, track=screen.track))
