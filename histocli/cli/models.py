"""``histosynth models``: the models that come with the package."""

from typing import Annotated

import typer

from histocli.cli.console import Screen
from histocli.cli.options import command
from histocli.config.models import ModelsConfig


@command(example="histosynth models list")
def models(
    screen: Screen,
    action: Annotated[
        str,
        typer.Argument(
            metavar="list|path|verify",
            help="List them, print where one lies, or compare checksums.",
        ),
    ] = ModelsConfig.action,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Which one; path takes the default one.", show_default=False
        ),
    ] = ModelsConfig.name,
) -> None:
    """List the models that come with histosynth, or say where they lie.

    The table goes to stderr, paths and --json to stdout.
    """
    settings = ModelsConfig(action=action, name=name)
    from histocli.stages.models import models as run  # late: keeps --help free of torch

    found = run(settings)
    if settings.action == "list":
        names = [f"{each.name}{' (default)' if each.default else ''}" for each in found]
        sizes = [f"{each.mpp:g} um/px" for each in found]
        rows = list(zip(names, sizes, [each.description for each in found], strict=True))
        screen.table("Models", ("name", "pixel size", "what it is"), rows, numbers_from=3)
    for each in found:
        if screen.as_json:
            screen.print_json(each.to_json())
        else:
            screen.print_path(each.output)
