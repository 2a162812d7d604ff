"""``histosynth run``: from references to labelled slides in one command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from histocli.base.errors import InvalidOption
from histocli.cli import options as o
from histocli.cli.console import Screen
from histocli.config.common import Execution
from histocli.config.options import ESSENTIAL, Option
from histocli.config.run import RunConfig

COUNTED = {
    "generate": {"patches": "patch"},
    "refine": {"patches": "patch"},
    "train": {"steps": "step"},
    "segment": {"slides": "slide", "nuclei": "nucleus"},
    "evaluate": {},
}
"""Counts that are told of each stage: the field of its result, and the singular."""


def _check(segment: list[str] | None, **_: Any) -> None:
    """Raise ``InvalidOption`` where no slides are named."""
    if not segment:
        raise InvalidOption(
            "--segment SLIDES is missing; name the slides to label, or use generate and train"
        )


@o.command(example="histosynth run refs/ --segment slides/ -o all/", check=_check)
def run(
    references: Annotated[
        list[str], typer.Argument(metavar="REFS", help=f"Unlabelled H&E images. {o.INPUTS}")
    ],
    out: Annotated[
        Path,
        Option(
            "Folder for all outputs and the report.", short="-o", metavar="FOLDER", panel=ESSENTIAL
        ),
    ],
    settings: RunConfig,
    running: Execution,
    screen: Screen,
    segment: Annotated[
        list[str] | None,
        Option(
            "Slides to label: a file, folder or quoted glob; repeatable.",
            metavar="SLIDES",
            panel=ESSENTIAL,
            before="n",
        ),
    ] = None,
    truth: Annotated[
        str | None,
        Option(
            "Labels of the slides, to score the nuclei against.",
            metavar="TRUTH",
            before="shippable",
        ),
    ] = None,
) -> None:
    """Go from unlabelled references to labelled slides: generate, train, segment, evaluate."""
    advice = "a model is used by 'histosynth segment SLIDES --model MODEL'"
    o.refuse_by_suffix(references, "run takes images", {o.MODELS: advice})
    from histocli.stages.run.run import run as chain  # late: keeps --help free of torch

    result = chain(
        references,
        segment or [],
        out,
        settings,
        running,
        truth=truth,
        track=screen.track,
        tell=lambda stage, values: screen.say(_line(stage, values)),
    )
    if running.dry_run:
        for stage in result.stages:
            screen.say(_line(stage["stage"], stage))
    screen.result(result)


def _line(stage: str, values: dict[str, Any]) -> str:
    """Return what a stage made in one line."""
    made = [
        f"{values[plural]:,} {one if values[plural] == 1 else plural}"
        for plural, one in COUNTED[stage].items()
        if values.get(plural) is not None
    ]
    if stage == "evaluate":
        from histocli.metrics.table import HEADLINE  # late: keeps --help free of its imports

        made = [f"{name} {values['mean'][name]:.3f}" for name in HEADLINE]
    status = {"skipped": "complete before", "planned": "planned"}.get(values["status"])
    took = status or f"in {values['seconds']:,.0f} s"
    return f"{stage}: {', '.join(made)} {took} -> {values['output']}"
