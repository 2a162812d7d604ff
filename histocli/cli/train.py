"""``histosynth train``: patch stores -> model file."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.base.distributed import leads
from histocli.base.errors import InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.options import ESSENTIAL, FILES, Option
from histocli.config.train import TrainConfig

MEANT = {
    o.MODELS: "the model to write is named by -o/--out",
    o.IMAGES: "make a store with 'histosynth generate IMAGES -o STORE', or with 'pack' from images "
    "and labels",
}
"""What to do about positionals of another kind, by their suffixes."""


def _check(
    settings: TrainConfig,
    refs: list[str] | None,
    preview: Path | None,
    stop_after: int | None,
    **_: object,
) -> None:
    """Raise ``InvalidOption`` where ``--refs`` is missing or ``--preview`` has a wrong suffix."""
    o.check_stop_after(stop_after)
    if settings.teacher is not None and not refs:
        raise InvalidOption("--teacher names labels of the references: name these with --refs")
    if preview is not None and (not refs or preview.suffix.lower() != ".png"):
        raise InvalidOption(
            "--preview names a .png file for the references on which teacher and student disagree; "
            "it needs --refs"
        )


@o.command(
    example="histosynth train refined.zarr --refs refs/ -o model.safetensors",
    check=_check,
    trains=True,
)
def train(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE",
            help="Patch stores, each with an optional weight (labelled.zarr:2), or - for paths on "
            "stdin.",
        ),
    ],
    out: Annotated[
        Path,
        Option(
            "Model file to create (.safetensors).", short="-o", metavar="MODEL", panel=ESSENTIAL
        ),
    ],
    settings: TrainConfig,
    running: Execution,
    screen: Screen,
    refs: Annotated[
        list[str] | None,
        Option(
            "Unlabelled images, folders or slides for self-training; repeatable.",
            metavar="REFS",
            panel=ESSENTIAL,
            before="rounds",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        Option(
            "Picture of the references that teacher and student disagree on most, with --refs.",
            metavar="PNG",
            panel=FILES,
            before="reference_mpp",
        ),
    ] = None,
    stop_after: Annotated[int | None, o.STOP_AFTER] = None,
) -> None:
    """Train a nucleus segmenter on synthetic, refined or labelled patches."""
    if not leads():
        screen.verbosity = -1  # of several processes, only the leading one prints
    o.check_output(out, ".safetensors", "models")
    o.refuse_by_suffix(stores, "train takes patch stores", MEANT)
    from histocli.stages.train.run import train as run  # late: keeps --help free of torch

    result = run(
        stores,
        out,
        settings,
        running,
        refs=refs or [],
        stop_after=stop_after,
        preview=preview,
        track=screen.track,
    )
    if leads():
        screen.result(result)
