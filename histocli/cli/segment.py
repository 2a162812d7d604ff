"""``histosynth segment``: slides and a model -> label stores."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.drawing import Drawing
from histocli.config.options import ESSENTIAL, Option
from histocli.config.segment import SegmentConfig

ModelChoice = Annotated[
    Path | None,
    Option(
        "Model file that 'histosynth train' made, or box:NAME for one of 'histosynth models'; "
        "without it, the default one.",
        metavar="MODEL",
        panel=ESSENTIAL,
    ),
]
Page = Annotated[
    Path | None,
    Option(
        "Page to write about all slides: thumbnails, counts, flags, links to the results.",
        metavar="FILE.html",
        panel=ESSENTIAL,
    ),
]


@o.command(example="histosynth segment slides/ -o out/")
def segment(
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="SLIDES",
            help=f"Slides, images, a manifest CSV (path, mpp, roi), or a patch store. {o.INPUTS}",
        ),
    ],
    out: Annotated[
        Path,
        Option(
            "Folder for the results, one set a slide, named after it.",
            short="-o",
            metavar="FOLDER",
            panel=ESSENTIAL,
        ),
    ],
    settings: SegmentConfig,
    drawing: Drawing,
    running: Execution,
    screen: Screen,
    model: ModelChoice = None,
    html: Page = None,
) -> None:
    """Label every nucleus of slides and images."""
    o.check_folder(out)
    o.refuse_by_suffix(slides, "segment takes images", {o.MODELS: "a model is given with --model"})
    if html is not None:
        from histocli.stages.shared.pages import check_page  # late: keeps --help free of numpy

        check_page(html, replace=True)
    from histocli.stages.segment.run import segment as run  # late: keeps --help free of torch

    results = run(
        slides,
        model,
        out,
        settings,
        running,
        drawing=drawing,
        track=screen.track,
        report=screen.result,
    )
    if running.dry_run:
        from histocli.stages.segment.results import plan_table

        screen.table(*plan_table(results))
    elif html is not None:
        from histocli.stages.segment.page import write_batch_page

        write_batch_page(html, results, track=screen.track)
        screen.print_path(str(html))
