"""The text of ``--help``: a sentence, an example, and the options by heading.

An option takes a row of two columns: its flags with a placeholder for the value, and its sentence
with default and environment variable. So the text can be read on terminals of 60 columns and more.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from histocli.config.options import RUN

WIDEST = 110  # columns beyond which lines are no longer easy to read
NAMES_SHARE = 0.42  # largest share of the width that the column of names takes
POSITIONALS = "Arguments"


def show_help(command: Any, context: Any) -> None:
    """Print the help of a command, or of the group of all commands, on stdout."""
    console = Console(highlight=False)
    width = min(console.width, WIDEST)
    for part in _parts(command, context, width):
        whole = isinstance(part, Text) and part.no_wrap
        console.print(part, width=None if whole else width, soft_wrap=bool(whole))


def _parts(command: Any, context: Any, width: int) -> Iterable[RenderableType]:
    """Yield the parts of the help, from top to bottom."""
    yield Text.assemble(("Usage: ", "bold"), f"{context.command_path} {_usage(command)}")
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        if text.startswith("Example: "):
            head, _, example = text.partition(" ")
            yield Text(f"\n{head}", "bold")
            # not broken into lines, so that it can be copied as it is
            yield Text(f"  {example}", "cyan", no_wrap=True, overflow="ignore")
        else:
            yield Text(f"\n{text}")
    commands = getattr(command, "commands", {})
    rows: dict[str, list[tuple[Text, Text]]] = {
        "Commands": [(Text(name, "cyan"), _sentence(one)) for name, one in commands.items()]
    }
    for each in command.get_params(context):
        if not getattr(each, "hidden", False):
            rows.setdefault(_heading(each), []).append((_names(each), _about(each, context)))
    yield Text()
    for heading, lines in rows.items():
        if lines:
            yield _panel(heading, lines, width)
    if command.epilog:
        yield Text(f"\n{command.epilog}")


def _usage(command: Any) -> str:
    """Return the words that a call of the command needs."""
    if hasattr(command, "commands"):
        return "COMMAND ..."
    needed = []
    for each in command.params:
        if each.param_type_name == "argument":
            several = "..." if each.nargs == -1 and " " not in str(each.metavar) else ""
            needed.append(f"{each.metavar}{several}")
        elif each.required:
            needed.append(f"{each.opts[0]} {each.metavar}")
    return " ".join([*needed, "[OPTIONS]"])


def _heading(parameter: Any) -> str:
    """Return the heading under which a parameter stands."""
    if parameter.param_type_name == "argument":
        return POSITIONALS
    return str(getattr(parameter, "rich_help_panel", None) or RUN)


def _names(parameter: Any) -> Text:
    """Return the flags of an option with a placeholder, or the name of a positional."""
    if parameter.param_type_name == "argument":
        return Text(parameter.metavar or parameter.name.upper(), "bold cyan")
    short = [flag for flag in parameter.opts if not flag.startswith("--")]
    long = [flag for flag in parameter.opts if flag.startswith("--")]
    flags = ", ".join([*short, "/".join([*long, *parameter.secondary_opts])])
    if parameter.is_flag or parameter.count:
        return Text(flags, "cyan")
    # Versions of Typer differ in whether an option knows its type.
    kind = getattr(parameter, "type", None)
    placeholder = parameter.metavar or getattr(kind, "name", "value").upper()
    return Text.assemble((flags, "cyan"), f" {placeholder}")


def _about(parameter: Any, context: Any) -> Text:
    """Return the sentence of a parameter, with its default and its environment variable."""
    more = []
    if parameter.required and parameter.param_type_name == "option":
        more.append("required")
    default = parameter.get_default(context, call=False)
    if (
        getattr(parameter, "show_default", False)
        and default not in (None, "", ())
        and default is not False
    ):
        more.append(f"default {_typed(parameter, default)}")
    if getattr(parameter, "envvar", None):
        more.append(str(parameter.envvar))
    said = Text(" ".join((parameter.help or "").split()))
    return Text.assemble(said, (f" ({', '.join(more)})", "dim")) if more else said


def _typed(parameter: Any, default: object) -> str:
    """Return a default as a user would type it."""
    return str(parameter.opts[0] if default is True else default)


def _sentence(command: Any) -> Text:
    """Return the first paragraph of a command's help."""
    return Text(" ".join((command.help or "").split("\n\n")[0].split()))


def _panel(heading: str, rows: list[tuple[Text, Text]], width: int) -> Panel:
    """Return a frame with a row for each option or command."""
    widest = max(len(name) for name, _ in rows)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=min(widest, int(NAMES_SHARE * width)), overflow="fold")
    grid.add_column(ratio=1)
    for row in rows:
        grid.add_row(*row)
    return Panel(Group(grid), title=heading, title_align="left", border_style="dim", expand=True)
